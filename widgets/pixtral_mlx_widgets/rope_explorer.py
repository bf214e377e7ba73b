"""`RopeExplorer`: how position enters the encoder's attention."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import traitlets

import pixtral_mlx as px
from pixtral_mlx.model import PIXTRAL_12B_VISION, Rope2D

from .session import Session
from .view import View

MOST = 96
"""Rows and columns that the sliders go to: beyond what the model was made for."""


class RopeExplorer(View):
    """RoPE-2D: which pairs of numbers turn with the row and which with the column, and how alike
    that makes patches whose content is the same.

    Choose a patch A and a patch B; move both together, and their score stays what it was: it
    depends on their difference alone. All of it is computed by the model's own `Rope2D`.

    >>> RopeExplorer()                     # Pixtral 12B's sizes, no model is needed
    >>> RopeExplorer(session)              # the sizes of a session's model

    Arguments:
        source: a `Session`; None for none.

    Traits:
        rows, columns: of the grid, 1 to 96; those of the session's picture unless they are given.
        patch: (row, column) of A; None for none. probe: of B.
    """

    name = "rope_explorer"
    shared = ("patch",)
    rows = traitlets.Int(32, min=1, max=MOST).tag(sync=True)
    columns = traitlets.Int(32, min=1, max=MOST).tag(sync=True)
    probe = traitlets.Tuple(
        traitlets.Int(), traitlets.Int(), default_value=None, allow_none=True
    ).tag(sync=True)

    def __init__(self, source: Session | None = None, **options: Any):
        self._given = {name for name in ("rows", "columns") if name in options}
        super().__init__(source, **options)
        if self.session is None:
            self.facts, self.state = self.facts_now(None), "ready"
        self.observe(self._stay_inside, ["rows", "columns"])
        self._stay_inside()
        self._begin_somewhere()

    def _begin_somewhere(self) -> None:
        """Something to look at; not chosen by anybody, so no other view follows."""
        self._own = True
        if self.patch is None:
            self.patch = (self.rows // 2, self.columns // 2)
        if self.probe is None:
            self.probe = (min(self.patch[0] + 2, self.rows - 1), self.patch[1] * 2 // 3)
        self._own = False

    _own = False

    def facts_now(self, session: Session | None) -> dict[str, Any]:
        """Sizes of the encoder, and how large a grid it was made for."""
        vision = self._vision()
        facts: dict[str, Any] = {"epoch": 0, "images": []}
        if session is None:
            facts["model"] = "Pixtral 12B"
        else:
            facts = super().facts_now(session)
        if vision is not None:
            facts["pairs"] = vision.head_dim // 2
            facts["theta"] = vision.rope_theta
            facts["made_for"] = vision.image_size // vision.patch_size
        return facts

    def _vision(self) -> px.VisionConfig | None:
        if self.session is None:
            return PIXTRAL_12B_VISION
        return self.session.config.vision if self.session.config else None

    def refresh(self) -> None:
        """As in `View`; it needs no question, only a model."""
        super().refresh()
        if self.state == "empty" and self._vision() is not None:
            self.state = "ready"
            self._save_soon()

    def _choose_what_exists(self, facts: Mapping[str, Any]) -> None:
        """A new picture brings its grid, unless somebody chose another."""
        if facts.get("images") and not self._given:
            grid = facts["images"][min(self.image, len(facts["images"]) - 1)]
            self.rows, self.columns = min(grid["rows"], MOST), min(grid["columns"], MOST)

    def _stay_inside(self, _: Any = None) -> None:
        for name in ("patch", "probe"):
            place = getattr(self, name)
            if place is not None and not self._inside(place):
                last = (self.rows - 1, self.columns - 1)
                setattr(self, name, (min(place[0], last[0]), min(place[1], last[1])))

    def _inside(self, place: Sequence[int]) -> bool:
        return 0 <= place[0] < self.rows and 0 <= place[1] < self.columns

    def _take(self, selection: Mapping[str, Any]) -> None:
        patch = selection["patch"]
        if patch is not None and self._inside(patch) and patch != self.patch:
            self.patch = patch

    def _give(self, change: Any) -> None:
        """Only a patch that the session's picture has is chosen for all."""
        images, patch = self.facts.get("images"), change["new"]
        if self._own or not images or patch is None:
            return
        grid = images[min(self.image, len(images) - 1)]
        if patch[0] < grid["rows"] and patch[1] < grid["columns"]:
            super()._give(change)

    # Answers -----------------------------------------------------------------------------------

    def answer_pairs(self, model: Any) -> dict[str, Any]:
        """How each pair turns, measured on a grid of two by two.

        Returns:
            {"axis": "row" or "column" for each pair, "radians" a step of one patch turns it by,
            "wavelength" in patches: how many steps turn it once}.
        """
        turned = self._angles(2, 2).reshape(2, 2, -1)
        down, right = turned[1, 0] - turned[0, 0], turned[0, 1] - turned[0, 0]
        radians = np.maximum(down, right)
        return {
            "axis": ["row" if d > r else "column" for d, r in zip(down, right, strict=True)],
            "radians": [float(r) for r in radians],
            "wavelength": [2 * math.pi / float(r) for r in radians],
        }

    def answer_alike(
        self, model: Any, rows: int, columns: int, patch: Sequence[int]
    ) -> dict[str, Any]:
        """How alike every patch is to one, of the same content.

        Returns:
            {"map": uint8 (rows, columns), 0 for the least score, "low", and 255 for the greatest,
            "high"}.
        """
        angles = self._checked(rows, columns, patch)
        scores = score(angles, angles[patch[0] * columns + patch[1]]).reshape(rows, columns)
        low, high = float(scores.min()), float(scores.max())
        share = (scores - low) / (high - low) if high > low else np.ones_like(scores)
        return {"map": np.round(share * 255).astype(np.uint8), "low": low, "high": high}

    def answer_score(
        self, model: Any, rows: int, columns: int, patch: Sequence[int], probe: Sequence[int]
    ) -> dict[str, Any]:
        """Of two patches: {"score", and how much of it the pairs of each axis give: "row",
        "column"}."""
        angles = self._checked(rows, columns, patch, probe)
        here, there = (angles[row * columns + column] for row, column in (patch, probe))
        half = len(here) // 2
        return {
            "score": float(score(here, there)),
            "row": float(score(here[:half], there[:half])) / 2,
            "column": float(score(here[half:], there[half:])) / 2,
        }

    def _checked(self, rows: int, columns: int, *patches: Sequence[int]) -> np.ndarray:
        for size in (rows, columns):
            if not 1 <= size <= MOST:
                raise ValueError(f"a grid of {rows} × {columns}; allowed: 1 to {MOST} each")
        for row, column in patches:
            if not (0 <= row < rows and 0 <= column < columns):
                raise IndexError(
                    f"patch {(row, column)}: the grid has rows 0 to {rows - 1} and columns 0 to "
                    f"{columns - 1}"
                )
        return self._angles(rows, columns)

    def _angles(self, rows: int, columns: int) -> np.ndarray:
        vision = self._vision()
        if vision is None:
            raise ValueError("this model has no vision encoder: load one that has")
        angles = Rope2D(vision).angles([(rows, columns)])
        mx.eval(angles)
        return np.array(angles)

    def questions_shown(self):
        """The pairs, and what is chosen."""
        yield "pairs", {}
        size = {"rows": self.rows, "columns": self.columns}
        if self.patch is not None:
            yield "alike", {**size, "patch": list(self.patch)}
            if self.probe is not None:
                yield "score", {**size, "patch": list(self.patch), "probe": list(self.probe)}

    def questions_beyond(self):
        """How alike all patches are to each, and each to B."""
        size = {"rows": self.rows, "columns": self.columns}
        for place in range(self.rows * self.columns):
            patch = list(divmod(place, self.columns))
            yield "alike", {**size, "patch": patch}
            if self.probe is not None:
                yield "score", {**size, "patch": patch, "probe": list(self.probe)}


def score(angles: np.ndarray, others: np.ndarray) -> np.ndarray:
    """q · k of patches of identical content, all of whose pairs have the same length, as a share
    of what it is at the same place: the mean over pairs of cos(difference of angles).

    Arguments:
        angles, others: radians, shapes (..., pairs).

    Returns:
        -1 to 1, shape (...).
    """
    return np.cos(angles.astype(np.float64) - others.astype(np.float64)).mean(axis=-1)
