"""Where a forward pass can be looked at and changed: sites, and the tap that modules call there.

| site | shape | what it is |
|---|---|---|
| `vision.embeddings` | (N, D) | patches of all images after `ln_pre` |
| `vision.3.queries`, `vision.3.keys` | (1, H, N, head_dim) | turned by RoPE-2D |
| `vision.3.heads` | (N, H, head_dim) | what each head of layer 3 gives to `wo` |
| `vision.3` | (N, D) | the residual stream after layer 3 |
| `projector` | (N, D) | what enters the decoder for each `[IMG]`: a patch, or merged ones |
| `text.embeddings` | (B, L, D) | image features merged in |
| `text.3.queries` | (B, H, L, head_dim) | turned by RoPE |
| `text.3.heads` | (B, L, H, head_dim) | what each head of layer 3 gives to `wo` |
| `text.3` | (B, L, D) | the residual stream after layer 3 |

Layers count from zero. Keys and values of the decoder are in its KV cache.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import mlx.core as mx

from ..checks import check_index
from .config import PixtralConfig
from .prompt import Prompt

_KINDS = {"vision": ("", "queries", "keys", "heads"), "text": ("", "queries", "heads")}


class Site(NamedTuple):
    """One place in the table above; `str(site)` is how it is written there.

    Arguments:
        where: "vision", "projector" or "text".
        layer: number, or None where there is none.
        what: "queries", "keys", "heads", "embeddings", or "" for the residual stream and the
            projector's output.
    """

    where: str
    layer: int | None = None
    what: str = ""

    @classmethod
    def parse(cls, text: str, config: PixtralConfig) -> "Site":
        """The site of a name.

        Raises:
            IndexError: there is no such site, or the model has no such layer; the text says what
                exists.
        """
        where, _, rest = text.partition(".")
        layer, _, what = rest.partition(".")
        if text == "projector" or (where in _KINDS and rest == "embeddings"):
            config.layers_and_heads("text" if where == "text" else "vision")
            return cls(where, None, rest)
        if not (where in _KINDS and layer.isdigit() and what in _KINDS[where]):
            raise IndexError(
                f"site {text!r}: there are vision.embeddings, vision.0 (and its .queries, .keys, "
                ".heads), ..., projector, text.embeddings, text.0 (and its .queries, .heads), ..."
            )
        layers, _ = config.layers_and_heads("text" if where == "text" else "vision")
        check_index(f"{where} layer", int(layer), layers)
        return cls(where, int(layer), what)

    def __str__(self) -> str:
        parts = (self.where, "" if self.layer is None else str(self.layer), self.what)
        return ".".join(filter(None, parts))

    @property
    def axis(self) -> int:
        """Of patches or positions in a value, counted from the last."""
        return -3 if self.what == "heads" else -2

    @property
    def batched(self) -> bool:
        """Whether a value has a batch axis, the first."""
        return self.where == "text" or self.what in ("queries", "keys")


class At(NamedTuple):
    """Where and when a value is computed.

    Arguments:
        site: the place.
        before: at the end of a layer the residual stream before it, else None.
        prompt: of the run.
        position: in the decoder, of the first token of the value.
    """

    site: Site
    before: mx.array | None
    prompt: Prompt
    position: int = 0


class Change(Protocol):
    """What a tap carries into the modules; `edits.Edit` is one."""

    def change(self, value: mx.array, at: At) -> mx.array:
        """The value to go on with."""
        ...

    def lengths(self, lengths: Sequence[int]) -> Sequence[int]:
        """How many neighbouring patches see one another in the encoder."""
        ...


Record = Callable[[Site, mx.array, int], None]


class Tap:
    """Carries the edits of one run into the modules, and what they compute out of them.

    Arguments:
        prompt: of the run; edits ask it where the images are.
        edits: applied at every site, in order, before anything is recorded.
        record: called with (site, value, position of the first token); None records nothing.
    """

    def __init__(self, prompt: Prompt, edits: Sequence[Change] = (), record: Record | None = None):
        self.prompt, self.edits, self.record = prompt, tuple(edits), record

    def at(self, where: str, layer: int | None = None, position: int = 0) -> "BoundTap":
        """This tap at one layer: what its modules call."""
        return BoundTap(self, where, layer, position)

    def lengths(self, lengths: Sequence[int]) -> Sequence[int]:
        """How many neighbouring patches see one another: one entry an image, unless edited."""
        for edit in self.edits:
            lengths = edit.lengths(lengths)
        return lengths


class BoundTap:
    """A tap at one layer; see `Tap.at`."""

    def __init__(self, tap: Tap, where: str, layer: int | None, position: int):
        self._tap, self._where, self._layer, self._position = tap, where, layer, position

    def __call__(self, what: str, value: mx.array, before: mx.array | None = None) -> mx.array:
        """Called by the modules: the value, edited and recorded.

        Arguments:
            what: of the site, see `Site`.
            value: what was computed.
            before: at the end of a layer, the residual stream before it.
        """
        tap, site = self._tap, Site(self._where, self._layer, what)
        for edit in tap.edits:
            value = edit.change(value, At(site, before, tap.prompt, self._position))
        if tap.record is not None:
            tap.record(site, value, self._position)
        return value


class _NoTap(Tap):
    """Looks at nothing and changes nothing, so that no module asks whether there is a tap."""

    def __init__(self):
        self.edits = ()

    def at(self, where: str, layer: int | None = None, position: int = 0) -> Any:
        return self

    def __call__(self, what: str, value: mx.array, before: mx.array | None = None) -> mx.array:
        return value

    def lengths(self, lengths: Sequence[int]) -> Sequence[int]:
        return lengths


NO_TAP = _NoTap()
