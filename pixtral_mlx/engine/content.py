"""What keys, values and features depend on, so that later calls know which of them are theirs."""

import hashlib
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..interpret import edits as built_in
from ..interpret.edits import Edit
from ..model.kv_cache import KVFormat
from ..model.prompt import Prompt
from ..model.vision_language_model import VisionLanguageModel

_digests: dict[int, tuple[weakref.ref, str]] = {}
"""Of arrays that cannot change, by their `id`, for as long as they are there."""


@dataclass(frozen=True, eq=False)
class Content:
    """What the keys and values of a run depend on, position by position.

    Arguments:
        tokens: ids, int64, shape (L,).
        images: {position of an image's first patch: digest of what it shows}.
        edits: of the run.
        kv: in what form they are kept.
    """

    tokens: np.ndarray
    images: Mapping[int, str]
    edits: tuple[Edit, ...] = ()
    kv: KVFormat = KVFormat()  # noqa: RUF009  (frozen)

    def shared(self, other: "Content") -> int:
        """How many positions from the first on are the same in both."""
        if self.edits != other.edits or self.kv != other.kv:
            return 0
        (before, picture), (theirs, other_picture) = self._opening, other._opening
        if picture != other_picture and before == theirs:
            return len(before) // self.tokens.itemsize  # most that is kept is about other pictures
        length = min(len(self.tokens), len(other.tokens))
        if self.images != other.images:
            starts = self.images.keys() | other.images.keys()
            others = [at for at in starts if self.images.get(at) != other.images.get(at)]
            length = min(length, *others)
        same = self.tokens[:length] == other.tokens[:length]
        return length if same.all() else int(same.argmin())

    @cached_property
    def _opening(self) -> tuple[bytes, str | None]:
        """The tokens before the first image, as bytes, and its digest; b"" and None without one."""
        if not self.images:
            return b"", None
        start = min(self.images)
        return self.tokens[:start].tobytes(), self.images[start]

    def grown(self, tokens: Sequence[int], length: int) -> "Content":
        """The first `length` positions of this and `tokens` after it."""
        every = np.concatenate([self.tokens, np.array(tokens, np.int64)])[:length]
        images = {start: digest for start, digest in self.images.items() if start < length}
        return replace(self, tokens=every, images=images)


def content_of(
    prompt: Prompt, edits: Sequence[Edit], model: VisionLanguageModel, kv: KVFormat | None = None
) -> Content | None:
    """The content of a prompt; None if nobody can say what its keys and values depend on.

    That is so with an edit of the caller's own, and where the `[IMG]` are not as many as the
    patches. Edits may let an image depend on all others, so with edits each image counts as all.
    """
    if any(type(edit).__module__ != built_in.__name__ for edit in edits):
        return None
    tokens = np.array(prompt.tokens, np.int64)
    starts = first_patches(prompt, model)
    if starts is None:
        return None
    digests = [image_digest(image) for image in prompt.images]
    if edits:
        digests = [" ".join(digests)] * len(digests)
    images = dict(zip(starts, digests, strict=True))
    return Content(tokens, images, tuple(edits), kv or KVFormat())


def first_patches(prompt: Prompt, model: VisionLanguageModel) -> list[int] | None:
    """Position of the first `[IMG]` of each image; None if they are not as many as the features."""
    if model.vision_encoder is None or model.config.vision is None:
        return None if prompt.images else []
    places = np.flatnonzero(np.array(prompt.tokens) == model.config.vision.image_token_id)
    grids = [model.vision_encoder.grid(image) for image in prompt.images]
    square = model.config.vision.spatial_merge_size**2
    ends = np.cumsum([0, *(rows * columns // square for rows, columns in grids)])
    return None if ends[-1] != len(places) else [int(places[first]) for first in ends[:-1]]


def image_digest(image: Any) -> str:
    """A name for what an image shows: hash of its prepared pixels (3, H, W) with their shape.

    Files that differ in mode or palette alone have the same pixels only if the model sees the same.
    The pixels of a prompt that `encode` made are not to be written to, and are looked at once.
    """
    known = _digests.get(id(image))
    if known is not None and known[0]() is image:
        return known[1]
    name = _digest(np.ascontiguousarray(image, dtype=np.float32))
    if isinstance(image, np.ndarray) and image.flags.owndata and not image.flags.writeable:
        place = id(image)
        _digests[place] = weakref.ref(image, lambda _: _digests.pop(place, None)), name
    return name


def _digest(pixels: np.ndarray) -> str:
    name = hashlib.blake2b(f"{pixels.shape}".encode(), digest_size=32)
    name.update(pixels.data)
    return name.hexdigest()
