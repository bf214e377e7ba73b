"""Model folders that are damaged, absurd or made to harm, from opening to an answer.

    python hardening/model_folders.py [--tries 3000] [--seed N]

A folder that `convert` wrote, two official and a transformers' one, in which a file has bytes
changed, is cut off, gone, another one's, a pipe, a folder or a link, or a value of a configuration,
an index, a tokenizer or a header is another. What is accepted answers as before, or `inspect
--check` says that it is not what was written. A folder without sums may answer otherwise: nobody
can tell another value from the right one.
"""

import json
import os
import random
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from spoiled import changed, no_file, other_header
from tries import damaged, drive

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

LINE = "What is this?"


def make(chance: random.Random) -> tuple[str, tuple[str, int]]:
    """What is done to which folder, and the number that the rest is drawn by."""
    kind = chance.choice(sorted(sound()))
    return kind, (kind, chance.randrange(10**9))


@cache
def sound() -> dict[str, Path]:
    """{kind: folder} as they were written."""
    from checkpoints import make_hf, make_official

    import pixtral_mlx as px

    place = Path(tempfile.mkdtemp(prefix="hardening-"))
    official = make_official(place / "official")
    made = {"official": official, "hf": make_hf(place / "hf")}
    made["sentencepiece"] = make_official(place / "sentencepiece", tokenizer="spm")
    made["ours"] = px.convert(official, place / "ours", bits=8, group_size=32).folder
    return made


@cache
def answer_of(kind: str) -> list[int]:
    """The tokens that a sound folder answers with."""
    return answer(sound()[kind])


def answer(folder: Path) -> list[int]:
    """Of the model in a folder."""
    import pixtral_mlx as px

    model = px.load(folder, dtype="float32")
    return model.generate(LINE, images=[picture()], max_tokens=4, reuse=False).tokens


@cache
def picture() -> Any:
    """A small one, which is the same in every process."""
    from PIL import Image

    return Image.linear_gradient("L").resize((48, 32)).convert("RGB")


def spoil(folder: Path, chance: random.Random) -> str:
    """Change one file of a folder; what was done."""
    kinds = (".json", ".safetensors", ".v7m1")
    names = sorted(path.name for path in folder.iterdir() if path.suffix in kinds)
    file = folder / chance.choice(names)
    data, way = file.read_bytes(), chance.randrange(10)
    if way == 0:
        file.unlink()
        return f"{file.name} gone"
    if way == 1:
        return f"{file.name}: {no_file(file, chance)}"
    if way == 2:
        shutil.copyfile(folder / chance.choice(names), file.with_name("copy"))
        os.replace(file.with_name("copy"), file)
        return f"{file.name} is another file"
    if way < 7 and file.suffix == ".json":
        file.write_text(json.dumps(changed(json.loads(data), chance)))
        return f"{file.name}: a value"
    if way < 7 and file.suffix == ".safetensors":
        file.write_bytes(other_header(data, chance))
        return f"{file.name}: its header"
    file.write_bytes(damaged(data, chance))
    return f"{file.name} damaged"


def look(tried: tuple[str, int]) -> int:
    """Spoil a copy, open it, and ask."""
    import pixtral_mlx as px
    from pixtral_mlx.checkpoint.sums import check_sums

    kind, number = tried
    right = answer_of(kind)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        shutil.copytree(sound()[kind], folder)
        done = spoil(folder, random.Random(number))
        found = answer(folder)
        if found == right or kind != "ours":
            return 0
        try:
            check_sums(folder)
        except px.CheckpointError:
            return 0
        raise RuntimeError(f"{done}: {found} instead of {right}, and nothing says so")


if __name__ == "__main__":
    import logging

    logging.disable()
    if "--serve" in sys.argv:
        for kind in sound():
            answer_of(kind)
    sys.exit(drive(__file__, __doc__.splitlines()[0], make, look))
