"""`pixtral-mlx batch`: one question about many files, a row of JSON each."""

import hashlib
import json
import logging
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from ..engine.batch_stream import check_batch
from ..engine.reply import Reply
from ..errors import ImageError, PixtralError, one_line
from ..inputs.image_options import ImageOptions
from ..inputs.image_source import SUFFIXES, read_source, short_name
from ..inputs.page_choice import split_choice
from ..inputs.pages import has_pages, page_numbers
from .question import generation_options, image_options, load_model, question
from .row_file import Key, RowFile, RowStream, key_of, open_rows
from .settings import chosen_model
from .status import Status
from .stdin import read_stdin_text
from .streams import leaving_at_once
from .wrap import say

MOST_NAMED = 20
"""Failed files that are named at the end; the rows name all."""

# What the answers do not depend on; every other option is written into the rows.
_INDIFFERENT = {
    "command", "run", "default_of", "files", "output", "overwrite", "model", "prompt", "force",
    "batch_size", "prefill_step_size", "pdf_password_file",
}  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """What one row is about.

    Arguments:
        file: as it is named in the row.
        source: what is opened.
        page: of a PDF or TIFF, where each page has a row of its own.
    """

    file: str
    source: Path | str
    page: int | None = None

    @property
    def key(self) -> Key:
        """Of its row."""
        return self.file, self.page


def run(arguments: Namespace) -> int:
    """Answer for each file; what is in the output already is not asked again."""
    options = generation_options(arguments)
    pictures = image_options(arguments)  # a mistake of usage costs no loading
    check_batch(options, arguments.batch_size)
    prompt = read_stdin_text() if arguments.prompt == "-" else arguments.prompt
    items = find_items(arguments.files, pictures.pdf_password, per_page=arguments.per_page)
    question(_asked(arguments, prompt, items[0]))  # a mistake of usage costs no loading
    model = chosen_model(arguments).model
    form, chosen = options.get("response_format"), _chosen(arguments)
    fields = None
    if form is not None and arguments.schema is not None:
        chosen["schema"] = form.source  # what it says, wherever it is kept
        fields = [*form.source.get("properties", ())]
    made_with = {"model": model, "prompt": prompt, "options": chosen}
    with open_rows(
        arguments.output, made_with, overwrite=arguments.overwrite, fields=fields
    ) as rows:
        waiting = left(items, rows, contents := Contents())
        if waiting:
            opened = load_model(arguments)
            requests = (_request(arguments, prompt, item, contents, pictures) for item in waiting)
            stream = opened.stream_batch(requests, batch_size=arguments.batch_size, **options)
            _write(stream, waiting, rows, len(items), contents, in_form=form is not None)
        failed = _summarize(rows.rows, arguments)
    return 1 if failed else 0


class Contents:
    """SHA-256 of what is in the files, each read once; None of an address on the web, and of what
    cannot be read."""

    def __init__(self):
        self._found: dict[Path, str | None] = {}

    def of(self, item: Item) -> str | None:
        """Of the whole file, whichever page of it is asked about."""
        place, _ = split_choice(item.source)
        if not isinstance(place, Path):
            return None
        if place not in self._found:
            self._found[place] = None
            with suppress(OSError):
                if place.is_file():  # a pipe can be read once
                    with place.open("rb") as file:
                        self._found[place] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._found[place]


def left(items: Sequence[Item], rows: RowFile | RowStream, contents: Contents) -> list[Item]:
    """What is still to be asked: what has no row, or one about other content; an address that
    failed too, since its content is not known. Pages that a file has no more lose their rows."""
    item_of = {item.file: item for item in items}
    asked, stale = set(), set()
    for row in rows.rows:
        if (item := item_of.get(key_of(row)[0])) is None:
            continue
        failed_there = isinstance(item.source, str) and row.get("error") is not None
        if failed_there or row.get("sha256", ...) not in (..., contents.of(item)):
            stale.add(key_of(row))
        else:
            asked.add(key_of(row))
    rows.forget(stale - {item.key for item in items})
    return [item for item in items if item.key not in asked]


def _summarize(rows: Sequence[dict[str, Any]], arguments: Namespace) -> int:
    """Say on stderr what there is now: which files failed and why, and how many answers have no
    end; returns how many failed."""
    failed = [row for row in rows if row.get("error") is not None]
    for row in failed[:MOST_NAMED]:
        page = "" if row.get("page") is None else f", page {row['page']}"
        name, error = short_name(row["file"]), str(row["error"])
        named = error if error.startswith(name) else f"{name}{page}: {error}"
        say(f"! {one_line(named)}", file=sys.stderr)
    if len(failed) > MOST_NAMED:
        say(f"! and {len(failed) - MOST_NAMED:,} more: their rows say why", file=sys.stderr)
    if cut := sum(row.get("finish_reason") == "length" for row in rows):
        most, answers = arguments.max_tokens, "answer was" if cut == 1 else "answers were"
        say(f"{cut:,} {answers} cut at --max-tokens {most}", file=sys.stderr)
    note = f", {len(failed):,} of them with an error" if failed else ""
    output = "stdout" if arguments.output == "-" else arguments.output
    count = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
    say(f"{output}: {count}{note}", file=sys.stderr)
    if len(rows) > len(failed) and (command := _next_command(arguments.output)):
        say(command, file=sys.stderr)
    return len(failed)


