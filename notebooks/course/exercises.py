"""New scenes, accuracy, and checks of answers to exercises."""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from random import Random
from typing import Any, NamedTuple

import numpy as np

import pixtral_mlx as px
from pixtral_mlx.mini import Question, Scene, scene
from pixtral_mlx.mini.drawing import COLOURS
from pixtral_mlx.mini.evaluation import ANSWER_TOKENS, FIRST_SEED
from pixtral_mlx.mini.scene_layout import Layout, draw, make_layout

HELD_OUT = FIRST_SEED + 5_000_000
"""Seeds of the course's scenes count up from here; training never uses them."""


class Verdict(NamedTuple):
    """What a check says about an answer: whether it is right, and why."""

    right: bool
    text: str

    def __repr__(self) -> str:
        return f"{'✓ Right.' if self.right else '✗ Not yet.'} {self.text}"


def dtype_for(name: str) -> str | None:
    """What to compute in: float32 for pixtral-mini, where it is fast; else as stored."""
    return "float32" if name == "mini" else None


def is_mini(model: px.Pixtral) -> bool:
    """Whether the model knows the scenes: those with pixtral-mini's sizes do."""
    from pixtral_mlx.mini import CHECKPOINT

    return model.config == px.load_config(CHECKPOINT)


def tolerance(model: px.Pixtral) -> float:
    """How far two ways to compute the same may be apart: rounding differs in 16 bits, and where
    float32 is multiplied in TF32 after all."""
    import mlx.core as mx

    exact = model.vision_encoder.ln_pre.weight.dtype == mx.float32
    return px.machine().tolerance(1e-4) if exact else 3e-2


def shared(model: px.Pixtral) -> px.Pixtral:
    """The same weights once more, for a widget: it computes on a thread of its own, and cells go
    on with `model`. Nothing is copied; only the cache of prompts is another."""
    import mlx.core as mx

    mx.eval(model.parameters())
    other = copy(model)
    vars(other).pop("prompt_cache", None)
    return other


def relative_error(ours: Any, theirs: Any) -> float:
    """RMS of the difference by RMS of `theirs`."""
    import mlx.core as mx

    ours, theirs = (
        np.array(mx.array(x).astype(mx.float32)).astype(np.float64) for x in (ours, theirs)
    )
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes {ours.shape} and {theirs.shape}: compare arrays of one shape")
    size = np.sqrt(np.mean(theirs**2))
    return float(np.sqrt(np.mean((ours - theirs) ** 2)) / max(size, 1e-30))


def scenes(count: int, rows: int | None = None, columns: int | None = None) -> list[Scene]:
    """Newly drawn scenes, from seeds that training never uses; the same ones every time."""
    return [scene(HELD_OUT + number, rows, columns) for number in range(count)]


def questions(shown: Iterable[Scene], *kinds: str) -> list[Question]:
    """Their questions of some kinds; all if none is named."""
    return [q for one in shown for q in one.questions if not kinds or q.kind in kinds]


def answers(
    model: px.Pixtral,
    asked: Iterable[Question],
    *,
    change: Callable[[Any], Any] = lambda image: image,
    **options: Any,
) -> list[str]:
    """The model's greedy answers.

    Arguments:
        change: what is done to every picture first.
        options: of `model.generate`, for example `edits`.
    """
    return [
        model.generate(
            q.text, images=[change(i) for i in q.images], max_tokens=ANSWER_TOKENS, **options
        ).text
        for q in asked
    ]


def accuracy(found: Sequence[str], asked: Sequence[Question]) -> float:
    """Share of answers that are right letter by letter."""
    right = [text == q.answer for text, q in zip(found, asked, strict=True)]
    return sum(right) / max(len(right), 1)


def whole_numbers(answer: Any, count: int) -> tuple[int, ...] | None:
    """The answer as `count` whole numbers, or None if it is something else."""
    if not isinstance(answer, (list, tuple)) or len(answer) != count:
        return None
    whole = (int, np.integer)
    if not all(isinstance(n, whole) and not isinstance(n, bool) for n in answer):
        return None
    return tuple(int(n) for n in answer)


