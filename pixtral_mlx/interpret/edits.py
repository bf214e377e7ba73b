"""Experiments: small named changes to a run. They combine in a list and compare by value.

>>> model.generate("How many rows?", images=[image], edits=[px.edits.NoBreakTokens()])

Layers, heads and patches count from zero; a patch is a row-major number or (row, column). An edit
with an empty selection changes nothing.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import numpy as np

from ..checks import check_index, is_whole, one_of
from ..model.config import PixtralConfig, Where
from ..model.prompt import Patch, Prompt
from ..model.tap import At, Site

PROJECTOR = Site("projector")


class Edit:
    """What every edit can do; the base changes nothing."""

    def check(self, prompt: Prompt, config: PixtralConfig) -> None:
        """Raise IndexError, saying what exists, if the edit names what is not there."""

    def tokens(self, prompt: Prompt) -> Prompt:
        """The prompt to run instead."""
        return prompt

    def lengths(self, lengths: Sequence[int]) -> Sequence[int]:
        """How many neighbouring patches see one another in the encoder."""
        return lengths

    def change(self, value: mx.array, at: At) -> mx.array:
        """The value to use in the place of `value`, which was computed at `at`; see `tap`."""
        return value


@dataclass(frozen=True)
class NoBreakTokens(Edit):
    """The prompt without `[IMG_BREAK]`: rows run into one another, only `[IMG_END]` stays.

    Positions close up and the spans follow.
    """

    def tokens(self, prompt: Prompt) -> Prompt:
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

    def check(self, prompt: Prompt, config: PixtralConfig) -> None:
        """The image and its patches must exist."""
        grid = prompt.grid(self.image)
        for patch in self.patches:
            grid.index(patch)

    def change(self, value: mx.array, at: At) -> mx.array:
        """At the projector's output."""
        if at.site != PROJECTOR or not self.patches:
            return value
        grid, own = at.prompt.grid(self.image), at.prompt.feature_range(self.image)
        masked = np.zeros(value.shape[0], dtype=bool)
        masked[[own.start + grid.index(patch) for patch in self.patches]] = True
        mean = value[own.start : own.stop].astype(mx.float32).mean(axis=0).astype(value.dtype)
        return mx.where(mx.array(masked)[:, None], mean, value)


@dataclass(frozen=True)
class ShufflePatches(Edit):
    """What the decoder receives for one image's patches is dealt out among their places anew.

    Arguments:
        seed: of the permutation. image: which one.
    """

    seed: int
    image: int = 0

    def check(self, prompt: Prompt, config: PixtralConfig) -> None:
        """The image must exist."""
        prompt.grid(self.image)

    def change(self, value: mx.array, at: At) -> mx.array:
        """At the projector's output."""
        if at.site != PROJECTOR:
            return value
        own, order = at.prompt.feature_range(self.image), np.arange(value.shape[0])
        dealt = np.random.RandomState(self.seed).permutation(len(own))
        order[own.start : own.stop] = own.start + dealt
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

    def check(self, prompt: Prompt, config: PixtralConfig) -> None:
        """The layer and its heads must exist."""
        layers, heads = config.layers_and_heads(self.where)
        check_index(f"{self.where} layer", self.layer, layers)
        for head in self.heads:
            check_index(f"{self.where} head", head, heads)

    def change(self, value: mx.array, at: At) -> mx.array:
        """Before `wo`."""
        if at.site != (self.where, self.layer, "heads") or not self.heads:
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

    def check(self, prompt: Prompt, config: PixtralConfig) -> None:
        """The layers must exist."""
        for layer in self.layers:
            check_index(f"{self.where} layer", layer, config.layers_and_heads(self.where)[0])

    def change(self, value: mx.array, at: At) -> mx.array:
        """At the layer's end. It runs all the same, since the KV cache counts its steps."""
        where, layer, _ = at.site
        skipped = where == self.where and layer in self.layers
        return at.before if skipped and at.before is not None else value


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
        site: its name (see `tap`), for example "vision.3", "projector" or "text.2".
        state: what another run had there, `trace.states[site]`.
        rows: the patches (encoder, projector) or positions (decoder) that are replaced; None
            replaces all that the state has.
    """

    site: str
    state: np.ndarray = field(repr=False)
    rows: Sequence[int] | None = None

    def __post_init__(self):
        object.__setattr__(self, "state", np.array(self.state))
        object.__setattr__(self, "rows", None if self.rows is None else _as_tuple(self.rows))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PatchState)
            and (self.site, self.rows) == (other.site, other.rows)
            and np.array_equal(self.state, other.state)
        )

    def __hash__(self) -> int:
        return hash((self.site, self.rows, self.state.shape, self.state.tobytes()))

    def check(self, prompt: Prompt, config: PixtralConfig) -> None:
        """The site must exist, and an image if it is of the encoder or the projector."""
        if Site.parse(self.site, config).where != "text":
            prompt.grid(0)

    def change(self, value: mx.array, at: At) -> mx.array:
        """At its site."""
        site = at.site
        if str(site) != self.site or self.rows == ():
            return value
        text = site.where == "text"
        axis = value.ndim + site.axis
        own = self.state.ndim + site.axis  # the same axis of a state without batch
        here, there = list(value.shape), list(self.state.shape)
        count, known = here.pop(axis), there.pop(own) if own >= 0 else 0
        if math.prod(here) != math.prod(there) or not (text or count == known):
            raise ValueError(
                f"{site} has shape {tuple(value.shape)} in this run and {self.state.shape} in the "
                "other: patch between images of one size and prompts of one model"
            )
        for row in self.rows or ():
            check_index(f"row of {site}", row, known)
        places = np.arange(count) + at.position
        chosen = np.isin(places, np.arange(known) if self.rows is None else self.rows)
        if not chosen.any():
            return value
        state = mx.array(self.state.take(np.minimum(places, known - 1), axis=own))
        state = state.astype(value.dtype).reshape(value.shape)
        mask = mx.array(chosen.tolist())
        mask = mask.reshape([count if n == axis else 1 for n in range(value.ndim)])
        return mx.where(mask, state, value)


def as_edits(edits: Iterable[Edit] | Edit) -> tuple[Edit, ...]:
    """Edits in a tuple; one alone may come without a list."""
    return (edits,) if isinstance(edits, Edit) else tuple(edits)


def edited(prompt: Prompt, edits: Sequence[Edit], config: PixtralConfig) -> Prompt:
    """The prompt that a run with these edits has.

    Raises:
        IndexError: an edit names what is not there. TypeError: something is not an edit.
    """
    for edit in edits:
        if not isinstance(edit, Edit):
            raise TypeError(f"edits hold {edit!r}; allowed: objects of px.edits")
        edit.check(prompt, config)
    for edit in edits:
        if prompt.images:
            prompt = edit.tokens(prompt)
    return prompt


def _check_where(where: str) -> None:
    one_of("where", where, ("vision", "text"))


def _as_tuple(items: Iterable) -> tuple:
    if not isinstance(items, Iterable) or isinstance(items, str):
        raise TypeError(f"{items!r} is chosen; allowed: a list, even for one: [{items!r}]")
    return tuple(_as_tuple(i) if isinstance(i, Iterable) else _whole(i) for i in items)


def _whole(value: Any) -> int:
    if not is_whole(value):
        raise TypeError(f"{value!r} is chosen; allowed: whole numbers")
    return int(value)