def _next_command(output: str) -> str:
    """How to read the rows; "" for those that went to stdout."""
    if output == "-":
        return ""
    if output.lower().endswith(".csv"):
        return f"Read it: {'open' if sys.platform == 'darwin' else 'xdg-open'} {quote(output)}"
    return f"Read it: python3 -m json.tool --json-lines --no-ensure-ascii {quote(output)}"


def find_items(
    names: Sequence[str], password: str | None = None, *, per_page: bool = False
) -> list[Item]:
    """The files that are named, and the pictures and PDFs of the folders that are; each once.

    Arguments:
        password: of the PDFs.
        per_page: each page of a PDF or TIFF is an item of its own.

    Raises:
        ImageError: a name that is not there, or nothing at all.
    """
    found: dict[Any, Item] = {}
    for name in names:
        for file, source in _files(name):
            place, choice = split_choice(source)
            key = (place.resolve() if isinstance(place, Path) else place, choice)
            found.setdefault(key, Item(file, source))
    items = list(found.values())
    if not items:
        raise ImageError(
            f"{', '.join(names)}: no picture and no PDF: give files, or a folder of them"
        )
    return [page for item in items for page in _pages(item, password)] if per_page else items


def _files(name: str) -> Iterator[tuple[str, Path | str]]:
    if "://" in name:
        yield name, name
        return
    path = Path(name)
    if not path.is_dir():
        place, _ = split_choice(path)
        if not place.exists():
            raise ImageError(f"{name}: no such file or folder: check the name")
        yield name, path
        return
    others = []
    for file in sorted(path.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            if file.suffix.lower() in SUFFIXES:
                yield str(file), file
            else:
                others.append(file.name)
    if others:
        more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
        log.warning("left out, neither picture nor PDF: %s%s", ", ".join(others[:3]), more)


def _pages(item: Item, password: str | None) -> list[Item]:
    """An item for each page; what cannot be read stays one, and fails when it is asked."""
    try:
        place, choice = split_choice(item.source)
        data, name = read_source(place)
        if not has_pages(data, choice):
            return [item]
        numbers = page_numbers(data, name, choice, password)
    except ImageError:
        return [item]
    named = str(place) if choice is not None else item.file
    kind = type(item.source)
    return [Item(named, kind(f"{place}#page={number}"), number) for number in numbers]


def _chosen(arguments: Namespace) -> dict[str, Any]:
    """Options of the command that were given, of those that answers depend on."""
    changed = {
        name: value
        for name, value in sorted(vars(arguments).items())
        if name not in _INDIFFERENT and value != arguments.default_of(name)
    }
    return json.loads(json.dumps(changed))


def _asked(arguments: Namespace, prompt: str, item: Item) -> Namespace:
    return Namespace(**{**vars(arguments), "prompt": prompt, "image": [item.source]})


def _request(
    arguments: Namespace, prompt: str, item: Item, contents: Contents, pictures: ImageOptions
) -> dict[str, Any]:
    contents.of(item)  # before it is opened: what changes later is asked about again
    # Other pictures have nothing in common that would be worth keeping.
    return {
        **question(_asked(arguments, prompt, item)),
        "image_options": pictures,
        "raw": arguments.raw,
        "reuse": False,
    }


def _write(
    stream: Any,
    items: Sequence[Item],
    rows: RowFile | RowStream,
    total: int,
    contents: Contents,
    *,
    in_form: bool,
) -> None:
    """Rows as the answers are finished; with `in_form` an answer is its value."""
    with Status() as status:
        status.step("answering", "rows")
        status.update(done := total - len(items), total)
        while (answered := _next(stream)) is not None:
            number, reply = answered
            item = items[number]
            page = {} if item.page is None else {"page": item.page}
            answer = _answer(reply, in_form=in_form)
            rows.add({"file": item.file, **page, **answer, "sha256": contents.of(item)})
            done += 1
            status.update(done, total)


def _next(stream: Any) -> tuple[int, Reply | PixtralError] | None:
    """The next answer; the rows before it are on the disk, where Ctrl-C leaves them."""
    with leaving_at_once():
        return next(stream, None)


def _answer(reply: Reply | PixtralError, *, in_form: bool) -> dict[str, Any]:
    """What a row says of an answer, or of what went wrong.

    Arguments:
        in_form: the answer is a value, or there is none.
    """
    if isinstance(reply, PixtralError):
        names = ("answer", "finish_reason", "prompt_tokens", "image_tokens", "generated_tokens")
        return dict.fromkeys(names) | {"error": str(reply)}
    return {
        "answer": reply.parsed if in_form else reply.text,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.stats.prompt_tokens,
        "image_tokens": reply.stats.image_tokens,
        "generated_tokens": reply.stats.generated_tokens,
        "error": reply.parse_error,
    }
