"""How numbers travel to the browser."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def packed(answer: Any) -> tuple[Any, list[bytes]]:
    """An answer as JSON and buffers: each array becomes {"buffer": number, "shape", "type"}."""
    buffers: list[bytes] = []

    def pack(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            buffers.append(np.ascontiguousarray(value).tobytes())
            return {
                "buffer": len(buffers) - 1, "shape": list(value.shape), "type": value.dtype.name,
            }  # fmt: skip
        if isinstance(value, bytes):
            return pack(np.frombuffer(value, np.uint8))
        if isinstance(value, Mapping):
            return {key: pack(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [pack(item) for item in value]
        return value.item() if isinstance(value, np.generic) else value

    return pack(answer), buffers


def heat(values: np.ndarray) -> dict[str, Any]:
    """A row of attention, or a stack of them, small enough to send: {"top", "sum", "map"}.

    `map` has the shape of `values`, as uint8 of the greatest value, which is `top`.
    """
    top = float(np.max(values, initial=0.0))
    scaled = np.clip(values / top, 0, 1) * 255 if top > 0 else np.zeros_like(values)
    return {"top": top, "sum": float(values.sum()), "map": np.round(scaled).astype(np.uint8)}
