"""Arrays from and to safetensors files by MLX, which takes no name that is not UTF-8."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..files import open_file


def load_arrays(file: Path, stream: Any = None) -> tuple[dict[str, mx.array], dict[str, str]]:
    """Arrays that are read when they are computed with, and the metadata.

    Raises:
        OSError, RuntimeError, ValueError: the file cannot be read, or is not one of this kind.
    """
    with open_file(file) as opened:
        name = str(file) if is_utf8(file) else f"/dev/fd/{opened.fileno()}"
        loaded: Any = mx.load(name, format="safetensors", return_metadata=True, stream=stream)
    return loaded


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
