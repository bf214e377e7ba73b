"""How far two runs part: the same answer, read once with and once without some edits, or by two
versions of one model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import mlx.core as mx
import numpy as np

from ..cost.buffers import bounded_buffers
from ..cost.pace import Pace
from ..model.prompt import Prompt
from ..model.tap import NO_TAP, Tap
from ..model.vision_language_model import VisionLanguageModel
from .activations import nan_error
from .edits import Edit, edited

TOKENS_A_STEP = 512
POSITIONS_AT_ONCE = 32
"""Distributions over the vocabulary that are in memory together."""

_ENDED = object()


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs over one answer; all arrays are float32 of shape (tokens,), in nats.

    Arguments:
        kl: Kullback-Leibler divergence KL(first || second) of the distributions that each token
            was chosen from; 0 where the runs agree.
        first, second: log-probability of each token in either run.
    """

    kl: np.ndarray
    first: np.ndarray
    second: np.ndarray


@dataclass(frozen=True, eq=False)
class Reading:
    """One answer as one run reads it; from `read_answer`. Other runs are compared with it.

    Arguments:
        model, prompt, tokens: what was read. prompt: without edits.
        hidden: the states that chose the tokens, shape (tokens, D).
    """

    model: VisionLanguageModel
    prompt: Prompt
    tokens: Sequence[int]
    hidden: mx.array

    def against(
        self,
        edits: Sequence[Edit] = (),
        *,
        other: VisionLanguageModel | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Comparison:
        """Read the same answer once more, with `edits` or by another model, and compare.

        Arguments and errors as for `compare_runs`.
        """
        second = read_answer(other or self.model, self.prompt, self.tokens, edits, progress)
        parts = []
        for start in range(0, len(self.tokens), POSITIONS_AT_ONCE):
            part = slice(start, start + POSITIONS_AT_ONCE)
            chosen = mx.array(list(self.tokens[part]))[:, None]
            p, q = (_log_softmax(one.model, one.hidden[part]) for one in (self, second))
            kl = mx.maximum((mx.exp(p) * (p - q)).sum(axis=-1), 0)  # rounding may fall below 0
            own = [mx.take_along_axis(one, chosen, axis=-1)[:, 0] for one in (p, q)]
            parts.append(np.array(mx.stack([kl, *own])))
            for one, logprobs in zip((self, second), own, strict=True):
                if mx.isnan(logprobs).any():
                    raise nan_error(one.model)
        return Comparison(*np.concatenate(parts, axis=1))


def read_answer(
    model: VisionLanguageModel,
    prompt: Prompt,
    tokens: Sequence[int],
    edits: Sequence[Edit] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Reading:
    """Read an answer, teacher-forced: each token after the same words.

    To set many runs against one, read that one once and ask for `reading.against(edits)`.

    Arguments:
        prompt: from `model.encode`, without edits.
        tokens: the answer, for example `reply.tokens`.
        edits: of this run.
        progress: called with (tokens read, tokens to read).

    Raises:
        ValueError: the answer has no tokens.
        IndexError: an edit names what is not there.
    """
    if not tokens:
        raise ValueError("the answer has no tokens: there is nothing to compare")
    changed = edited(prompt, edits, model.config)
    length = len(changed.tokens) + len(tokens) - 1

    def report(done: int) -> None:
        if progress:
            progress(done, length)

    return Reading(model, prompt, tokens, _hidden(model, changed, tokens, edits, report))


def compare_runs(
    model: VisionLanguageModel,
    prompt: Prompt,
    tokens: Sequence[int],
    edits: Sequence[Edit] = (),
    *,
    before: Sequence[Edit] = (),
    other: VisionLanguageModel | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Read one answer in two runs, teacher-forced: each token after the same words.

    Arguments:
        prompt: from `model.encode`, without edits.
        tokens: the answer, for example `reply.tokens` of the first run.
        edits: of the second run.
        before: of the first run.
        other: the model of the second run, for example `px.quantized_copy(model)`; None is `model`.
        progress: called with (tokens read, tokens to read) of both runs.

    Raises:
        ValueError: the answer has no tokens.
        IndexError: an edit names what is not there.
    """
    second = edited(
        prompt, edits, (other or model).config
    )  # refuses what is not there before any run
    lengths = [
        len(p.tokens) + len(tokens) - 1 for p in (edited(prompt, before, model.config), second)
    ]

    def report(run: int) -> Callable[[int, int], None]:
        return lambda done, _: progress and progress(run * lengths[0] + done, sum(lengths))

    first = read_answer(model, prompt, tokens, before, report(0))
    return first.against(edits, other=other, progress=report(1))


def first_difference(first: Sequence[Any], second: Sequence[Any]) -> int | None:
    """The first place where two answers differ, or where one has ended; None if they are equal."""
    for place, (one, other) in enumerate(zip_longest(first, second, fillvalue=_ENDED)):
        if one != other:
            return place
    return None


@bounded_buffers()
def _hidden(
    model: VisionLanguageModel,
    prompt: Prompt,
    tokens: Sequence[int],
    edits: Sequence[Edit],
    report: Callable[[int], None],
) -> mx.array:
    """The states that chose `tokens`, shape (tokens, D); read in steps, as a prefill."""
    from mlx_lm.models.cache import make_prompt_cache

    longer = replace(prompt, tokens=[*prompt.tokens, *tokens[:-1]])
    tap = Tap(prompt, edits) if edits else NO_TAP
    embeddings, cache = model.embed(longer, tap), make_prompt_cache(model.decoder)
    ids, found = mx.array(longer.tokens)[None], []
    parts = Pace(model.config.text, TOKENS_A_STEP).parts(ids.shape[1])
    for done, hidden in model.decoder.prefill(ids, cache, embeddings[None], tap, parts=parts):
        first = max(len(prompt.tokens) - 1 - (done - hidden.shape[1]), 0)
        found.append(hidden[0, first:])
        mx.eval(found[-1])
        report(done)
    return mx.concatenate(found)


def _log_softmax(model: VisionLanguageModel, hidden: mx.array) -> mx.array:
    logits = model.decoder.unembed(hidden).astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
