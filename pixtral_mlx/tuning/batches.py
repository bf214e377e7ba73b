"""Rows of about one length together, and what a batch is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .dataset import Example
from .pictures import EncodedPictures

SORTED_AT_ONCE = 16
"""Of so many batches the rows are sorted by length, so that little is padded and order stays by
chance."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some examples, as the model reads them.

    Arguments:
        tokens: ids, shape (B, L), padded at the end, where nobody looks.
        features: of the encoder, of all pictures one after the other, shape (N, vision width);
            None if there are none.
        grids: (rows, columns) of their patches.
        sources: where each position's embedding stands among those of the tokens, row by row, and
            the features after them: shape (B * L,).
        asked: positions in (B * L,) whose next token is of an answer.
        targets: these tokens.
        answers: which of the batch's answers each is of.
    """

    tokens: mx.array
    features: mx.array | None
    grids: list[tuple[int, int]]
    sources: np.ndarray
    asked: np.ndarray
    targets: np.ndarray
    answers: np.ndarray


def order_of(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches of one epoch, as indices: a function of its arguments alone.

    Arguments:
        lengths: tokens of each example.
        size: of a batch; the last one may be smaller.
    """
    chance = np.random.Generator(np.random.PCG64([seed, epoch]))
    shuffled = chance.permutation(len(lengths)).tolist()
    chunk = size * SORTED_AT_ONCE
    found = []
    for start in range(0, len(shuffled), chunk):
        part = sorted(shuffled[start : start + chunk], key=lambda i: lengths[i])
        found += [part[i : i + size] for i in range(0, len(part), size)]
    return [found[i] for i in chance.permutation(len(found))]


def in_order(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Every example once, by length."""
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return [by_length[i : i + size] for i in range(0, len(by_length), size)]


def make_batch(examples: Sequence[Example], pictures: EncodedPictures, image_token: int) -> Batch:
    """A batch of examples.

    Arguments:
        image_token: the id whose embeddings are replaced by features.
    """
    length = max(len(each.tokens) for each in examples)
    tokens = np.zeros((len(examples), length), np.int32)
    features, grids, asked, targets, answers = [], [], [], [], []
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = example.tokens
        for picture in example.pictures:
            features.append(pictures.features(picture.digest))
            grids.append(pictures.grids[picture.digest])
        for answer in example.answers:
            place = np.arange(answer.start, answer.stop)
            asked.append(row * length + place - 1)
            targets.append(example.tokens[place])
            answers.append(np.full(len(place), len(answers)))
    sources = np.arange(tokens.size)
    places = np.flatnonzero(tokens.reshape(-1) == image_token) if features else []
    sources[places] = tokens.size + np.arange(len(places))
    return Batch(
        mx.array(tokens), mx.concatenate(features) if features else None, grids, sources,
        np.concatenate(asked), np.concatenate(targets), np.concatenate(answers),
    )  # fmt: skip
