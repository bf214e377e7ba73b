"""Experiments: small named changes to a run. They combine in a list and compare by value.

>>> model.generate("How many rows?", images=[image], edits=[px.edits.NoBreakTokens()])

Layers, heads and patches count from zero; a patch is a row-major number or (row, column). An edit
with an empty selection changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import mlx.core as mx
import numpy as np

from .image import PatchGrid

if TYPE_CHECKING:
    from .config import PixtralConfig
    from .model import Pixtral
    from .tokenizer import Prompt

Where = Literal["vision", "text"]
Patch = int | tuple[int, int]


class Edit:
    """What every edit can do; the base changes nothing."""

    def check(self, prompt: "Prompt", config: "PixtralConfig") -> None:
        """Raise IndexError, saying what exists, if the edit names what is not there."""

    def tokens(self, prompt: "Prompt", image_ids: tuple[int, int, int]) -> "Prompt":
        """The prompt to run instead; `image_ids` are those of [IMG], [IMG_BREAK], [IMG_END]."""
        return prompt

    def lengths(self, lengths: Sequence[int]) -> Sequence[int]:
        """How many neighbouring patches see one another in the encoder."""
        return lengths

    def change(
        self, site: str, value: mx.array, before: mx.array | None, prompt: "Prompt"
    ) -> mx.array:
        """The value to use at a site (see `tap`)."""
        return value


@dataclass(frozen=True)
class NoBreakTokens(Edit):
    """The prompt without `[IMG_BREAK]`: rows run into one another, only `[IMG_END]` stays.

    Positions close up and the spans follow.
    """

    def tokens(self, prompt: "Prompt", image_ids: tuple[int, int, int]) -> "Prompt":
        """The shorter prompt."""
        kept, spans, shift = [], [], 0
        breaks = {p for span in prompt.spans if span.breaks for p in span.break_positions()}
        kept = [token for p, token in enumerate(prompt.tokens) if p not in breaks]
        for span in prompt.spans:
            spans.append(replace(span, start=span.start - shift, breaks=False))
            shift += span.grid.rows - 1 if span.breaks else 0
        return replace(prompt, tokens=kept, spans=spans)


@dataclass(frozen=True)
class MaskPatches(Edit):
    """What the decoder receives for some patches is replaced by the mean over their image.

    Arguments:
        patches: which ones. image: of which image.
    """

    patches: Sequence[Patch] = ()
    image: int = 0

    def __post_init__(self):
        object.__setattr__(self, "patches", _as_tuple(self.patches))

    def check(self, prompt: "Prompt", config: "PixtralConfig") -> None:
        """The image and its patches must exist."""
        grid = image_grid(prompt, self.image)
        for patch in self.patches:
            patch_index(patch, grid)

    def change(
        self, site: str, value: mx.array, before: mx.array | None, prompt: "Prompt"
    ) -> mx.array:
        """At the projector's output."""
        if site != "projector" or not self.patches:
            return value
        start, stop = patch_range(prompt, self.image)
        grid = prompt.grids[self.image]
        masked = np.zeros(value.shape[0], dtype=bool)
        masked[[start + patch_index(patch, grid) for patch in self.patches]] = True
        mean = value[start:stop].astype(mx.float32).mean(axis=0).astype(value.dtype)
        return mx.where(mx.array(masked)[:, None], mean, value)


@dataclass(frozen=True)
class ShufflePatches(Edit):
    """What the decoder receives for one image's patches is dealt out among their places anew.

    Arguments:
        seed: of the permutation. image: which one.
    """

    seed: int
    image: int = 0

    def check(self, prompt: "Prompt", config: "PixtralConfig") -> None:
        """The image must exist."""
        image_grid(prompt, self.image)

    def change(
        self, site: str, value: mx.array, before: mx.array | None, prompt: "Prompt"
    ) -> mx.array:
        """At the projector's output."""
        if site != "projector":
            return value
        start, stop = patch_range(prompt, self.image)
        order = np.arange(value.shape[0])
        order[start:stop] = start + np.random.RandomState(self.seed).permutation(stop - start)
        return value[mx.array(order)]


@dataclass(frozen=True)
class KnockOutHeads(Edit):
    """What some heads of a layer give is zero.

    Arguments:
        where: "vision" or "text". layer: which one. heads: which ones.
    """

    where: Where
    layer: int
    heads: Sequence[int] = ()

    def __post_init__(self):
        _check_where(self.where)
        object.__setattr__(self, "heads", _as_tuple(self.heads))

    def check(self, prompt: "Prompt", config: "PixtralConfig") -> None:
        """The layer and its heads must exist."""
        layers, heads = _sizes(self.where, config)
        check_index(f"{self.where} layer", self.layer, layers)
        for head in self.heads:
            check_index(f"{self.where} head", head, heads)

    def change(
        self, site: str, value: mx.array, before: mx.array | None, prompt: "Prompt"
    ) -> mx.array:
        """Before `wo`."""
        if site != f"{self.where}.{self.layer}.heads" or not self.heads:
            return value
        kept = np.ones(value.shape[-2], dtype=bool)
        kept[list(self.heads)] = False
        return mx.where(mx.array(kept)[:, None], value, mx.zeros_like(value))