def numbers(answer: Any, count: int) -> tuple[float, ...] | None:
    """The answer as `count` numbers, or None if it is something else."""
    if not isinstance(answer, (list, tuple)) or len(answer) != count:
        return None
    if not all(isinstance(n, (int, float, np.number)) and not isinstance(n, bool) for n in answer):
        return None
    return tuple(float(n) for n in answer)


# Notebook 0 -----------------------------------------------------------------------------------


def check_bits(answer: Any) -> Verdict:
    """Bits per weight at 4 bits, with groups of 64 and of 32."""
    found = numbers(answer, 2)
    if found is None:
        return Verdict(False, "Give two numbers, as in (4.1, 4.2).")
    first, second = found
    if (first, second) == (4, 4):
        return Verdict(False, "The ruler takes space too: each group stores a scale and a bias.")
    if (first, second) == (4.25, 4.5):
        return Verdict(False, "Each group stores two 16-bit numbers, the scale and the bias.")
    if (first, second) == (5, 4.5):
        return Verdict(
            False, "The other way round: in a smaller group, fewer weights share the ruler."
        )
    if (first, second) != (4.5, 5):
        return Verdict(False, "Share the 32 bits of scale and bias among the weights of a group.")
    return Verdict(True, "4 + 32/64 and 4 + 32/32: smaller groups fit more closely and cost more.")


# Notebook 1 -----------------------------------------------------------------------------------

GRID_SIZES = ((512, 512), (1024, 768), (1920, 1080), (500, 100), (2048, 40))
"""Width and height in pixels of the pictures whose grids are to be predicted."""


def check_grids(answer: Any) -> Verdict:
    """{(width, height): (rows, columns)} for `GRID_SIZES`, in Pixtral 12B."""
    from pixtral_mlx.model.config import PIXTRAL_12B_VISION as vision

    if not isinstance(answer, dict) or not set(GRID_SIZES) <= set(answer):
        return Verdict(False, f"Give (rows, columns) for each of {GRID_SIZES}, in a dictionary.")
    wrong = []
    for width, height in GRID_SIZES:
        right = tuple(px.patch_grid(width, height, vision))
        found = whole_numbers(answer[width, height], 2)
        if found != right:
            wrong.append(f"{width} × {height}: {_why_not(found, right, width, height)}")
    if wrong:
        return Verdict(False, f"{5 - len(wrong)} of 5. " + " ".join(wrong))
    return Verdict(True, "Rows first, round up, and shrink anything longer than 1024 pixels first.")


