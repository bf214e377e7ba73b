"""What the encoder, which does not learn, says of each picture: computed once, kept on the disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..checkpoint.arrays import load_arrays, save_arrays
from ..checkpoint.safetensors_io import read_header
from ..errors import CheckpointError
from ..files import new_file
from ..model.vision import VisionEncoder

NAME = "features"


class EncodedPictures:
    """Features of pictures, by their digests; at most `max_bytes` of them on the disk.

    What is beyond is encoded again whenever it is asked for.

    Arguments:
        encoder: of the model; None for one without eyes, whose prompts have no pictures.
        folder: made if it is not there; its files are those of this encoder.
        pixels: gives those of a digest, where they are needed again.
    """

    def __init__(
        self,
        encoder: VisionEncoder | None,
        folder: Path,
        max_bytes: float,
        pixels: Callable[[str], np.ndarray],
    ):
        self._encoder: Any = encoder
        self._folder, self._max_bytes, self._pixels = folder, max_bytes, pixels
        self._kept: set[str] = set()
        self.grids: dict[str, tuple[int, int]] = {}
        self.encoded = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.nbytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    def add(self, digest: str, image: np.ndarray) -> None:
        """Encode a picture, unless it was.

        Arguments:
            image: prepared pixels, shape (3, H, W).
        """
        if digest in self.grids:
            return
        self.grids[digest] = self._encoder.grid(image)
        if self._read(digest) is not None:
            self._kept.add(digest)
        elif self.nbytes < self._max_bytes:
            self._write(digest, self._encode(image))

    def features(self, digest: str) -> mx.array:
        """Features of one picture that was added, shape (patches, vision width)."""
        found = self._read(digest) if digest in self._kept else None
        return self._encode(self._pixels(digest)) if found is None else found

    def _encode(self, image: np.ndarray) -> mx.array:
        self.encoded += 1
        return self._encoder([image])

    def _write(self, digest: str, features: mx.array) -> None:
        file = self._file(digest)
        with new_file(file, replace=True, sync=False) as hidden:
            save_arrays(hidden, {NAME: features})
        self.nbytes += file.stat().st_size
        self._kept.add(digest)

    def _read(self, digest: str) -> mx.array | None:
        """What is on the disk, if it is whole and of the right size."""
        file = self._file(digest)
        rows, columns = self.grids[digest]
        try:
            infos = read_header(file)
            if infos[NAME].shape != (rows * columns, self._encoder.config.hidden_size):
                return None
            return load_arrays(file)[0][NAME]
        except (CheckpointError, OSError, RuntimeError, KeyError):
            return None

    def _file(self, digest: str) -> Path:
        return self._folder / f"{digest}.safetensors"
