"""What earlier calls computed and later ones need not: keys and values, and image features.

The keys and values of a position depend on the tokens up to it, on what their images show, on the
edits of the run and on the bits that they are kept in. A new prompt takes over those of the longest
beginning that it shares with a kept one; the rest is computed. Image features depend on one image
alone and are kept beside them. The least recently used goes first when the bytes run out. A part of
the bytes is for the pixels of pictures from files, so that a conversation does not open them again.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from ..checkpoint.identity import LoadedArrays
from ..inputs.prepared import PreparedPictures
from ..model.kv_cache import cut
from ..model.vision_language_model import VisionLanguageModel
from .content import Content

if TYPE_CHECKING:
    from .prompt_folder import PromptFolder

log = logging.getLogger(__name__)

PICTURES_SHARE = 8
"""This part of the bytes, one of so many, is the most that pixels take."""


@dataclass(eq=False)
class _Kept:
    """One entry: a KV cache with its content, or the features of one image without."""

    nbytes: int
    arrays: Any
    content: Content | None = None


class PromptCache:
    """Keys, values and features of earlier calls on one model, within a number of bytes.

    `model.prompt_cache` is one; `model.clear_cache()` empties it. What is kept is never written
    to: a call that goes on from it works on arrays of its own.

    Arguments:
        max_bytes: keep at most this much; may be changed at any time.

    `folder` keeps conversations for other processes as well, see `model.open_prompt_cache`.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.emptied = 0  # how often: what was begun before belongs to another time
        self._kept: OrderedDict[Any, _Kept] = OrderedDict()
        self._weights: LoadedArrays | None = None
        self.folder: PromptFolder | None = None
        self.pictures = PreparedPictures(lambda: self.max_bytes // PICTURES_SHARE)

    @property
    def nbytes(self) -> int:
        """Bytes kept now; any thread may ask."""
        return self.pictures.nbytes + sum(kept.nbytes for kept in list(self._kept.values()))

    def __len__(self) -> int:
        """Conversations kept now."""
        return sum(1 for _ in self._conversations())

    def clear(self) -> None:
        """Forget everything."""
        self._forget_computed()
        self.pictures.clear()

    def _forget_computed(self) -> None:
        self._kept.clear()
        self.emptied += 1

    def shrink(self, room: int) -> None:
        """Forget the least recently used until at most `room` bytes are kept."""
        self.pictures.shrink(room // PICTURES_SHARE)
        while self._kept and self.nbytes > room:
            self._kept.popitem(last=False)

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

    def take(self, content: Content, fresh: list[Any]) -> tuple[list[Any], int]:
        """The cache to start a run with, and how many positions it holds.

        The last position of the prompt is always left to compute: its logits choose the first
        token. An entry that the run goes on from to the letter leaves; `keep` brings it back.

        Arguments:
            content: of the prompt.
            fresh: an empty cache, given back if nothing fits.
        """
        best, length = self._longest(content)
        found = None if self.folder is None else self.folder.load(content, length)
        if found is not None:
            own, layers = found
            length = min(content.shared(own), len(content.tokens) - 1)
            return [cut(layer, length) for layer in layers], length
        if best is None or best.content is None:
            return fresh, 0
        layers = [cut(layer, length) for layer in best.arrays]
        if length == len(best.content.tokens):
            del self._kept[best.content]
        else:
            self._kept.move_to_end(best.content)
        return layers, length

    def known(self, content: Content) -> int:
        """How many positions a run would find here (not counted what is in `folder`)."""
        return self._longest(content)[1]

    def _longest(self, content: Content) -> tuple[_Kept | None, int]:
        """The entry that shares most with a prompt, and how many positions that is."""
        best, length = None, 0
        for kept in self._conversations():
            shared = min(content.shared(kept.content), len(content.tokens) - 1)  # type: ignore
            if shared and shared >= length:  # of equals the latest, so that the order stays
                best, length = kept, shared
        return best, length

    def keep(self, content: Content, layers: list[Any]) -> None:
        """Keep the keys and values of `content`, which `layers` hold and perhaps more.

        What they replace goes: entries that are a beginning of this one. NaN is not kept, which
        would be in every answer that goes on from it.
        """
        length = len(content.tokens)
        if length == 0 or _holds_nan(layers[-1], length):
            return
        if self.folder is not None:
            self.folder.save(content, layers)
        layers, nbytes = _fitted(layers, length)
        if nbytes > self.max_bytes:
            return
        for other in [kept.content for kept in self._conversations()]:
            shared = content.shared(other)  # type: ignore[arg-type]
            if shared == length:  # it is there already, and more
                self._kept.move_to_end(other)
                return
            if shared == len(other.tokens):  # type: ignore[union-attr]
                del self._kept[other]
        mx.eval([(layer.keys, layer.values) for layer in layers])
        self._kept[content] = _Kept(nbytes, layers, content)
        self.shrink(self.max_bytes)

    def _conversations(self) -> Iterator[_Kept]:
        return (kept for kept in self._kept.values() if kept.content is not None)

    # Features ----------------------------------------------------------------------------------

    def features(self, digests: Sequence[str]) -> dict[str, mx.array]:
        """What the projector gave for those of some images that are kept: {digest: (N, D)}."""
        known = {}
        for digest in digests:
            if digest in self._kept:
                self._kept.move_to_end(digest)
                known[digest] = self._kept[digest].arrays
        return known

    def keep_features(self, features: Mapping[str, mx.array]) -> None:
        """Keep features of images: {digest: (N, D)}."""
        mx.eval(list(features.values()))
        for digest, array in features.items():
            if array.nbytes <= self.max_bytes:
                self._kept[digest] = _Kept(array.nbytes, array)
        self.shrink(self.max_bytes)


def _fitted(layers: list[Any], length: int) -> tuple[list[Any], int]:
    """The first positions of some layers, and the bytes that they hold. mlx-lm's caches grow by 256
    positions at a time: of those that are less than half full only what is used is copied."""
    nbytes = sum(layer.nbytes for layer in layers)
    layers = [cut(layer, length) for layer in layers]
    used = sum(layer.nbytes for layer in layers)
    if 2 * used > nbytes:
        return layers, nbytes
    for layer in layers:
        layer.keys, layer.values = tree_map(mx.contiguous, (layer.keys, layer.values))
    return layers, used


def _holds_nan(layer: Any, length: int) -> bool:
    """Whether the values of a layer do, up to a position; the last layer has it from all others."""
    parts: Any = tree_flatten(layer.values)
    floats = [array[..., :length, :] for _, array in parts if array.dtype != mx.uint32]
    return any(mx.isnan(array).any().item() for array in floats)
