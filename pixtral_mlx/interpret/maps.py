"""Reading attention maps: where the peak stands, how far a head looks, how alike two maps are."""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np


class Evidence(NamedTuple):
    """The patches that a word rests on.

    Arguments:
        rows, columns: (first, last + 1) of the box.
        score: share of the word's attention on the image that falls into the box, 0 to 1.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    score: float


def find_evidence(attention: np.ndarray) -> Evidence:
    """The box around the peak of a (rows, columns) map, see `Trace.evidence`."""
    total = float(attention.sum())
    peak = np.unravel_index(int(attention.argmax()), attention.shape)
    strong = attention >= attention[peak] / 2
    found, waiting = {peak}, [peak]
    while waiting:
        row, column = waiting.pop()
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = 0 <= near[0] < strong.shape[0] and 0 <= near[1] < strong.shape[1]
            if inside and strong[near] and near not in found:
                found.add(near)
                waiting.append(near)
    rows, columns = zip(*found, strict=True)
    top, bottom = int(min(rows)), int(max(rows)) + 1
    left, right = int(min(columns)), int(max(columns)) + 1
    box = float(attention[top:bottom, left:right].sum())
    return Evidence((top, bottom), (left, right), box / total if total else 0.0)


def block_means(values: np.ndarray, side: int) -> np.ndarray:
    """Mean of a map over blocks of `side` x `side` patches, those that `occlusion_map` hides.

    Returns:
        float32, shape (rows / side, columns / side), both rounded up.
    """
    rows, columns = (np.arange(0, length, side) for length in values.shape)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    heights, widths = (
        np.diff([*s, e]) for s, e in ((rows, values.shape[0]), (columns, values.shape[1]))
    )
    return (sums / np.outer(heights, widths)).astype(np.float32)


def distances(grid: tuple[int, int], patches: Sequence[int]) -> np.ndarray:
    """Between the centres of some patches and all, in patches: float32, shape (patches, N)."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    chosen = list(patches)
    far = np.hypot(rows[chosen, None] - rows, columns[chosen, None] - columns)
    return far.astype(np.float32)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rho of two maps of one shape; ties share their mean rank. NaN if one is flat."""
    ranks = [_ranks(np.asarray(values).ravel()) for values in (first, second)]
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def mean_distance(attention: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """How far from a patch its attention falls: small for a local head, large for a global one.

    The sum over all patches p of `attention[p] * |p - patch|`, by the sum of `attention`; |.| is
    the Euclidean distance between the centres (Dosovitskiy et al. 2020, figure 11, for one query).

    Arguments:
        attention: maps of one patch's attention, shape (..., rows, columns).
        patch: (row, column) of the query.

    Returns:
        Patches (1 is the side of one), shape (...); NaN where a map is all zero.
    """
    rows, columns = np.indices(attention.shape[-2:])
    far = np.hypot(rows - patch[0], columns - patch[1])
    with np.errstate(invalid="ignore"):
        return (attention * far).sum(axis=(-2, -1)) / attention.sum(axis=(-2, -1))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


FEW_KEYS = 2**20
"""Numbers in the keys up to which rows are computed in float64, at no cost worth mentioning:
float32 rounds scores of 30 by 2e-6, and so the attention."""


def attention_rows(queries: mx.array, keys: mx.array) -> np.ndarray:
    """Some rows of attention maps: softmax(queries keys^T / sqrt(d)).

    Arguments:
        queries: shape (H, Q, d). keys: shape (H, N, d).

    Returns:
        float32, shape (H, Q, N).
    """
    queries, keys = queries.astype(mx.float32), keys.astype(mx.float32)
    scale = queries.shape[-1] ** -0.5
    if keys.size > FEW_KEYS:
        scores = (queries * scale) @ keys.transpose(0, 2, 1)
        return np.array(mx.softmax(scores, axis=-1, precise=True))
    exact = np.array(queries, np.float64) * scale @ np.array(keys, np.float64).transpose(0, 2, 1)
    weights = np.exp(exact - exact.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
