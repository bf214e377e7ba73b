"""What a run keeps for looking inside: queries, keys and residual streams, and no map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx

from ..checks import check_index
from ..model.config import PixtralConfig
from ..model.tap import Site

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class TraceOptions:
    """What to keep, where everything would be too much.

    Arguments:
        vision_layers: layers of the encoder; None keeps all (400 MB for a 12B at 4096 patches).
        text_layers: layers of the decoder; None keeps all.
        states: sites (see `tap`) of which every value is kept, for `Trace.states`.
    """

    vision_layers: Sequence[int] | None = None
    text_layers: Sequence[int] | None = None
    states: Sequence[str] = ()

    def check(self, config: PixtralConfig) -> None:
        """Raise IndexError, saying what exists, for a layer or a state that does not."""
        for layer in self.text_layers or ():
            check_index("text layer", layer, config.text.n_layers)
        for layer in self.vision_layers or ():
            check_index(
                "vision layer", layer, config.vision.num_hidden_layers if config.vision else 0
            )
        if isinstance(self.states, str):
            raise IndexError(f"states must be a list, even for one, got {self.states!r}")
        for site in self.states:
            Site.parse(site, config)

    def numbers(self, config: PixtralConfig, tokens: int, new: int, patches: int) -> int:
        """How many numbers a `Recorder` keeps of an answer: for the 12B 49,152 a patch (queries and
        keys) and 368,640 a new token (queries and residuals).

        Arguments:
            tokens: of the context at the end.
            new: those of them that are written.
            patches: of all images.
        """
        text, vision = config.text, config.vision
        heads, layers = text.n_heads * text.head_dim, _count(text.n_layers, self.text_layers)
        total = layers * new * (heads + text.dim)
        if vision is not None and patches:
            layers = _count(vision.num_hidden_layers, self.vision_layers)
            total += layers * patches * 2 * vision.hidden_size
        for where, _, what in (Site.parse(name, config) for name in self.states):
            if where == "text":
                total += tokens * (heads if what in ("queries", "heads") else text.dim)
            elif vision is not None:
                total += patches * (text.dim if where == "projector" else vision.hidden_size)
        return total


class Recorder:
    """Collects from a `Tap` what a `Trace` needs.

    Arguments:
        first: position whose query chooses the first new token.
        options: which layers and states.
    """

    def __init__(self, first: int, options: TraceOptions):
        self._first, self._options = first, options
        self._states = set(options.states)
        self._parts: dict[str, list[mx.array]] = {}  # of the encoder, a group of images each
        self.vision: dict[str, mx.array] = {}
        self.text: dict[str, list[mx.array]] = {}
        self.states: dict[str, list[mx.array]] = {}
        self.writer: int | None = None  # the thread that is writing

    def __call__(self, site: Site, value: mx.array, position: int) -> None:
        """Keep `value` if it is wanted; called by the tap."""
        name, options = str(site), self._options
        if name in self._states:
            self.states.setdefault(name, []).append(value)
        where, layer, what = site
        if layer is None:
            return
        seen = where == "vision" and what in ("queries", "keys")
        if seen and _wanted(layer, options.vision_layers):
            self._parts.setdefault(name, []).append(value[0])
        steps = value.shape[site.axis]
        chosen = where == "text" and what in ("queries", "") and position + steps > self._first
        if chosen and _wanted(layer, options.text_layers):
            kept = self.text.setdefault(name, [])
            kept += _rows(value, site.axis, max(0, self._first - position))

    def join(self) -> None:
        """All images have been encoded: what came group by group becomes one array a site."""
        for site, parts in self._parts.items():
            self.vision[site] = mx.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        self._parts.clear()

    def rows(self, config: PixtralConfig, count: int) -> dict[str, mx.array]:
        """What was kept of the first `count` new tokens, one array per site.

        Returns:
            Queries (count, H, head_dim) and residual streams (count, 1, D).
        """
        found = {}
        for site, rows in self.text.items():
            shape = (config.text.n_heads, -1) if site.endswith(".queries") else (1, -1)
            whole = mx.stack([row.reshape(shape) for row in (rows[:count] or rows[:1])])
            found[site] = whole[:count]
        return found

    def whole_states(self, config: PixtralConfig) -> dict[str, mx.array]:
        """The named states with their chunks joined, as the tap saw them."""
        whole = {}
        for name, parts in self.states.items():
            axis = Site.parse(name, config).axis
            whole[name] = mx.concatenate(parts, axis=axis) if len(parts) > 1 else parts[0]
        return whole

    def latest(self) -> list[mx.array]:
        """Of every site in the decoder the latest row, which need not have been computed."""
        return [rows[-1] for rows in self.text.values()]

    def finish(self) -> None:
        """Nothing more comes: any thread may look."""
        self.writer = None

    @property
    def sees_vision(self) -> bool:
        """Whether anything of the vision encoder or the projector is wanted."""
        named = any(not site.startswith("text.") for site in self._states)
        layers = self._options.vision_layers
        return named or layers is None or len(layers) > 0

    @property
    def sees_positions(self) -> bool:
        """Whether states of the decoder are wanted, which come from every position."""
        return any(site.startswith("text.") for site in self._states)

    @property
    def nbytes(self) -> int:
        """Bytes kept beside the KV cache."""
        lists = [list(self.vision.values()), *self.text.values(), *self.states.values()]
        return sum(array.nbytes for arrays in lists for array in arrays)


def _count(every: int, layers: Sequence[int] | None) -> int:
    return every if layers is None else len(set(layers))


def _wanted(layer: int, layers: Sequence[int] | None) -> bool:
    return layers is None or layer in layers


def _rows(value: mx.array, axis: int, start: int) -> list[mx.array]:
    """Rows of a value from one on, along an axis, which do not hold those before them in memory."""
    if value.shape[axis] == 1:
        return [value]
    wanted = mx.contiguous(mx.split(value, [start], axis=axis)[1])
    return list(mx.split(wanted, wanted.shape[axis], axis=axis))
