"""Scenes with questions: the little world that pixtral-mini knows.

>>> from pixtral_mlx.mini import scene
>>> s = scene(7, rows=2, columns=3)
>>> s.image, s.questions[0].text, s.questions[0].answer
"""

from dataclasses import dataclass
from functools import cached_property
from random import Random

from PIL import Image

from ..errors import ConfigError
from .questions import KINDS, ask
from .scene_layout import LARGEST, Layout, draw, make_layout

COUNTED = 3
"""Scenes ask to count up to this number; training asks for more, which is learnt less well."""


@dataclass(frozen=True)
class Question:
    """Something that can be asked about a scene.

    Arguments:
        kind: what it takes, one of `questions.KINDS`.
        text: the question.
        answer: the only right answer, letter by letter.
        images: the pictures to send with it, in order.
        patches: (row, column) of the patches that hold the evidence; empty where the evidence is
            the grid itself ("rows", "columns", "wide").
        evidence_image: index in `images` of the picture that holds them.
    """

    kind: str
    text: str
    answer: str
    images: list[Image.Image]
    patches: tuple[tuple[int, int], ...]
    evidence_image: int = 0


@dataclass(frozen=True)
class Scene:
    """A picture, what is in it, and questions about it.

    Arguments:
        layout: what is where.
        other: the second picture of the question "which".
        seed: the same seed makes the same scene, on any machine.
    """

    layout: Layout
    other: Layout
    seed: int

    @cached_property
    def image(self) -> Image.Image:
        """The picture, RGB, 29 to 160 pixels a side; a side need not be a multiple of 16."""
        return draw(self.layout)

    @cached_property
    def other_image(self) -> Image.Image:
        """The second picture of the question "which"."""
        return draw(self.other)

    @cached_property
    def questions(self) -> list[Question]:
        """One question of each kind that the scene allows."""
        random = Random(f"questions {self.seed}")
        found = []
        for kind in KINDS:
            asked = ask(kind, self.layout, random, self.other, most=COUNTED)
            if asked is None:
                continue
            images = [self.image, self.other_image] if kind == "which" else [self.image]
            holder = self.other if asked.second else self.layout
            patches = holder.patches(*asked.cells)
            found.append(
                Question(kind, asked.text, asked.answer, images, patches, int(asked.second))
            )
        return found


def scene(seed: int, rows: int | None = None, columns: int | None = None) -> Scene:
    """Make a scene.

    Arguments:
        seed: any whole number.
        rows, columns: cells of 2 x 2 patches, 1 to 5 each; None leaves it to the seed.

    Raises:
        ConfigError: a grid that is not among those.
    """
    for name, value in (("rows", rows), ("columns", columns)):
        if value is not None and not 1 <= value <= LARGEST:
            raise ConfigError(f"{name} is {value}; a scene has 1 to {LARGEST}: choose one of these")
    random = Random(f"scene {seed}")
    layout = make_layout(random, rows, columns)
    other = make_layout(random)
    while (other.rows, other.columns) == (layout.rows, layout.columns):
        other = make_layout(random)
    return Scene(layout, other, seed)
