"""The scene that `pixtral-mlx demo` shows and `pixtral-mlx doctor` asks about."""

from .scenes import Question, Scene, scene

SEED = 2_000_002
"""Of the scene; training draws from other seeds."""

KINDS = ("colour", "at", "rows", "which", "describe")
"""Of the questions, in the order in which they are asked."""


def demo_scene() -> tuple[Scene, list[Question]]:
    """The scene, and one question of each of `KINDS`."""
    shown = scene(SEED, rows=3, columns=4)
    asked = {question.kind: question for question in shown.questions}
    return shown, [asked[kind] for kind in KINDS]
