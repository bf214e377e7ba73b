"""Trace files that are damaged, absurd or made to harm, from opening to what is asked of them.

    python hardening/traces.py [--tries 1000] [--seed N]

What opens is what was saved, to the last bit, whatever was changed in the file.
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


def make(chance: random.Random) -> tuple[str, tuple[str, bytes | int]]:
    """What is done to a trace, and the file or the number that the rest is drawn by."""
    way = chance.randrange(10)
    if way == 0:
        return "no file", ("no file", chance.randrange(10**9))
    if way < 5:
        return "its header", ("bytes", other_header(sound()[0], chance))
    return "damaged", ("bytes", damaged(sound()[0], chance))


@cache
def sound() -> tuple[bytes, Any]:
    """A trace's file, and what it says."""
    import pixtral_mlx as px
    from pixtral_mlx.mini import scene

    model, question = px.load("mini"), scene(7, rows=2, columns=3).questions[0]
    asked = {"images": question.images, "max_tokens": 4, "trace": True}
    reply = model.generate(question.text, **asked)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "a.safetensors"
        reply.trace.save(file)
        return file.read_bytes(), said(px.open_trace(file))


def said(trace: Any) -> Any:
    """What a trace answers."""
    rows = [trace.image_attention(token).tobytes() for token in range(len(trace.tokens))]
    seen = trace.vision_attention(0, (0, 0)).tobytes()
    images = [image.tobytes() for image in trace.prompt.images]
    return trace.words, trace.tokens, trace.logprobs, trace.prompt.tokens, rows, seen, images


def look(tried: tuple[str, bytes | int]) -> int:
    """Open it, and ask."""
    import pixtral_mlx as px

    way, held = tried
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "a.safetensors"
        if isinstance(held, bytes):
            file.write_bytes(held)
        else:
            file.touch()
            no_file(file, random.Random(held))
        if said(px.open_trace(file)) != sound()[1]:
            raise RuntimeError(f"another trace ({way})")
        if file.is_dir():
            shutil.rmtree(file)
    return 0


if __name__ == "__main__":
    if "--serve" in sys.argv:
        sound()
    sys.exit(drive(__file__, __doc__.splitlines()[0], make, look))
