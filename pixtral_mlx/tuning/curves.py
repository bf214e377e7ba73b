"""Loss and accuracy of a training as a picture, drawn with Pillow."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import new_file
from .state import State

WIDTH, HEIGHT, MARGIN, TOP = 900, 340, 56, 70
INK, GRID, LOSS, VALID, RIGHT = "#30343f", "#e3e5ea", "#e0a39e", "#c4483d", "#2e6fb7"
SMOOTHED = 60
"""Points of the training's curve; each is the mean of its share of the steps."""


def draw_curves(state: State, file: Path) -> None:
    """Write a PNG: the loss of the steps, and loss and accuracy of the validations."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    losses = [each["loss"] for each in state.steps]
    parts = np.array_split(np.array(losses), min(len(losses), SMOOTHED))
    means = [float(part.mean()) for part in parts]
    ends = np.cumsum([len(part) for part in parts]) - np.array([len(p) / 2 for p in parts])
    highest = max(*means, *(each["loss"] for each in state.validations), 1e-6)
    last = max(state.step, 1)

    def at(step: float, share: float) -> tuple[float, float]:
        across, up = WIDTH - 2 * MARGIN, HEIGHT - TOP - MARGIN
        return MARGIN + across * step / last, HEIGHT - MARGIN - up * share

    for i in range(5):
        (left, y), (right, _) = at(0, i / 4), at(last, i / 4)
        pen.line((left, y, right, y), GRID)
        pen.text((left - 6, y), f"{highest * i / 4:.2f}", VALID, font, anchor="rm")
        pen.text((right + 5, y), f"{25 * i} %", RIGHT, font, anchor="lm")
        x, _ = at(last * i / 4, 0)
        pen.text((x, HEIGHT - MARGIN + 8), f"{last * i // 4}", INK, font, anchor="ma")
    pen.text((WIDTH / 2, HEIGHT - 22), "steps", INK, font, anchor="mm")
    final = state.validations[-1]
    shown = [
        (f"loss of training {means[-1]:.3f} nats", LOSS,
         [at(x, y / highest) for x, y in zip(ends, means, strict=True)]),
        (f"loss of validation {final['loss']:.3f} nats", VALID,
         [at(v["step"], v["loss"] / highest) for v in state.validations]),
        (f"validation right {100 * final['accuracy']:.1f} %", RIGHT,
         [at(v["step"], v["accuracy"]) for v in state.validations]),
    ]  # fmt: skip
    place = float(MARGIN)
    for label, colour, points in shown:
        pen.text((place, 20), label, colour, font)
        place += pen.textlength(label, font) + 28
        pen.line(points * 2 if len(points) == 1 else points, colour, 2)
    with new_file(file, replace=True) as hidden:
        image.save(hidden)
