"""Prompt caches that are damaged, absurd or made to harm, from opening to an answer.

    python hardening/prompt_caches.py [--tries 500] [--seed N]

A file of the folder has bytes or values changed, is another model's, or no file; or others may
write into the folder, which is refused. Every answer is that of a model without a cache.
"""

import random
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from spoiled import no_file, other_header
from tries import damaged, drive

QUESTION = "What is in row 1, column 1?"


def make(chance: random.Random) -> tuple[str, tuple[str, int]]:
    """What is done to a folder, and the number that the rest is drawn by."""
    kinds = ("damaged", "damaged", "its header", "its header", "no file", "swapped", "open to all")
    way = chance.choice(kinds)
    return way, (way, chance.randrange(10**9))


@cache
def sound() -> tuple[Path, Any, list[int]]:
    """A folder of two conversations, a model, and the answer that a second question gets."""
    import pixtral_mlx as px

    folder = Path(tempfile.mkdtemp(prefix="hardening-"))
    model = px.load("mini")
    model.open_prompt_cache(folder)
    for text in ("What is in this picture?", "How many things are there?"):
        model.generate(text, images=[picture()], max_tokens=4)
    return folder, model, px.load("mini").generate(**asked()).tokens


def asked() -> dict[str, Any]:
    """A question that goes on from what is kept of the picture."""
    return {"messages": QUESTION, "images": [picture()], "max_tokens": 4}


@cache
def picture() -> Any:
    """A scene."""
    from pixtral_mlx.mini import scene

    return scene(7, rows=2, columns=3).questions[0].images[0]


def spoil(folder: Path, way: str, chance: random.Random) -> None:
    """Change one file of a folder, or who may write into it."""
    files = sorted(folder.iterdir())
    file = chance.choice(files)
    if way == "damaged":
        file.write_bytes(damaged(file.read_bytes(), chance))
    elif way == "its header":
        file.write_bytes(other_header(file.read_bytes(), chance))
    elif way == "no file":
        no_file(file, chance)
    elif way == "swapped":
        files[0].replace(folder / "other")
        files[-1].replace(files[0])
        (folder / "other").replace(files[-1])
    else:
        folder.chmod(chance.choice((0o777, 0o1777, 0o770, 0o702)))


def look(tried: tuple[str, int]) -> int:
    """Spoil a copy, open it, and ask."""
    way, number = tried
    folder, model, right = sound()
    with tempfile.TemporaryDirectory() as place:
        own = Path(place) / "kept"
        shutil.copytree(folder, own)
        spoil(own, way, random.Random(number))
        model.clear_cache()
        model.open_prompt_cache(own)
        if way == "open to all":
            raise RuntimeError("a folder that others may write into was taken")
        found = model.generate(**asked()).tokens
        if found != right:
            raise RuntimeError(f"{found} instead of {right}")
    return 0


if __name__ == "__main__":
    import logging

    logging.disable()
    if "--serve" in sys.argv:
        sound()
    sys.exit(drive(__file__, __doc__.splitlines()[0], make, look))
