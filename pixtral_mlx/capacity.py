"""Will it fit? Weights and KV cache against the memory that MLX reports as usable."""

from math import prod
from typing import TYPE_CHECKING

import mlx.core as mx
from mlx.utils import tree_flatten

from . import layouts
from .config import TextConfig
from .errors import CapacityError
from .kv_format import KVFormat

if TYPE_CHECKING:
    from .model import Pixtral


def usable_bytes() -> int:
    """Memory that MLX may use: Metal's recommended working set, else MLX's own limit."""
    info = mx.device_info()
    return int(info.get("max_recommended_working_set_size") or mx.get_memory_limit())


def weights_bytes(model: "Pixtral") -> int:
    """Bytes of all parameters, whether they have been read from disk yet or not."""
    arrays = (array for _, array in tree_flatten(model.parameters()))
    return sum(array.nbytes for array in arrays if isinstance(array, mx.array))


def kv_bytes_per_token(config: TextConfig, itemsize: int = 2, kv: KVFormat | None = None) -> int:
    """Bytes of keys and values that one token of context takes: 163,840 for the 12B in 16 bits,
    87,040 where they are kept in 8 and 46,080 in 4; see `KVFormat.bytes_per_token`."""
    return (kv or KVFormat()).of(config).bytes_per_token(config, itemsize)


def room_bytes(model: "Pixtral", tokens: int, kv: KVFormat | None = None) -> int:
    """Usable memory that weights and the KV cache of `tokens` leave; below 0 they do not fit."""
    per_token = kv_bytes_per_token(model.config.text, model.decoder.norm.weight.dtype.size, kv)
    return usable_bytes() - weights_bytes(model) - tokens * per_token


def check_memory(model: "Pixtral", tokens: int, kv: KVFormat | None = None) -> None:
    """Compare weights plus the KV cache of `tokens` with what is usable; nothing is read yet.

    What `model.prompt_cache` keeps does not count: it goes where a run needs the room.

    Raises:
        CapacityError: it cannot fit; the message says what would.
    """
    if room_bytes(model, tokens, kv) >= 0:
        return
    usable, weights = usable_bytes(), weights_bytes(model)
    per_token = kv_bytes_per_token(model.config.text, model.decoder.norm.weight.dtype.size, kv)
    cache = tokens * per_token
    seen = (
        f"weights {weights / 1e9:.1f} GB + KV cache of {tokens:,} tokens {cache / 1e9:.1f} GB, "
        f"usable are {usable / 1e9:.1f} GB"
    )
    room = (usable - weights) // per_token
    if room > 0:
        advice = f"{room:,} tokens would fit: send smaller or fewer images, or lower --max-tokens"
    else:
        advice = _fewer_bits(model, weights, usable - tokens * per_token)
    raise CapacityError(f"{seen}: {advice} (--force goes on all the same)")


def _fewer_bits(model: "Pixtral", weights: int, room: int) -> str:
    """The widest conversion that fits into `room` bytes, by scale."""
    parameters = sum(prod(shape) for shape in layouts.shapes(model.config).values())
    now = 8 * weights / parameters
    for bits in (8, 6, 5, 4, 3, 2):
        # Groups of 64 add half a bit; the vision encoder, which stays in 16, is a small part.
        if bits + 0.5 < now and (bits + 0.5) / now * weights <= room:
            return f"{bits} bits would fit: `pixtral-mlx convert SRC DST --bits {bits}`"
    return "no width would fit: it takes a machine with more memory"
