"""Whether an answer looked at what it should: the share of its attention on the evidence."""

from dataclasses import dataclass

import numpy as np

from ..interpret.trace import Trace
from .scenes import Question


@dataclass(frozen=True, eq=False)
class Looked:
    """Where the words of one answer looked.

    Arguments:
        shares: of the attention on all patches of all pictures, what falls on the evidence, for
            each layer of the decoder and each head; shape (layers, heads), 0 to 1, NaN for a head
            that looks at no patch at all.
        overall: the same for the mean over layers and heads.
        uniform: the share that the evidence has of the patches: looking everywhere alike.
        hit: whether the patch that is looked at most, mean over layers and heads, is evidence.
    """

    shares: np.ndarray
    overall: float
    uniform: float
    hit: bool


def look(trace: Trace, question: Question) -> Looked | None:
    """Compare attention and evidence, over all words of an answer together.

    Arguments:
        trace: of the answer.
        question: that was asked.

    Returns:
        None where no patch is evidence, or no word was said.
    """
    if not question.patches or not trace.tokens:
        return None
    evidence, maps = [], []
    for image, grid in enumerate(trace.prompt.grids):
        own = np.zeros(tuple(grid), bool)
        if image == question.evidence_image:
            own[tuple(zip(*question.patches, strict=True))] = True
        evidence.append(own.ravel())
        words = sum(trace.image_rows(token, image) for token in range(len(trace.tokens)))
        maps.append(np.reshape(words, (*np.shape(words)[:2], -1)))
    marked, looked = np.concatenate(evidence), np.concatenate(maps, axis=-1)
    mean, totals = looked.mean(axis=(0, 1)), looked.sum(axis=-1)
    return Looked(
        looked[..., marked].sum(axis=-1) / np.where(totals > 0, totals, np.nan),
        float(mean[marked].sum() / mean.sum()),
        float(marked.mean()),
        bool(marked[mean.argmax()]),
    )