@dataclass(frozen=True)
class SkipLayers(Edit):
    """Some layers leave the residual stream as it is.

    Arguments:
        where: "vision" or "text". layers: which ones.
    """

    where: Where
    layers: Sequence[int] = ()

    def __post_init__(self):
        _check_where(self.where)
        object.__setattr__(self, "layers", _as_tuple(self.layers))

    def check(self, prompt: "Prompt", config: "PixtralConfig") -> None:
        """The layers must exist."""
        for layer in self.layers:
            check_index(f"{self.where} layer", layer, _sizes(self.where, config)[0])

    def change(
        self, site: str, value: mx.array, before: mx.array | None, prompt: "Prompt"
    ) -> mx.array:
        """At the layer's end. It runs all the same, since the KV cache counts its steps."""
        where, _, layer = site.partition(".")
        skipped = where == self.where and layer.isdigit() and int(layer) in self.layers
        return before if skipped and before is not None else value


@dataclass(frozen=True)
class NoVisionMask(Edit):
    """All images of the prompt see one another in the encoder, as in the code that Mistral
    published; positions still start anew with each image."""

    def lengths(self, lengths: Sequence[int]) -> Sequence[int]:
        """All of them together."""
        return [sum(lengths)]


@dataclass(frozen=True, eq=False)
class PatchState(Edit):
    """Activation patching: a named state is taken from another run.

    Arguments:
        site: its name (see `tap`), for example "vision.3" or "projector".
        state: what another run had there, `trace.states[site]`.
        rows: the patches or positions that are replaced; None replaces all.
    """

    site: str
    state: np.ndarray = field(repr=False)
    rows: Sequence[int] | None = None

    def __post_init__(self):
        object.__setattr__(self, "state", np.array(self.state))
        object.__setattr__(self, "rows", None if self.rows is None else _as_tuple(self.rows))
        if not self.site.startswith(("vision.", "projector")):
            raise ValueError(
                f"site is {self.site!r}; allowed are those of the encoder and the projector, which "
                "are computed in one piece: vision.embeddings, vision.0, ..., projector"
            )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PatchState)
            and (self.site, self.rows) == (other.site, other.rows)
            and np.array_equal(self.state, other.state)
        )

    def __hash__(self) -> int:
        return hash((self.site, self.rows, self.state.shape, self.state.tobytes()))

    def change(
        self, site: str, value: mx.array, before: mx.array | None, prompt: "Prompt"
    ) -> mx.array:
        """At its site."""
        if site != self.site or self.rows == ():
            return value
        if self.state.shape not in (tuple(value.shape), tuple(value.shape)[1:]):
            raise ValueError(
                f"{site} has shape {tuple(value.shape)} in this run and {self.state.shape} in the "
                "other: patch between images of one size"
            )
        state = mx.array(self.state).astype(value.dtype).reshape(value.shape)
        if self.rows is None:
            return state
        axis = value.ndim - 2
        for row in self.rows:
            check_index(f"row of {site}", row, value.shape[axis])
        chosen = np.zeros(value.shape[axis], dtype=bool)
        chosen[list(self.rows)] = True
        return mx.where(mx.array(chosen)[:, None], state, value)


def edited(prompt: "Prompt", edits: Sequence[Edit], model: "Pixtral") -> "Prompt":
    """The prompt that a run with these edits has.

    Raises:
        IndexError: an edit names what is not there. TypeError: something is not an edit.
    """
    for edit in edits:
        if not isinstance(edit, Edit):
            raise TypeError(f"edits hold {edit!r}; allowed are objects of pixtral_mlx.edits")
        edit.check(prompt, model.config)
    for edit in edits:
        if prompt.images:
            prompt = edit.tokens(prompt, model.tokenizer.image_ids)
    return prompt


def patch_index(patch: Patch, grid: PatchGrid) -> int:
    """The row-major number of a patch given as a number or as (row, column).

    Raises:
        IndexError: it is outside the grid.
    """
    if isinstance(patch, Sequence):
        row, column = patch
        if not (0 <= row < grid.rows and 0 <= column < grid.columns):
            raise IndexError(
                f"patch {(row, column)}: the image has rows 0 to {grid.rows - 1} and columns 0 to "
                f"{grid.columns - 1}"
            )
        return row * grid.columns + column
    check_index("patch", patch, grid.patches)
    return int(patch)


def patch_range(prompt: "Prompt", image: int) -> tuple[int, int]:
    """Where an image's patches stand among those of all images: (start, stop)."""
    start = sum(grid.rows * grid.columns for grid in prompt.grids[:image])
    return start, start + image_grid(prompt, image).patches


def image_grid(prompt: "Prompt", image: int) -> PatchGrid:
    """The grid of one image.

    Raises:
        IndexError: the prompt has no such image.
    """
    if not prompt.grids:
        raise IndexError(f"image {image}: the prompt has no image")
    check_index("image", image, len(prompt.grids))
    return PatchGrid(*prompt.grids[image])


def check_index(name: str, value: int, count: int) -> None:
    """Raise IndexError, saying what exists, unless 0 <= value < count."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < count:
        raise IndexError(f"{name} {value!r}: there are {count}, 0 to {count - 1}")


def _sizes(where: Where, config: "PixtralConfig") -> tuple[int, int]:
    """Layers and heads."""
    if where == "text":
        return config.text.n_layers, config.text.n_heads
    if config.vision is None:
        raise IndexError("this model has no vision encoder")
    return config.vision.num_hidden_layers, config.vision.num_attention_heads


def _check_where(where: str) -> None:
    if where not in ("vision", "text"):
        raise ValueError(f'where is {where!r}; allowed are "vision" and "text"')


def _as_tuple(items: Sequence) -> tuple:
    return tuple(tuple(i) if isinstance(i, Sequence) else int(i) for i in items)
