"""Pictures that were prepared before, by what is in their files: a conversation sends them again
with every question."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace

import numpy as np

from ..model.config import VisionConfig
from .image_options import ImageOptions
from .sources import ANYWHERE


class PreparedPictures:
    """The numbers of pictures, those used last, within a number of bytes. Any thread may ask.

    Arguments:
        limit: says how many bytes may be kept, each time something is.
    """

    def __init__(self, limit: Callable[[], int]):
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        """Pictures kept now."""
        return len(self._kept)

    def find(self, key: Hashable) -> np.ndarray | None:
        """What was kept under a key of `prepared_key`, float32, shape (3, H, W)."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: Hashable, pixels: np.ndarray) -> None:
        """Keep the numbers of a picture, which nobody may write to."""
        if pixels.nbytes > self._limit():
            return
        with self._lock:
            self.nbytes += pixels.nbytes - getattr(self._kept.pop(key, None), "nbytes", 0)
            self._kept[key] = pixels
        self.shrink(self._limit())  # which may be another by now

    def shrink(self, room: int) -> None:
        """Forget the least recently used until at most `room` bytes are kept."""
        with self._lock:
            while self.nbytes > room:
                self.nbytes -= self._kept.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget everything."""
        self.shrink(0)


def prepared_key(content: Hashable, options: ImageOptions, vision: VisionConfig) -> Hashable:
    """What the numbers of a picture depend on.

    Arguments:
        content: what tells its file from others, see `found.Found`.
    """
    # Where it came from and who opened it change nothing, and were checked when it was found.
    return content, replace(options, pdf_password=None, sources=ANYWHERE), vision
