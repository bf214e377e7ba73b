"""The tokenizer of pixtral-mini: a Tekken file in which every word of the scenes is one token.

    python -m pixtral_mlx.mini words DST

The first 256 entries are the bytes, so that any text can be encoded. The words follow, each after
its beginnings (" r", " re", " red"), so that pair by pair merging reaches it too.
"""

import base64
import json
import re
from pathlib import Path

from ..files import new_file
from ..inputs.tokenizer_file import shipped_tekken
from .drawing import CHARACTERS, COLOURS, SHAPES
from .questions import KINDS, NUMBERS, ORDINALS, PHRASINGS, PLURALS, SIDES

SPECIALS = 20
"""Special tokens of Tekken v3; they come first."""

ANSWERS = (
    "a red star", "the digit", "the letter", "nothing", "row two, column three", "the first",
    "the second", "wide", "tall", "square", "A square picture of nothing.",
    "A wide picture, one row and two columns, from the digit to a", "A tall picture, one column",
)  # fmt: skip
"""The words of answers that are neither numbers nor things, and stand in their places."""


def texts() -> list[str]:
    """Everything that questions and answers are made of."""
    blanks = {
        "shape": list(SHAPES), "colour": list(COLOURS), "side": list(SIDES),
        "things": [*PLURALS.values(), *(f"{colour} things" for colour in COLOURS)],
        "thing": ["the red star", "the letter K"], "a_thing": ["a red star", "the letter K"],
        "nth_row": list(ORDINALS), "nth_column": list(ORDINALS), "row": ["1"], "column": ["1"],
    }  # fmt: skip
    found = [*SHAPES, *COLOURS, *NUMBERS, *ANSWERS]
    found += [f" {word}" for word in (*SHAPES, *COLOURS, *NUMBERS)]
    for kind in KINDS:
        for phrasing in PHRASINGS[kind]:
            longest = max(map(len, (blanks[name] for name in _blanks(phrasing))), default=1)
            for i in range(longest):
                chosen = {name: options[i % len(options)] for name, options in blanks.items()}
                found.append(phrasing.format(**chosen))
    return found


def _blanks(phrasing: str) -> list[str]:
    return re.findall(r"{(\w+)}", phrasing)


def words() -> list[str]:
    """Every word, as it stands in a text: with the space before it, if there is one."""
    found = {word for text in texts() for word in re.findall(r" ?[A-Za-z]+", text)}
    single = {*CHARACTERS, *(f" {name}" for name in CHARACTERS if name.isalpha())}
    # Merging goes by rank and must not start inside of a word: those after a space come first,
    # then the longer ones ("square" before "red", whose beginning "re" it ends with).
    return sorted(found | single, key=lambda word: (not word.startswith(" "), -len(word), word))


def vocabulary() -> list[bytes]:
    """The bytes, then every word after its beginnings, in the order of their ranks."""
    entries = {bytes([value]): None for value in range(256)}
    for word in words():
        for end in range(2, len(word) + 1):
            entries.setdefault(word[:end].encode())
    return list(entries)


def write_tekken(path: Path) -> None:
    """Write the file; its pattern is the one of Pixtral's own."""
    pieces = vocabulary()
    shipped = json.loads(shipped_tekken().read_text(encoding="utf-8"))
    config = {
        "pattern": shipped["config"]["pattern"], "num_vocab_tokens": len(pieces),
        "default_vocab_size": len(pieces) + SPECIALS, "default_num_special_tokens": SPECIALS,
        "version": "v3",
    }  # fmt: skip
    vocab = [_entry(rank, piece) for rank, piece in enumerate(pieces)]
    content = {"config": config, "vocab": vocab, "image": shipped["image"]}
    with new_file(path, replace=True) as hidden:
        hidden.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def _entry(rank: int, piece: bytes) -> dict:
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        text = None
    return {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": text}
