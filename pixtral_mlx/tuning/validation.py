"""How well a model answers rows that it does not learn from, and whether it needs the pictures."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from random import Random

import mlx.core as mx
import numpy as np

from ..model.vision_language_model import VisionLanguageModel
from .batches import in_order, make_batch
from .dataset import Example
from .loss import token_losses
from .pictures import EncodedPictures


@dataclass(frozen=True)
class Scores:
    """What a validation found.

    Arguments:
        loss: mean over tokens of answers, in nats.
        right: of each answer, whether every token was the likeliest one, so that it is what the
            model would have written.
    """

    loss: float
    right: tuple[bool, ...]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return sum(self.right) / len(self.right)


def scores(
    model: VisionLanguageModel,
    examples: Sequence[Example],
    pictures: EncodedPictures,
    *,
    batch_size: int,
    image_token: int,
) -> Scores:
    """Ask all of them. Nothing is generated: all tokens of an answer can be checked at once."""
    total, count = 0.0, 0
    right: dict[tuple[int, int], bool] = {}
    for indices in in_order([len(each.tokens) for each in examples], batch_size):
        batch = make_batch([examples[i] for i in indices], pictures, image_token)
        losses, hits = (np.array(part) for part in token_losses(model, batch))
        mx.clear_cache()
        total, count = total + float(losses.sum(dtype=np.float64)), count + len(losses)
        number = 0
        for i in indices:
            for part in range(len(examples[i].answers)):
                right[i, part] = bool(hits[batch.answers == number].all())
                number += 1
    return Scores(total / count, tuple(right[place] for place in sorted(right)))


def swapped(
    examples: Sequence[Example], image_ids: tuple[int, int, int], seed: int
) -> list[Example]:
    """Those with pictures, each with the pictures of another one instead.

    An example takes part if another has as many pictures, and others.
    """
    groups: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        if example.pictures:
            groups[len(example.pictures)].append(example)
    found = []
    for group in groups.values():
        order = group.copy()
        Random(seed).shuffle(order)
        for i, example in enumerate(order):
            own = [picture.digest for picture in example.pictures]
            others = (order[(i + step) % len(order)] for step in range(1, len(order)))
            other = next((o for o in others if [p.digest for p in o.pictures] != own), None)
            if other is not None:
                found.append(example.with_pictures(other.pictures, image_ids))
    return found


def paired(before: Sequence[bool], after: Sequence[bool]) -> tuple[int, int, float]:
    """Answers that became right, those that became wrong, and how probable so uneven numbers are
    if nothing changed (exact test of McNemar, two-sided)."""
    gained = sum(not b and a for b, a in zip(before, after, strict=True))
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    changed = gained + lost
    tail = sum(comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
    return gained, lost, min(1.0, 2 * tail)
