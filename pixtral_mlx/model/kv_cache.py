"""Keys and values of the decoder: in what form they are kept, and how mlx-lm lays them out.

Names and caches are mlx-lm's. In 8 or 4 bits, keys and values are rounded in groups along the head,
each group with a scale and a bias (`mx.quantize`), as soon as they are computed.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from ..checks import one_of, whole
from .config import TextConfig

KV_BITS = (8, 4)
GROUP_SIZES = (128, 64, 32)
USUAL_GROUP_SIZE = 64


@dataclass(frozen=True)
class KVFormat:
    """The form of a KV cache.

    Arguments:
        bits: 8, 4 or None, which keeps what was computed.
        group_size: numbers that share a scale and a bias: 32, 64 or 128; None is 64, or 32 where
            64 does not divide the width of a head.
        start: tokens of context from which on the cache is quantized.

    Raises:
        ValueError: a value that is not allowed.
    """

    bits: int | None = None
    group_size: int | None = None
    start: int = 0

    def __post_init__(self):
        # Options are checked where they are declared; these may also come from a file.
        one_of("kv_bits", self.bits, (*sorted(KV_BITS), None))
        one_of("kv_group_size", self.group_size, (*sorted(GROUP_SIZES), None))
        whole("quantized_kv_start", self.start, 0)

    def of(self, config: TextConfig) -> "KVFormat":
        """This form for a model's heads, with the group size that it gets.

        Raises:
            ValueError: the heads are too narrow, or the group size does not divide them.
        """
        if self.bits is None:
            return KVFormat()
        fits = [size for size in GROUP_SIZES if config.head_dim % size == 0]
        if not fits:
            raise ValueError(
                f"kv_bits is {self.bits}, but heads of {config.head_dim} are not a multiple of "
                f"{GROUP_SIZES[-1]}: leave it out"
            )
        size = self.group_size or (USUAL_GROUP_SIZE if USUAL_GROUP_SIZE in fits else fits[0])
        if size not in fits:
            raise ValueError(
                f"kv_group_size is {size}; heads of {config.head_dim} allow "
                f"{', '.join(map(str, fits))}"
            )
        return replace(self, group_size=size)

    def new_cache(self, decoder: Any) -> list[Any]:
        """An empty cache of mlx-lm, one entry a layer."""
        from mlx_lm.models.cache import QuantizedKVCache, make_prompt_cache

        if self.bits is None or self.group_size is None or self.start:
            return make_prompt_cache(decoder)
        return [QuantizedKVCache(self.group_size, self.bits) for _ in decoder.layers]

    def step_options(self) -> dict[str, Any]:
        """What mlx-lm's `maybe_quantize_kv_cache` needs in order to quantize a cache later on."""
        if self.bits is None or not self.start:
            return {}
        return {
            "kv_bits": self.bits, "kv_group_size": self.group_size,
            "quantized_kv_start": self.start,
        }  # fmt: skip

    def bytes_per_token(self, config: TextConfig, itemsize: int = 2) -> int:
        """Bytes of keys and values that one token of context takes.

        163,840 for the 12B as computed in 16 bits, 87,040 in 8 bits and 46,080 in 4.

        Arguments:
            itemsize: bytes of a number as computed; scales and biases have it too.
        """
        vectors, head = 2 * config.n_layers * config.n_kv_heads, config.head_dim
        if self.bits is None or self.group_size is None:
            return vectors * head * itemsize
        return vectors * (head * self.bits // 8 + 2 * (head // self.group_size) * itemsize)

    def shapes(self, config: TextConfig, length: int) -> Mapping[str, tuple[int, ...]]:
        """Of what a layer keeps of keys, and again of values: {"" or ".scales": shape}."""
        first, head = (1, config.n_kv_heads, length), config.head_dim
        if self.bits is None or self.group_size is None:
            return {"": (*first, head)}
        groups = (*first, head // self.group_size)
        return {"": (*first, head * self.bits // 32), ".scales": groups, ".biases": groups}


def dense(part: Any, cache: Any, dtype: mx.Dtype) -> mx.array:
    """The keys or values of a layer as numbers.

    Arguments:
        part: an array, which is given back, or the (weight, scales, biases) of a quantized cache.
        cache: the layer's KV cache.
        dtype: of the result where it is quantized.
    """
    if isinstance(part, mx.array):
        return part
    weight, scales, biases = part
    return mx.dequantize(
        weight, scales.astype(dtype), biases.astype(dtype),
        group_size=cache.group_size, bits=cache.bits,
    )  # fmt: skip


def cut(layer: Any, length: int) -> Any:
    """A layer's KV cache of the first `length` positions of another, which stays as it is.

    Slices share memory with the other until one of them is written to; MLX copies it then.
    """
    return _part(layer, lambda array: array[..., :length, :], length)


def shared(layer: Any, length: int) -> Any:
    """As `cut`, with the room behind the positions: where nobody else has the arrays by the time
    that it is written to, that is done in place.

    The array objects must be new ones: assigning to a part of an array changes the object itself.
    """
    return _part(layer, lambda array: array[...], length)


def copied(layer: Any, positions: slice) -> Any:
    """As `cut`, of any positions, in memory of its own."""
    length = positions.stop - positions.start
    return _part(layer, lambda array: mx.contiguous(array[..., positions, :]), length)


def append(layer: Any, other: Any, positions: slice) -> None:
    """Write positions of another layer's KV cache behind those that a layer has."""
    start = layer.offset
    end = layer.offset = start + positions.stop - positions.start

    def written(array: mx.array, more: mx.array) -> mx.array:
        more = more[..., positions, :]
        if array.shape[-2] < end:
            return mx.concatenate([array[..., :start, :], more], axis=-2)
        array[..., start:end, :] = more
        return array

    layer.keys, layer.values = tree_map(
        written, (layer.keys, layer.values), (other.keys, other.values)
    )


def _part(layer: Any, change: Callable[[mx.array], mx.array], length: int) -> Any:
    part = copy.copy(layer)
    part.keys, part.values = tree_map(change, (layer.keys, layer.values))
    part.offset = length
    return part


@contextmanager
def growing_to(cache: list[Any], tokens: int) -> Iterator[None]:
    """Where a KV cache of mlx-lm has to grow meanwhile, it gets room for so many positions at once,
    and is not copied again and again, 256 positions after 256."""
    for layer in cache:
        layer.step = -(-max(1, tokens - layer.offset) // layer.step) * layer.step
    try:
        yield
    finally:
        for layer in cache:
            del layer.step  # its own, which hides that of the class
