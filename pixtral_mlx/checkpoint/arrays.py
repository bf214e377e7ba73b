"""Arrays from and to safetensors files by MLX, which takes no name that is not UTF-8."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..files import open_file
from ..model.threads import shared_stream

_NOT_READ = "[read]"
"""How MLX begins the RuntimeError of a lazy array whose file became shorter."""


def load_arrays(file: Path, stream: Any = None) -> tuple[dict[str, mx.array], dict[str, str]]:
    """Arrays that are read when they are computed with, and the metadata.

    Raises:
        OSError, RuntimeError, ValueError: the file cannot be read, or is not one of this kind.
    """
    with open_file(file) as opened:
        name = str(file) if is_utf8(file) else f"/dev/fd/{opened.fileno()}"
        loaded: Any = mx.load(name, format="safetensors", return_metadata=True, stream=stream)
    return loaded


def is_failed_read(error: RuntimeError) -> bool:
    """Whether MLX could not read a lazy array."""
    return _NOT_READ in str(error)


def drop_failed_reads() -> None:
    """Wait for reads that failed together with one that was raised: MLX would raise another of them
    in the next computation, whoever's it is."""
    for stream in (shared_stream(mx.cpu), mx.default_stream(mx.default_device())):
        while _has_failed(stream):
            pass


def _has_failed(stream: mx.Stream) -> bool:
    try:
        mx.synchronize(stream)
    except RuntimeError as error:
        return is_failed_read(error)
    return False


def save_arrays(
    file: Path, arrays: dict[str, mx.array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file, whose name ends in ".safetensors".

    Raises:
        OSError, RuntimeError: it cannot be written.
    """
    if is_utf8(file):
        mx.save_safetensors(str(file), arrays, dict(metadata or {}))
    else:
        with file.open("wb") as opened:
            mx.save_safetensors(opened, arrays, dict(metadata or {}))  # type: ignore[arg-type]


def is_utf8(file: Path) -> bool:
    """Whether a name can be told to programs that know no other."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        return False
    return True
