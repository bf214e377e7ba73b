"""`VisionAttention`: where a patch looks."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import traitlets

import pixtral_mlx as px

from .long_work import LongWork
from .packing import heat
from .session import Session
from .view import View

NEAR = 2
"""Rows and columns within which a patch counts as near."""

SAVED_NUMBERS = 100_000
"""If the maps of all layers and heads hold no more, a page without a kernel has them all."""


class VisionAttention(View):
    """Where a patch looks, layer by layer and head by head, in the vision encoder.

    Click a patch (or walk with the arrow keys), slide through the layers, choose a head among the
    small maps. The bar under each tells how far that head looks from this patch.

    >>> view = VisionAttention(session)
    >>> view.patch, view.layer, view.head = (4, 7), 3, 2
    >>> VisionAttention("chart.png", model="mini")

    Arguments:
        source: a `Session`, or an image.
        model: with an image: what `Session` takes.

    Traits:
        layer: of the encoder, from 0.
        head: None is the mean over heads.
        mode: "mean", "head" or "rollout" (attention followed back through all layers).
        plain: whether attention is a map of colours (cividis); else it is light on the picture.
        patch: (row, column) that looks; None shows the one that the answer rests on.
        image: of which picture.
        work: {"stage", "done", "total"} while a rollout is computed; empty otherwise.
        rolled: [image, row, column] of the rollout that is there; empty for none.
    """

    name = "vision_attention"
    opens = True
    layer = traitlets.Int(0, min=0).tag(sync=True)
    head = traitlets.Int(None, allow_none=True).tag(sync=True)
    plain = traitlets.Bool(False).tag(sync=True)
    mode = traitlets.Enum(["mean", "head", "rollout"], "mean").tag(sync=True)
    work = traitlets.Dict().tag(sync=True)
    rolled = traitlets.List().tag(sync=True)

    def __init__(self, source: Any = None, model: Any = None, **options: Any):
        self._rollout: np.ndarray | None = None
        self._rolling: LongWork | None = None
        self._turn = threading.RLock()  # choices come from the browser's thread and the session's
        super().__init__(source, model, **options)
        self.observe(self._head_chosen, "head")
        self.observe(self._mode_chosen, "mode")
        self.observe(lambda _: self._roll(), ["mode", "patch", "image", "facts"])
        if self.head is not None and self.mode == "mean":
            self.mode = "head"
        self._mode_chosen(None)
        self._roll()

    def _head_chosen(self, change: Any) -> None:
        self.mode = "mean" if change["new"] is None else "head"

    def _mode_chosen(self, _: Any) -> None:
        if self.mode == "mean":
            self.head = None
        elif self.mode == "head" and self.head is None:
            self.head = 0

    def _choose_what_exists(self, facts: Any) -> None:
        """Another model may have fewer layers and heads."""
        super()._choose_what_exists(facts)
        vision = facts.get("vision")
        if vision and self.layer >= vision["layers"]:
            self.layer = vision["layers"] - 1
        if vision and self.head is not None and self.head >= vision["heads"]:
            self.head = 0

    # Merged patches ----------------------------------------------------------------------------

    def facts_now(self, session: Session) -> dict[str, Any]:
        """As in `View`, but images are counted in the encoder's patches, which a model may merge
        into fewer tokens afterwards."""
        facts = super().facts_now(session)
        images = [
            {
                **image,
                "rows": image["rows"] * image["merge"],
                "columns": image["columns"] * image["merge"],
                "merge": 1,
            }
            for image in facts["images"]
        ]
        return {**facts, "images": images}

    def _opened(self, found: dict[str, Any]) -> dict[str, Any]:
        """The first patch of the square on which the answer rests."""
        if not found:
            return found
        return {**found, "patch": [place * self._merge() for place in found["patch"]]}

    def _merge(self) -> int:
        config = self.session.config if self.session else None
        return 1 if config is None or config.vision is None else config.vision.spatial_merge_size

    def _take(self, selection: Mapping[str, Any]) -> None:
        """What other views choose is a token's square: its first patch, unless one is chosen."""
        square, merge = selection["patch"], self._merge()
        own = None if self.patch is None else tuple(place // merge for place in self.patch)
        if square is not None:
            square = (square[0] * merge, square[1] * merge) if own != tuple(square) else self.patch
        super()._take({**selection, "patch": square})

    def _give(self, change: Any) -> None:
        patch, merge = change["new"], self._merge()
        if change["name"] == "patch" and patch is not None:
            change = {**change, "new": tuple(place // merge for place in patch)}
        super()._give(change)

    # Rows --------------------------------------------------------------------------------------

    def answer_heads(
        self, model: Any, layer: int, patch: Sequence[int], image: int
    ) -> dict[str, Any]:
        """Where a patch looks, in all heads of a layer and, last, in their mean.

        Returns:
            {"maps" uint8 (heads + 1, rows, columns), each of its own greatest value; and for each
            of them, what `measured` tells}.
        """
        patch = (patch[0], patch[1])
        maps = self._trace().vision_rows(layer, patch, image)
        return measured(np.stack([*maps, maps.mean(axis=0)]), patch)

    def answer_rollout(self, model: Any, patch: Sequence[int], image: int) -> dict[str, Any]:
        """The rollout of a patch, once it is computed (see `rolled`), in the same shape."""
        if self._rollout is None or self.rolled != [image, *patch]:
            raise ValueError(
                f"the rollout of patch {tuple(patch)} has not been computed: set `mode`"
            )
        return measured(self._rollout[None], patch)

    def _trace(self) -> px.Trace:
        trace = self.session.trace if self.session else None
        if trace is None:
            raise ValueError(
                "no answer has been traced: ask a question with a picture, with trace=True"
            )
        return trace

    # The rollout -------------------------------------------------------------------------------

    def _roll(self) -> None:
        """Compute the rollout of what is chosen, unless it is there or under way."""
        with self._turn:
            self._roll_now()

    def _roll_now(self) -> None:
        image, patch, epoch = self.image, self.patch, self.facts.get("epoch")
        wanted = (epoch, image, patch)
        if self._rolling is not None and self._wanted != wanted:
            self._end_rolling()
        if self.mode != "rollout" or patch is None or self.session is None:
            self._end_rolling()
            return
        if self._rolling is not None or self._rolled_for == wanted:
            return
        self._wanted = wanted
        self.work = {"stage": "following attention back", "done": 0, "total": 0}

        def finish(found: Any, problem: str) -> None:
            with self._turn:
                if self._wanted != wanted:
                    return
                self._rolling, self._wanted, self.work = None, None, {}
                self.problem = problem
                if found is not None:
                    self._rollout, self._rolled_for = found, wanted
                    self.rolled = [image, *patch]

        self._rolling = LongWork(
            self.session,
            lambda model: self._trace().vision_rollout_steps(patch, image),
            report=lambda done, total: self._report(wanted, done, total),
            finish=finish,
        )
        self._rolling.start()

    _wanted: Any = None
    _rolled_for: Any = None

    def _report(self, wanted: Any, done: int, total: int) -> None:
        if self._wanted == wanted:
            self.work = {"stage": "following attention back", "done": done, "total": total}

    def _end_rolling(self) -> None:
        with self._turn:
            if self._rolling is not None:
                self._rolling.stop()
            self._rolling, self._wanted, self.work = None, None, {}

    def do_stop(self) -> None:
        """The reader has waited enough: for the rollout, or for the answer."""
        if self._rolling is not None:
            self._end_rolling()
        elif self.session is not None:
            self.session.stop()

    # Without a kernel --------------------------------------------------------------------------

    def questions_shown(self):
        """The pictures, the heads of this layer (of all layers, if they are small), the rollout."""
        yield from super().questions_shown()
        vision, images = self.facts.get("vision"), self.facts.get("images")
        patch = self.patch_shown()
        if patch is None or not vision or not images:
            return
        grid = images[self.image]
        numbers = grid["rows"] * grid["columns"] * vision["layers"] * (vision["heads"] + 1)
        all_layers = range(vision["layers"]) if numbers <= SAVED_NUMBERS else [self.layer]
        for layer in all_layers:
            yield "heads", {"layer": layer, "patch": patch, "image": self.image}
        if self.rolled == [self.image, *patch]:
            yield "rollout", {"patch": patch, "image": self.image}

    def questions_beyond(self):
        """Where every patch of the picture looks, in this layer and then in the others."""
        vision, images = self.facts.get("vision"), self.facts.get("images")
        if not vision or not images:
            return
        grid = images[self.image]
        for layer in sorted(range(vision["layers"]), key=lambda one: one != self.layer):
            for place in range(grid["rows"] * grid["columns"]):
                patch = list(divmod(place, grid["columns"]))
                yield "heads", {"layer": layer, "patch": patch, "image": self.image}

    def patch_shown(self) -> list[int] | None:
        """The patch that looks: the chosen one, else that on which the answer rests most, or the
        middle of another picture; None before there is an answer."""
        images = self.facts.get("images")
        if self.patch is not None or not self.opening or not images:
            return None if self.patch is None else list(self.patch)
        if self.opening["image"] == self.image:
            return self.opening["patch"]
        return [images[self.image]["rows"] // 2, images[self.image]["columns"] // 2]

    def keep(self) -> None:
        """As in `View`, after a rollout that is under way."""
        rolling = self._rolling
        if rolling is not None:
            rolling.ended.wait()
        super().keep()


def measured(maps: np.ndarray, patch: Sequence[int]) -> dict[str, Any]:
    """Maps of a patch's attention, small enough to send, and what a caption says of each.

    Arguments:
        maps: float, shape (maps, rows, columns).
        patch: (row, column) that looks.

    Returns:
        {"maps" uint8, each of its own greatest value, "top" that value, "sum"}, and of the sum:
        "near" the share within two rows and columns of the patch, "row" and "column" [which one
        holds most, its share], "peak" [row, column] of the greatest value; "distance" is the mean
        distance in patches, and "even" what it would be if the patch looked evenly.
    """
    small = [heat(one) for one in maps]
    sums = np.maximum(maps.sum(axis=(1, 2)), 1e-12)
    top, left = max(patch[0] - NEAR, 0), max(patch[1] - NEAR, 0)
    near = maps[:, top : patch[0] + NEAR + 1, left : patch[1] + NEAR + 1].sum(axis=(1, 2))
    rows, columns = maps.sum(axis=2), maps.sum(axis=1)
    peaks = [np.unravel_index(int(one.argmax()), one.shape) for one in maps]
    return {
        "maps": np.stack([one["map"] for one in small]),
        "top": _few(one["top"] for one in small),
        "sum": _few(one["sum"] for one in small),
        "near": _few(near / sums),
        "row": [[int(r.argmax()), *_few([r.max() / s])] for r, s in zip(rows, sums, strict=True)],
        "column": [
            [int(c.argmax()), *_few([c.max() / s])] for c, s in zip(columns, sums, strict=True)
        ],
        "peak": [[int(row), int(column)] for row, column in peaks],
        "distance": _few(px.mean_distance(maps, patch)),
        "even": _few([px.mean_distance(np.ones(maps.shape[1:]), patch)])[0],
    }


def _few(values: Iterable[Any]) -> list[float]:
    """Numbers with the digits that a caption needs: a page holds thousands of them."""
    return [float(f"{value:.6g}") for value in values]
