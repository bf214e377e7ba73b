"""Rotary position embeddings: one-dimensional for text, two-dimensional for patches.

Both turn interleaved pairs (2j, 2j+1), as the official weights expect; folders in the
rotate-half order of transformers are put back in this order when they are loaded.
"""

from collections.abc import Sequence
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .config import TextConfig, VisionConfig, Yarn


class Rope1D(nn.Module):
    """RoPE over the position in the sequence (mistral-inference, `rope.py`).

    The wave lengths are given to `mx.fast.rope` as an array: its own, from a base, differ in the
    last bit of float32, which at position 130,000 turns the fastest pairs by 0.008 radian away
    from what the reference implementations compute.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
        # `mx.fast.rope` takes wave lengths (over 2 pi), the inverse of the frequencies.
        waves = config.rope_theta**exponents
        if config.yarn is not None:
            waves = stretched(waves, config.yarn, config.rope_theta)
        wavelengths = mx.array(waves.astype(np.float32))
        # Bound once: an array that a module holds costs a lookup in Python at every call.
        self._turn = partial(
            mx.fast.rope, dims=config.head_dim, traditional=True, base=None, scale=1.0,
            freqs=wavelengths,
        )  # fmt: skip

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        """Turn queries or keys.

        Arguments:
            x: shape (B, H, L, head_dim).
            offset: position of the first token; one number, or one for each row of the batch.

        Returns:
            The same shape and dtype.
        """
        return self._turn(x, offset=offset)


def stretched(waves: np.ndarray, yarn: Yarn, theta: float) -> np.ndarray:
    """Wave lengths as YaRN has them (Peng et al. 2023, section 3.2): the long ones `factor` times
    as long, the short ones as they are, those between by a ramp over the number of the pair.

    Arguments:
        waves: of each pair, over 2 pi, short ones first.
        theta: the base that they come from.
    """
    pairs = len(waves)

    def pair_turning(times: float) -> float:
        """The pair, as a fraction, that turns so often within the original context."""
        turns = yarn.original_max_position_embeddings / (2 * np.pi * times)
        return pairs * np.log(turns) / np.log(theta)

    first = max(np.floor(pair_turning(yarn.beta)), 0)
    last = min(np.ceil(pair_turning(yarn.alpha)), 2 * pairs - 1)
    ramp = np.clip((np.arange(pairs) - first) / max(last - first, 1e-3), 0, 1)
    return 1 / ((1 - ramp) / waves + ramp / (yarn.factor * waves))


class Rope2D(nn.Module):
    """RoPE-2D (paper, section 2.2): half of the pairs turn with the row, half with the column.

    Of the frequencies `f = theta ** -(arange(0, d, 2) / d)` the rows take `f[0::2]` and the
    columns `f[1::2]`, so both axes span the whole range of wave lengths.
    """

    def __init__(self, config: VisionConfig):
        super().__init__()
        exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
        frequencies = (config.rope_theta**-exponents).astype(np.float32)
        self._row_frequencies = mx.array(frequencies[0::2])
        self._column_frequencies = mx.array(frequencies[1::2])

    def angles(self, grids: Sequence[tuple[int, int]]) -> mx.array:
        """Angles of every patch of every image; positions restart with each image.

        Arguments:
            grids: (rows, columns) of each image.

        Returns:
            Radians, float32, shape (N, head_dim / 2): first the row pairs, then the columns.
        """
        return mx.concatenate([self._grid_angles(rows, columns) for rows, columns in grids])

    def _grid_angles(self, rows: int, columns: int) -> mx.array:
        pairs = self._row_frequencies.size
        by_row = mx.arange(rows)[:, None, None] * self._row_frequencies
        by_column = mx.arange(columns)[None, :, None] * self._column_frequencies
        shape = (rows, columns, pairs)
        both = [mx.broadcast_to(by_row, shape), mx.broadcast_to(by_column, shape)]
        return mx.concatenate(both, axis=-1).reshape(rows * columns, 2 * pairs)

    @staticmethod
    def rotate(x: mx.array, cosine: mx.array, sine: mx.array) -> mx.array:
        """Turn queries or keys by the angles whose cosine and sine are given.

        Arguments:
            x: shape (1, H, N, head_dim), any float dtype; turned in float32, then cast back.
            cosine, sine: float32, shape (N, head_dim / 2).
        """
        turned = turn_pairs(x[..., 0::2], x[..., 1::2], cosine, sine)
        return mx.stack(list(turned), axis=-1).reshape(x.shape)


@partial(mx.compile, shapeless=True)  # one operation of the graph instead of ten
def turn_pairs(
    even: mx.array, odd: mx.array, cosine: mx.array, sine: mx.array
) -> tuple[mx.array, mx.array]:
    """Both numbers of each pair, turned in float32; even and odd numbers of one shape and dtype."""
    x, y = even.astype(mx.float32), odd.astype(mx.float32)
    turned = (x * cosine - y * sine, y * cosine + x * sine)
    return turned[0].astype(even.dtype), turned[1].astype(even.dtype)
