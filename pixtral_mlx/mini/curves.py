"""Loss and accuracy of a training run as a picture, drawn with Pillow."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import new_file

WIDTH, HEIGHT, MARGIN = 900, 310, 50
INK, GRID, LOSS, RIGHT = "#30343f", "#e3e5ea", "#c4483d", ("#2e6fb7", "#2d8a57")
SMOOTHED = 40
"""Points of a curve; each is the mean of its share of the steps."""

RIGHT_NAMES = {"see": ("cells named", "neighbours named")}
"""What the two shares in the log of a stage are; in all others, see `_panel`."""


def draw_curves(log: Path, picture: Path) -> None:
    """Read a `log.jsonl` and write one panel a stage.

    Arguments:
        log: as `Course` writes it.
        picture: a PNG.
    """
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    stages = list(dict.fromkeys(record["stage"] for record in records))
    image = Image.new("RGB", (WIDTH, HEIGHT * max(len(stages), 1)), "white")
    pen = ImageDraw.Draw(image)
    for number, name in enumerate(stages):
        own = [record for record in records if record["stage"] == name]
        _panel(pen, name, own, HEIGHT * number)
    with new_file(picture, replace=True) as hidden:
        image.save(hidden)


def _panel(pen: ImageDraw.ImageDraw, name: str, records: list[dict], top: int) -> None:
    font = ImageFont.load_default(13)
    box = (MARGIN, top + MARGIN, WIDTH - MARGIN, top + HEIGHT - MARGIN)
    step, steps = records[-1]["step"], records[-1]["steps"]
    minutes = sum(record["seconds"] for record in records) / 60
    pen.text((MARGIN, top + 8), f"{name}: step {step} of {steps}, {minutes:.1f} minutes", INK, font)
    losses = _means([record["loss"] for record in records])
    highest = max(*losses, 1e-6)
    for i in range(5):
        y = box[3] + (box[1] - box[3]) * i / 4
        pen.line((box[0], y, box[2], y), GRID)
        pen.text((box[2] + 4, y), f"{25 * i} %", RIGHT[0], font, anchor="lm")
        pen.text((box[0] - 6, y), f"{highest * i / 4:.2f}", LOSS, font, anchor="rm")
        x = box[0] + (box[2] - box[0]) * i / 4
        pen.text((x, box[3] + 6), f"{steps * i // 4}", INK, font, anchor="ma")
    names = RIGHT_NAMES.get(name, ("answers right", "places right"))
    rights = [_means([record["right"][i] for record in records]) for i in range(2)]
    curves = [(f"loss {losses[-1]:.3f}", [loss / highest for loss in losses], LOSS)]
    for label, right, colour in zip(names, rights, RIGHT, strict=True):
        curves.append((f"{label} {100 * right[-1]:.1f} %", right, colour))
    x = float(MARGIN)
    for label, values, colour in curves:
        pen.text((x, top + 26), label, colour, font)
        x += pen.textlength(label, font) + 24
        _curve(pen, values, box, step / steps, colour)


def _means(values: Sequence[float]) -> list[float]:
    parts = np.array_split(np.array(values), min(len(values), SMOOTHED))
    return [float(part.mean()) for part in parts]


def _curve(
    pen: ImageDraw.ImageDraw, values: list[float], box: tuple[int, int, int, int],
    progress: float, colour: str,
) -> None:  # fmt: skip
    """Values between 0 and 1 over the part of the width that the stage has come to."""
    left, top, right, bottom = box
    across = (right - left) * progress / len(values)
    points = [
        (left + across * (i + 0.5), bottom - (bottom - top) * value)
        for i, value in enumerate(values)
    ]
    pen.line(points * 2 if len(points) == 1 else points, colour, 2)
