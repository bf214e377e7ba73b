"""Rows of a JSONL file as sequences of ids, checked before anything is computed.

A row is `{"messages": [...]}`, in every shape that `encode` takes, with `"images"` for parts that
have no picture; or `{"prompt": ..., "completion" or "answer": ..., "images" or "image": ...}`.
Paths are relative to the file.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from ..checks import shown
from ..engine.content import image_digest
from ..errors import PixtralError, PromptError
from ..files import expanded, read_file
from ..inputs.image_options import ImageOptions
from ..inputs.tokenizer import Tokenizer
from ..model.prompt import ImageSpan, Prompt, image_tokens

MOST_NAMED = 3
"""Of rows that cannot be used, so many are named."""
VALIDATION_SHARE = 10
"""Without rows of its own, validation takes one of so many."""

_SOURCES = ("image", "image_url", "url", "path", "document_url", "file")
"""Where parts of a message keep the path of a picture or document."""


class Picture(NamedTuple):
    """A picture of an example.

    Arguments:
        digest: of its pixels.
        span: where its tokens stand.
    """

    digest: str
    span: ImageSpan


@dataclass(frozen=True, eq=False)
class Example:
    """One sequence.

    Arguments:
        place: "train.jsonl, line 7".
        tokens: ids, int32, shape (L,).
        answers: where the answers stand, each with its end token.
        pictures: those that are in it.
        number: of its row in the file, counted from zero.
        part: which of the sequences of its row it is.
    """

    place: str
    tokens: np.ndarray
    answers: tuple[slice, ...]
    pictures: tuple[Picture, ...]
    number: int
    part: int = 0

    def with_pictures(
        self, others: Sequence[Picture], image_ids: tuple[int, int, int]
    ) -> "Example":
        """The same words around other pictures, as many as these."""
        pieces, answers, pictures, end, shift = [], list(self.answers), [], 0, 0
        for own, other in zip(self.pictures, others, strict=True):
            pieces.append(self.tokens[end : own.span.start])
            span = replace(other.span, start=own.span.start + shift)
            pieces.append(np.array(image_tokens(span.grid, image_ids), np.int32))
            pictures.append(Picture(other.digest, span))
            grown = span.stop - span.start - (own.span.stop - own.span.start)
            answers = [
                slice(a.start + grown, a.stop + grown) if a.start - shift >= own.span.stop else a
                for a in answers
            ]
            end, shift = own.span.stop, shift + grown
        pieces.append(self.tokens[end:])
        return replace(
            self,
            tokens=np.concatenate(pieces),
            answers=tuple(answers),
            pictures=tuple(pictures),
        )


class Rows:
    """The rows of one file.

    Arguments:
        file: JSONL.
        numbers: which of its rows, counted from zero; None: all.

    Raises:
        PromptError: it cannot be read, has no rows, or a line is no JSON object.
    """

    def __init__(self, file: Path, numbers: Sequence[int] | None = None):
        self.file = file
        self._rows = read_rows(file)
        self.numbers = range(len(self._rows)) if numbers is None else sorted(numbers)
        content = json.dumps([self._rows[number][1] for number in self.numbers])
        self.digest = hashlib.sha256(content.encode()).hexdigest()

    def place(self, number: int) -> str:
        """How a row is named."""
        return f"{self.file.name}, line {self._rows[number][0]}"

    def sequences(
        self, number: int, tokenizer: Tokenizer, options: ImageOptions
    ) -> list[tuple[Prompt, list[slice]]]:
        """A row as `Tokenizer.encode_answers` gives it.

        Raises:
            PixtralError: it cannot be used.
        """
        messages, images = as_conversation(self._rows[number][1], self.file.parent)
        return tokenizer.encode_answers(messages, images, options=options)


MOST_BYTES = 2_000_000_000
"""Of a file of rows, which may hold pictures."""


def read_rows(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """(number of the line, row) of each row.

    Raises:
        PromptError: as for `Rows`.
    """
    try:
        text = read_file(file, MOST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "not UTF-8 text"
        raise PromptError(f"{file}: {said}: give a JSONL file, or a folder of them") from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise PromptError(f"{file}, line {number}: not a JSON object: a row is one, on a line")
        found.append((number, row))
    if not found:
        raise PromptError(f"{file}: has no rows: give a JSONL file, one row on a line")
    return found


def as_conversation(row: Mapping[str, Any], folder: Path) -> tuple[list[Any], list[Any]]:
    """The messages of a row, the answer last, and the pictures for their empty parts.

    Raises:
        PromptError: it has neither messages, nor a prompt and an answer.
    """
    images = row.get("images")
    images = ([] if row.get("image") is None else [row["image"]]) if images is None else images
    if not isinstance(images, list):
        raise PromptError(f"images is {shown(images)}; allowed: a list")
    images = [_found(image, folder) for image in images]
    messages = row.get("messages")
    if messages is not None:
        if not isinstance(messages, list):
            raise PromptError(f"messages is {shown(messages)}; allowed: a list")
        return [_relative(message, folder) for message in messages], images
    answer = row.get("completion", row.get("answer"))
    if not isinstance(row.get("prompt"), str) or not isinstance(answer, str):
        raise PromptError(
            f"has {', '.join(map(str, row)) or 'nothing'}; allowed: messages, or prompt and "
            "completion (or answer), and images (or image)"
        )
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": row["prompt"]}]
    question = {"role": "user", "content": content if images else row["prompt"]}
    return [question, {"role": "assistant", "content": answer}], images


def _relative(value: Any, folder: Path) -> Any:
    """A message whose paths are those of the file's folder."""
    if isinstance(value, list):
        return [_relative(each, folder) for each in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: _found(each, folder) if key in _SOURCES and isinstance(each, str)
        else _relative(each, folder)
        for key, each in value.items()
    }  # fmt: skip


