"""What a `tekken.json` says, checked before mistral-common builds a tokenizer of it.

mistral-common believes its files: a count of special tokens is a loop, a pattern is compiled by
an engine that may try for ever, and what tiktoken does not expect ends in a panic.
"""

import base64
import filecmp
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..checks import shown, whole
from ..errors import CheckpointError
from ..files import read_file
from .file_kind import saved_instead
from .tokenizer_file import MOST_BYTES, shipped_tekken

PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""That of all of Mistral's Tekken files, from the first to v13."""
PLAIN = re.compile(r"[^()]{1,100}")
MOST_REPEATS = 4
"""Another pattern is one without groups and with few repeats, which no text can keep busy."""
MOST_WORDS, MOST_SPECIALS, BYTES = 2_000_000, 20_000, 256


def check_tekken(file: Path) -> None:
    """Raise unless a file says what a Tekken file may say.

    Raises:
        CheckpointError: it does not; the line names what.
    """
    with suppress(CheckpointError, OSError):
        if filecmp.cmp(file, shipped_tekken(), shallow=False):
            return  # Pixtral 12B's own
    try:
        data = json.loads(read_file(file, MOST_BYTES))
        _check(data)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        if what := saved_instead(file):
            raise CheckpointError(f"{file}: {what}") from error
        raise CheckpointError(
            f"{file}: not a tokenizer ({error}): use the one that came with the weights"
        ) from error


@contextmanager
def panics(file: Path) -> Iterator[None]:
    """What an extension in Rust calls a panic is no Exception: here it becomes one.

    Raises:
        CheckpointError: it panicked over this tokenizer file.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"{file}: the tokenizer failed ({error}): use the one that came with the weights"
        ) from error


def _check(data: Any) -> None:
    config = _object("it", data).get("config")
    config = _object("config", config)
    pattern = str(config.get("pattern"))
    plain = PLAIN.fullmatch(pattern) and sum(map(pattern.count, "*+{")) <= MOST_REPEATS
    if (pattern != PATTERN and not plain) or config.get("pattern") is None:
        raise ValueError(f"its pattern is {shown(config.get('pattern'))}, not that of Tekken")
    specials = whole("special tokens", config.get("default_num_special_tokens"), 1, MOST_SPECIALS)
    words = whole("default_vocab_size", config.get("default_vocab_size"), 1, MOST_WORDS)
    held = data.get("vocab")
    if not isinstance(held, list) or len(held) < words - specials or words - specials < BYTES:
        count = len(held) if isinstance(held, list) else 0
        raise ValueError(
            f"{count:,} words and {specials:,} special tokens where {words:,} are stated"
        )
    seen = set[bytes]()
    for number, word in enumerate(held[: words - specials]):
        if _object("a word", word).get("rank") != number:
            raise ValueError(f"word {number} has rank {shown(word.get('rank'))}")
        piece = base64.b64decode(word.get("token_bytes", ""), validate=True)
        if not piece or piece in seen:
            raise ValueError(f"word {number} is {piece!r}, which no word or another one is")
        seen.add(piece)
    for number, special in enumerate(data.get("special_tokens") or ()):
        if _object("a special token", special).get("rank") != number:
            raise ValueError(f"special token {number} has rank {shown(special.get('rank'))}")


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {shown(value)}, not an object")
    return value