def _why_not(found: tuple | None, right: tuple, width: int, height: int) -> str:
    if found is None:
        return "give two whole numbers."
    if found == right[::-1]:
        return "rows come first, then columns."
    largest = max(width, height)
    if largest > 1024 and found in (
        (height // 16, width // 16),
        (-(-height // 16), -(-width // 16)),
    ):
        return "it is shrunk first, until its longest side is 1024 pixels."
    if found == (height // 16, width // 16):
        return "the leftover pixels need a patch of their own: round up."
    if largest > 1024:
        width, height = round(width * 1024 / largest), round(height * 1024 / largest)
        return f"once shrunk, it is {width} × {height} pixels."
    return "divide each side by 16 and round up."


# Notebook 2 -----------------------------------------------------------------------------------


def check_rebuild(answer: Any, image_ids: tuple[int, int, int]) -> Verdict:
    """A function from the tokens of one picture to (rows, columns)."""
    from pixtral_mlx.model.prompt import image_tokens

    if not callable(answer):
        return Verdict(False, "Give a function of one argument, a list of tokens.")
    for right in ((4, 8), (8, 4), (3, 5), (1, 6), (6, 1), (1, 1)):
        tokens = image_tokens(px.PatchGrid(*right), image_ids)
        try:
            found = answer(list(tokens))
        except Exception as error:
            return Verdict(False, f"For {right} it raises {type(error).__name__}: {error}.")
        if not isinstance(found, (tuple, list)) or tuple(found) != right:
            why = ""
            if isinstance(found, (tuple, list)) and tuple(found)[:1] == (right[0] - 1,):
                why = " The last row ends too, but with a different token."
            elif isinstance(found, (tuple, list)) and tuple(found) == right[::-1]:
                why = " Rows come first."
            return Verdict(False, f"For {right} it gives {found!r}.{why}")
    return Verdict(
        True, "One row for every token that ends a row, and the patches divide evenly among them."
    )


# Notebook 3 -----------------------------------------------------------------------------------


def check_shift(answer: Any, rope: Any) -> Verdict:
    """Where B goes from row 5, column 1 when A goes from row 2, column 3 to row 9, column 9 and
    their score stays. Only differences count, so it does not matter where counting begins."""
    found = whole_numbers(answer, 2)
    if found is None or min(found) < 1 or max(found) > 40:
        return Verdict(False, "Give (row, column), whole numbers from 1 to 40.")
    angles = np.array(rope.angles([(41, 41)]), np.float64).reshape(41, 41, -1)
    before = np.cos(angles[5, 1] - angles[2, 3]).mean()
    after = np.cos(angles[found] - angles[9, 9]).mean()
    scores = f"The score was {before:.2f} and is now {after:.2f}."
    if found == (12, 7):
        return Verdict(True, f"{scores} B is three rows below A and two columns to its left again.")
    down, right = found[0] - 9, found[1] - 9
    if abs(after - before) < 1e-5:
        return Verdict(False, f"{scores} A mirror image: the cosine cannot tell, other keys can.")
    return Verdict(
        False, f"{scores} From A to B it was +3 rows and -2 columns; now {down:+} and {right:+}."
    )


def large_scenes(count: int, cells: int, first: int = 0) -> list[tuple[Layout, Any]]:
    """Square scenes of any size, training's included: [(layout, picture)].

    Cells have 32 pixels, so that a cell is 2 x 2 patches however many there are.
    """
    found, seed = [], HELD_OUT + first
    while len(found) < count:
        layout = make_layout(Random(f"large {seed}"), cells, cells)
        picture = draw(layout)
        if picture.width == 32 * cells:
            found.append((layout, picture))
        seed += 1
    return found


def colour_number(thing: Any) -> int:
    """Of what is in a cell: 0 for no colour, then the colours in their order."""
    return ("", *COLOURS).index(thing.colour)


# Notebook 4 -----------------------------------------------------------------------------------


def check_mask(answer: Any) -> Verdict:
    """A function from numbers of patches to a square array of who may see whom."""
    if not callable(answer):
        return Verdict(
            False,
            "Give a function of one argument: a list with the number of patches in each picture.",
        )
    for lengths in ([2, 3], [4], [1, 1, 2]):
        owner = [number for number, length in enumerate(lengths) for _ in range(length)]
        try:
            found = np.asarray(answer(list(lengths)))
        except Exception as error:
            return Verdict(False, f"For {lengths} it raises {type(error).__name__}: {error}.")
        size = len(owner)
        if found.shape != (size, size):
            why = f"its shape is {found.shape}; it should be {(size, size)}."
            return Verdict(False, f"For {lengths} {why}")
        for i, mine in enumerate(owner):
            for j, other in enumerate(owner):
                if bool(found[i, j]) != (mine == other):
                    may = "may" if found[i, j] else "may not"
                    whose = "of its own picture" if mine == other else "of another picture"
                    seen = f"patch {i + 1} {may} see patch {j + 1}, {whose}."
                    return Verdict(False, f"For {lengths}, {seen}")
    return Verdict(True, "Blocks along the diagonal, one per picture.")


def check_quiet(answer: Any, first: Any, model: px.Pixtral) -> Verdict:
    """A picture that changes nothing in `first` although the mask between them is broken."""
    from pixtral_mlx.model.tap import Tap

    try:
        prompt = model.encode("", images=[first, answer])
    except (px.PixtralError, TypeError, ValueError) as error:
        return Verdict(False, f"Give a picture: {error}")
    proper = model.vision_encoder(prompt.images[:1])
    broken = model.vision_encoder(prompt.images, Tap(prompt, [px.edits.NoVisionMask()]))
    change = relative_error(broken[: len(proper)], proper)
    if change > 3 * tolerance(model):
        why = f"The first picture's features change by {change:.0%}."
        return Verdict(False, f"{why} What could it see in the other that it has not seen already?")
    return Verdict(
        True,
        "The picture itself: each key is there twice, at the same place, with half the weight.",
    )