def _found(source: Any, folder: Path) -> Any:
    """A path as seen from the file; addresses and other things as they are."""
    if not isinstance(source, str) or "://" in source or source.startswith("data:"):
        return source
    return str(folder / expanded(source))


def find_rows(data: Path, val: Path | None, seed: int) -> tuple[Rows, Rows]:
    """The rows to learn from, and those to validate with.

    Arguments:
        data: a file, or a folder with train.jsonl and perhaps valid.jsonl.
        val: a file; None: valid.jsonl of the folder, else a tenth of the rows, chosen by `seed`.

    Raises:
        PromptError: a file is missing, or there are too few rows.
    """
    if data.is_dir():
        valid = data / "valid.jsonl"
        val = val or (valid if valid.is_file() else None)
        data = data / "train.jsonl"
    train = Rows(data)
    if val is not None:
        return train, Rows(val)
    count = len(train.numbers)
    if count < 2:
        raise PromptError(f"{data}: has one row: give more, or rows for validation with --val")
    chosen = Random(seed).sample(range(count), max(1, count // VALIDATION_SHARE))
    rest = sorted({*range(count)} - {*chosen})
    return Rows(data, rest), Rows(data, chosen)


def read_examples(
    rows: Rows,
    tokenizer: Tokenizer,
    options: ImageOptions,
    max_seq_length: int,
    show: Callable[[str, np.ndarray], None],
) -> Iterator[Example]:
    """Every row as examples; those that cannot be used are named together, at the end.

    Arguments:
        show: called with the digest and the pixels of each picture, which nobody keeps.

    Raises:
        PromptError: rows that cannot be used; one line names the first of them.
    """
    problems = []
    for number in rows.numbers:
        place = rows.place(number)
        try:
            for part, (prompt, answers) in enumerate(rows.sequences(number, tokenizer, options)):
                check_length(prompt, max_seq_length)
                digests = [image_digest(image) for image in prompt.images]
                if not problems:
                    for digest, image in zip(digests, prompt.images, strict=True):
                        show(digest, image)
                    pictures = tuple(map(Picture, digests, prompt.spans))
                    ids = np.array(prompt.tokens, np.int32)
                    yield Example(place, ids, tuple(answers), pictures, number, part)
        except PixtralError as error:
            problems.append(f"{place}: {error}")
    if problems:
        more = len(problems) - MOST_NAMED
        named = "; ".join(problems[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise PromptError(f"{len(problems)} of {len(rows.numbers)} rows cannot be used: {named}")


def check_length(prompt: Prompt, most: int) -> None:
    """Refuse a row that is too long, and say what would fit: it is never cut.

    Raises:
        PromptError: it is.
    """
    length = len(prompt.tokens)
    if length <= most:
        return
    pictures = [span.stop - span.start for span in prompt.spans]
    room = most - (length - sum(pictures))
    budget = room // len(pictures) if pictures else 0
    ways = [f"--max-seq-length {length}"]
    if budget >= 2:
        ways.append(f"--image-budget {budget}")
    raise PromptError(
        f"{length:,} tokens, {sum(pictures):,} of them pictures', and at most {most:,} are allowed:"
        f" {' or '.join(ways)} would fit"
    )
