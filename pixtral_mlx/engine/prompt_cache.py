"""What earlier calls computed and later ones need not: keys and values, and image features.

The keys and values of a position depend on the tokens up to it, on what their images show, on the
edits of the run and on the bits that they are kept in. A new prompt takes over those of the longest
beginning that kept ones have together; the rest is computed. Of conversations that begin alike,
with the same picture say, one is kept whole and of the others what follows the beginning. Image
features depend on one image alone and are kept beside them. The least recently used goes first when
the bytes run out. A part of the bytes is for the pixels of pictures from files, so that a
conversation does not open them again.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from threading import RLock
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..checkpoint.identity import LoadedArrays
from ..inputs.prepared import PreparedPictures
from ..model.kv_cache import append, copied, cut, shared
from ..model.vision_language_model import VisionLanguageModel
from .content import Content

if TYPE_CHECKING:
    from .prompt_folder import PromptFolder

log = logging.getLogger(__name__)

PICTURES_SHARE = 8
"""This part of the bytes, one of so many, is the most that pixels take."""


@dataclass(eq=False)
class _Features:
    """Of one image, shape (N, D)."""

    array: mx.array

    @property
    def nbytes(self) -> int:
        return self.array.nbytes


@dataclass(eq=False)
class _Conversation:
    """Keys and values of what was read and written, in order.

    Arguments:
        content: what they depend on.
        layers: KV caches, one a layer.
        nbytes: that they take.
        start: the first position that they hold; those before it have to be found in others.
    """

    content: Content
    layers: list[Any]
    nbytes: int
    start: int = 0

    def __len__(self) -> int:
        return len(self.content.tokens)


def _locked(method: Any) -> Any:
    """One thread at a time: whoever lowers `max_bytes` need not be the one that answers."""

    @wraps(method)
    def call(self: Any, *given: Any) -> Any:
        with self._lock:
            return method(self, *given)

    return call


class PromptCache:
    """Keys, values and features of earlier calls on one model, within a number of bytes.

    `model.prompt_cache` is one; `model.clear_cache()` empties it. What is kept is never written
    to: a call that goes on from it takes the arrays over, or works on a copy.

    Arguments:
        max_bytes: keep at most this much; may be changed at any time, on any thread, and a lower
            number is kept to at once.

    `folder` keeps conversations for other processes as well, see `model.open_prompt_cache`.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._lock = RLock()
        self.emptied = 0  # how often: what was begun before belongs to another time
        self._kept: OrderedDict[Any, _Features | _Conversation] = OrderedDict()
        self._weights: LoadedArrays | None = None
        self.folder: PromptFolder | None = None
        self.pictures = PreparedPictures(lambda: self.max_bytes // PICTURES_SHARE)

    @property
    def max_bytes(self) -> int:
        """The most that is kept."""
        return self._max_bytes

    @max_bytes.setter
    def max_bytes(self, most: int) -> None:
        self._max_bytes = most
        self.shrink(most)

    @property
    def nbytes(self) -> int:
        """Bytes kept now; any thread may ask."""
        return self.pictures.nbytes + sum(kept.nbytes for kept in list(self._kept.values()))

    def __len__(self) -> int:
        """Conversations kept now."""
        return sum(1 for _ in self._conversations())

    @_locked
    def clear(self) -> None:
        """Forget everything."""
        self._forget_computed()
        self.pictures.clear()

    def _forget_computed(self) -> None:
        self._kept.clear()
        self.emptied += 1

    @_locked
    def shrink(self, room: int) -> None:
        """Forget the least recently used until at most `room` bytes are kept."""
        self.pictures.shrink(room // PICTURES_SHARE)
        while self._kept and self.nbytes > room:
            self._kept.popitem(last=False)

    @_locked
    def check(self, model: VisionLanguageModel) -> None:
        """Forget all that was computed if a weight was replaced since the last call.

        (A weight that is written to in place is the same array: then call `clear`.)
        """
        if self._weights is None or not self._weights.are_those_of(model):
            if self.folder is not None and self._weights is not None:
                log.warning("the weights have changed: %s is not used any more", self.folder.folder)
                self.folder = None
            self._forget_computed()
            self._weights = LoadedArrays(model)

    # Keys and values ---------------------------------------------------------------------------

    @_locked
    def take(self, content: Content, fresh: list[Any]) -> tuple[list[Any], int]:
        """The cache to start a run with, and how many positions it holds.

        The last position of the prompt is always left to compute: its logits choose the first
        token. Where most of an entry is wanted, its arrays are handed over, and nothing is copied
        but the rest of it, which stays; `keep` brings the entry back, longer.

        Arguments:
            content: of the prompt.
            fresh: an empty cache, given back if nothing fits.
        """
        parts = self._parts(content)
        length = parts[-1][1] if parts else 0
        found = None if self.folder is None else self.folder.load(content, length)
        if found is not None:
            own, layers = found
            length = min(content.shared(own), len(content.tokens) - 1)
            return [cut(layer, length) for layer in layers], length
        if not parts:
            return fresh, 0
        (first, length), *others = parts
        for kept, _ in parts:
            self._kept.move_to_end(kept.content)
        if 2 * length >= len(first):
            del self._kept[first.content]
            self._keep_rest(first, length)
            layers = [shared(layer, length) for layer in first.layers]
        else:
            layers = [cut(layer, length) for layer in first.layers]
        for kept, upto in others:
            for layer, part in zip(layers, kept.layers, strict=True):
                append(layer, part, slice(length - kept.start, upto - kept.start))
            length = upto
        return layers, length

    @_locked
    def known(self, content: Content) -> int:
        """How many positions a run would find here (not counted what is in `folder`)."""
        parts = self._parts(content)
        return parts[-1][1] if parts else 0

    def _parts(self, content: Content) -> list[tuple[_Conversation, int]]:
        """The entries that together have the longest beginning of a prompt, each with the position
        up to which it is wanted. (Of equals the latest.)"""
        most = len(content.tokens) - 1
        kept = [(kept, min(content.shared(kept.content), most)) for kept in self._conversations()]
        parts, reached = [], 0
        while more := [part for part in kept if part[0].start <= reached < part[1]]:
            parts.append(max(reversed(more), key=lambda part: part[1]))
            reached = parts[-1][1]
        return parts

    @_locked
    def keep(self, content: Content, layers: list[Any]) -> None:
        """Keep the keys and values of `content`, which `layers` hold and perhaps more.

        What they replace goes: entries that are a beginning of this one; and of those of which half
        is, the beginning. NaN is not kept, which would be in every answer that goes on from it.
        """
        length = len(content.tokens)
        if length == 0 or _holds_nan(layers[-1], length):
            return
        if self.folder is not None:
            self.folder.save(content, layers)
        layers, nbytes = _fitted(layers, length)
        if nbytes > self.max_bytes:
            return
        for other in [*self._conversations()]:
            common = content.shared(other.content)
            if common == length and not other.start:  # it is there already, and more
                self._kept.move_to_end(other.content)
                return
            if not other.start and 2 * common >= len(other):
                self._keep_rest(other, common)
            if common == len(other):
                del self._kept[other.content]
        mx.eval([(layer.keys, layer.values) for layer in layers])
        self._kept[content] = _Conversation(content, layers, nbytes)
        self.shrink(self.max_bytes)

    def _keep_rest(self, whole: _Conversation, start: int) -> None:
        """Of an entry only what follows its beginning; the rest of it has been taken over."""
        if start == len(whole):
            return
        rest = [copied(layer, slice(start, len(whole))) for layer in whole.layers]
        # Now: until it is copied it holds the whole, which MLX would copy when it is written to.
        mx.eval([(layer.keys, layer.values) for layer in rest])
        nbytes = sum(layer.nbytes for layer in rest)
        self._kept[whole.content] = _Conversation(whole.content, rest, nbytes, start)

    def _conversations(self) -> Iterator[_Conversation]:
        return (kept for kept in self._kept.values() if isinstance(kept, _Conversation))

    # Features ----------------------------------------------------------------------------------

    @_locked
    def features(self, digests: Sequence[str]) -> dict[str, mx.array]:
        """What the projector gave for those of some images that are kept: {digest: (N, D)}."""
        known = {}
        for digest in digests:
            kept = self._kept.get(digest)
            if isinstance(kept, _Features):
                self._kept.move_to_end(digest)
                known[digest] = kept.array
        return known

    @_locked
    def keep_features(self, features: Mapping[str, mx.array]) -> None:
        """Keep features of images: {digest: (N, D)}."""
        mx.eval(list(features.values()))
        for digest, array in features.items():
            if array.nbytes <= self.max_bytes:
                self._kept[digest] = _Features(array)
        self.shrink(self.max_bytes)


def _fitted(layers: list[Any], length: int) -> tuple[list[Any], int]:
    """The first positions of some layers, and the bytes that they hold. There is room behind them,
    where whoever goes on can write; of layers that are less than half full only what is used is
    copied."""
    nbytes = sum(layer.nbytes for layer in layers)
    used = sum(cut(layer, length).nbytes for layer in layers)
    if 2 * used > nbytes:
        return [shared(layer, length) for layer in layers], nbytes
    return [copied(layer, slice(0, length)) for layer in layers], used


def _holds_nan(layer: Any, length: int) -> bool:
    """Whether the values of a layer do, up to a position; the last layer has it from all others."""
    parts: Any = tree_flatten(layer.values)
    floats = [array[..., :length, :] for _, array in parts if array.dtype != mx.uint32]
    return any(mx.isnan(array).any().item() for array in floats)
