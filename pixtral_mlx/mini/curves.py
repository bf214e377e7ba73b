"""Loss and accuracy of a training run as a picture, drawn with Pillow."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, MARGIN = 900, 300, 46
INK, GRID, LOSS, RIGHT = "#30343f", "#e3e5ea", "#c4483d", "#2e6fb7"
SMOOTHED = 40
"""Points of a curve; each is the mean of its share of the steps."""


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
    image.save(picture)


def _panel(pen: ImageDraw.ImageDraw, name: str, records: list[dict], top: int) -> None:
    font = ImageFont.load_default(13)
    box = (MARGIN, top + MARGIN, WIDTH - MARGIN, top + HEIGHT - MARGIN)
    losses = _means([record["loss"] for record in records])
    highest = max(*losses, 1e-6)
    minutes = sum(record["seconds"] for record in records) / 60
    title = f"{name}: step {records[-1]['step']} of {records[-1]['steps']}, {minutes:.1f} minutes"
    pen.text((MARGIN, top + 8), title, INK, font)
    pen.text((MARGIN, top + 26), f"loss {losses[-1]:.3f}", LOSS, font)
    for i in range(5):
        y = box[3] + (box[1] - box[3]) * i / 4
        pen.line((box[0], y, box[2], y), GRID)
        pen.text((box[2] + 4, y - 8), f"{25 * i} %", RIGHT, font)
        pen.text((6, y - 8), f"{highest * i / 4:.2f}", LOSS, font)
    progress = records[-1]["step"] / records[-1]["steps"]
    _curve(pen, [loss / highest for loss in losses], box, progress, LOSS)
    rights = [_means([record["right"][i] for record in records]) for i in range(2)]
    for right, offset in zip(rights, (110, 190), strict=True):
        pen.text((MARGIN + offset, top + 26), f"{100 * right[-1]:.1f} %", RIGHT, font)
        _curve(pen, right, box, progress, RIGHT)


def _means(values: Sequence[float]) -> list[float]:
    size = max(len(values) // SMOOTHED, 1)
    parts = [values[i : i + size] for i in range(0, len(values), size)]
    return [sum(part) / len(part) for part in parts]


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
