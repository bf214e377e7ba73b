"""`SequenceStrip`: the whole prompt as the model receives it, one token after the other."""

from typing import Any

import numpy as np
import traitlets

import pixtral_mlx as px
from pixtral_mlx.model import image_tokens

from .session import Session
from .view import View

TEXT, PATCH, ROW_BREAK, END = range(4)
"""What a token is."""


class SequenceStrip(View):
    """The prompt as the model receives it: words, and the picture's patches row by row, with
    `[IMG_BREAK]` and `[IMG_END]` where they really stand.

    Point at a patch to see it in the picture, and the other way round; take the breaks away, and
    pictures of another shape become the same tokens.

    >>> SequenceStrip(session)
    >>> SequenceStrip("chart.png", model="mini")

    Arguments:
        source: a `Session`, or an image: whatever `model.generate` takes as one.
        model: with an image: what `Session` takes.

    Traits:
        position: the token that is chosen, its place in the sequence that is shown; None for none.
        patch: (row, column), and `image`, its picture, if that token is a patch.
        breaks: whether the breaks are there; False takes them away.
        arrangement: "rows" (as the model sees it, wrapped), "line" or "grid". (`layout` is what
            every Jupyter widget calls its own size.)
    """

    name = "sequence_strip"
    position = traitlets.Int(None, allow_none=True).tag(sync=True)
    breaks = traitlets.Bool(True).tag(sync=True)
    arrangement = traitlets.Enum(("rows", "line", "grid"), "rows").tag(sync=True)

    def __init__(self, source: Any = None, model: Any = None, **options: Any):
        if model is None and source is not None and not isinstance(source, Session):
            raise ValueError(
                "a picture becomes tokens with a model's tokenizer: give a session, or a model, as "
                'in SequenceStrip("chart.png", model="mini")'
            )
        super().__init__(source, model, **options)
        self.observe(self._keep_token, "breaks")
        self.observe(self._place_of_patch, ["patch", "image", "breaks", "facts"])
        self.observe(self._patch_of_place, "position")
        self._place_of_patch(None)

    # One choice, two names ---------------------------------------------------------------------

    def _spans(self) -> list[px.ImageSpan]:
        """Where the images stand in the sequence that is shown."""
        prompt = self.session.prompt if self.session else None
        return [] if prompt is None else self._shown(prompt, self.breaks).spans

    def _place_of_patch(self, _: Any) -> None:
        spans = self._spans()
        if self.patch is None or self.image >= len(spans):
            return
        row, column = self.patch
        grid = spans[self.image].grid
        if row < grid.rows and column < grid.columns:
            self.position = spans[self.image].position(row, column)

    def _patch_of_place(self, _: Any) -> None:
        for number, span in enumerate(self._spans()):
            if self.position is not None and span.start <= self.position < span.stop:
                row, column = divmod(self.position - span.start, span.grid.columns + span.breaks)
                inside = row < span.grid.rows and column < span.grid.columns
                self.image, self.patch = number, (row, column) if inside else None
                return
        self.patch = None

    def _keep_token(self, change: Any) -> None:
        """The same token has another place without the breaks; a break itself is gone."""
        prompt = self.session.prompt if self.session else None
        if prompt is None or self.position is None:
            return
        gone = {p for span in prompt.spans for p in span.break_positions()}
        kept = [p for p in range(len(prompt.tokens)) if p not in gone]
        if change["new"]:
            self.position = kept[self.position] if self.position < len(kept) else None
        else:
            self.position = kept.index(self.position) if self.position in kept else None

    @staticmethod
    def _shown(prompt: px.Prompt, breaks: bool) -> px.Prompt:
        return prompt if breaks else px.edits.NoBreakTokens().tokens(prompt)

    # Questions from the browser ----------------------------------------------------------------

    def answer_sequence(self, model: Any, breaks: bool) -> dict[str, Any]:
        """The whole prompt, see `sequence`."""
        prompt = self.session.prompt if self.session else None
        if prompt is None:
            raise IndexError("there is no prompt yet: ask a question first")
        return sequence(self._shown(prompt, breaks), model.tokenizer)

    def answer_shapes(self, model: Any, image: int) -> dict[str, Any]:
        """A picture's tokens beside those of another shape, see `shapes`."""
        prompt = self.session.prompt if self.session else None
        if prompt is None or not 0 <= image < len(prompt.grids):
            raise IndexError(f"image {image}: ask a question with a picture first")
        return shapes(px.PatchGrid(*prompt.grids[image]), model.tokenizer.image_ids)

    def questions_shown(self):
        """The pictures, the sequence with breaks and without, and every picture's other shape."""
        yield from super().questions_shown()
        if "tokens" in self.facts:
            for breaks in (True, False):
                yield "sequence", {"breaks": breaks}
        for image in range(len(self.facts.get("images", ()))):
            yield "shapes", {"image": image}


def sequence(prompt: px.Prompt, tokenizer: px.Tokenizer) -> dict[str, Any]:
    """Ids and kinds of a prompt's tokens, how each id is written, which of them are control tokens,
    and where the images stand."""
    used = sorted(set(prompt.tokens))
    return {
        "ids": np.array(prompt.tokens, np.int32),
        "kinds": kinds(prompt.tokens, tokenizer.image_ids if prompt.spans else ()),
        "labels": {str(i): tokenizer.label(i) for i in used},
        "control": [i for i in used if not tokenizer.decode([i])],
        "images": [
            {
                "start": span.start, "rows": span.grid.rows, "columns": span.grid.columns,
                "breaks": span.breaks, "merge": prompt.merge,
            }
            for span in prompt.spans
        ],
    }  # fmt: skip


def shapes(grid: px.PatchGrid, image_ids: tuple[int, int, int]) -> dict[str, Any]:
    """The tokens of a picture beside those of one with as many patches in another shape.

    Returns:
        {"grids", "with", "without"}: with breaks and without, the `kinds` of both and `differ`,
        the first place where their tokens are not the same (None: nowhere).
    """
    grids = [grid, other_shape(grid)]
    prompts = [
        px.Prompt(image_tokens(one, image_ids), [], [one], [px.ImageSpan(0, one)]) for one in grids
    ]
    answer: dict[str, Any] = {"grids": [list(one) for one in grids]}
    for name in ("with", "without"):
        if name == "without":
            prompts = [px.edits.NoBreakTokens().tokens(one) for one in prompts]
        answer[name] = {
            "kinds": [kinds(one.tokens, image_ids) for one in prompts],
            "differ": px.first_difference(*(one.tokens for one in prompts)),
        }
    return answer


def kinds(tokens: list[int], image_ids: tuple[int, ...]) -> np.ndarray:
    """uint8, one a token: `TEXT`, `PATCH`, `ROW_BREAK` or `END`.

    Arguments:
        image_ids: of [IMG], [IMG_BREAK] and [IMG_END]; () for a prompt without images.
    """
    found = np.full(len(tokens), TEXT, np.uint8)
    for kind, token in zip((PATCH, ROW_BREAK, END), image_ids, strict=False):
        found[np.array(tokens) == token] = kind
    return found


def other_shape(grid: px.PatchGrid) -> px.PatchGrid:
    """A grid of as many patches: turned; a square has half the rows, or is one row."""
    if grid.rows != grid.columns:
        return px.PatchGrid(grid.columns, grid.rows)
    if grid.rows % 2 == 0:
        return px.PatchGrid(grid.rows // 2, 2 * grid.columns)
    return px.PatchGrid(1, grid.rows * grid.columns)
