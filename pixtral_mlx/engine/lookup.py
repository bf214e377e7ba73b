"""Prompt lookup decoding: draft by copying, and let the model check several tokens in one pass.

Answers repeat their prompt and themselves: keys of JSON, rows of a table, names. Where the last
tokens stood before, what followed them there is a draft of what comes now. One pass over the draft
gives the model's own choice at each of its places; as far as they agree the draft is the answer,
and the first choice that differs comes for nothing (A. Saxena, "Prompt lookup decoding", 2023;
`prompt_lookup_num_tokens` in transformers).

Every token is the model's own choice, drawn as it would be one at a time, with the same seed too.
What may differ is rounding: a pass over several positions adds in another order than one over a
single position, by about 1e-6 of a logit in float32. So the tokens are those of the plain path
unless two are that close to a tie; in 16 bits or with quantized weights such ties are commoner, and
one may fall the other way.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mlx.core as mx

from .sampling import Choice, Sampler

NGRAMS = (3, 2)
"""How many tokens must have stood before in the same order; the longer is looked for first."""
RECENT_DRAFTS, LEAST_ACCEPTED = 32, 8
"""Drafting ends when so many drafts in a row brought fewer tokens than this together: checking a
draft is not free, and one token at a time the next step starts before the last token is read."""
MOST_DRAFTED = 4
"""Tokens in a draft. More are accepted too seldom (`benchmarks/lookup.py`)."""


class Drafter:
    """Drafts what comes next, as long as that pays.

    A draft grows by two after one that was right to its end and shrinks by one after any other, as
    transformers' candidate generator does, so that wrong drafts are short.

    Arguments:
        tokens: all so far.
        longest: tokens in a draft at most.

    `pays` turns False when too little of the recent drafts was accepted, and stays so.
    """

    def __init__(self, tokens: Iterable[int], longest: int):
        self.tokens: list[int] = []
        self.pays = True
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> place of what followed it last
        self._longest = self._length = longest
        self._recent: deque[int] = deque(maxlen=RECENT_DRAFTS)
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """One more token; what stood before it is known to be followed by it."""
        for n in NGRAMS:
            if len(self.tokens) >= n:
                self._after[tuple(self.tokens[-n:])] = len(self.tokens)
        self.tokens.append(token)

    def draft(self, room: int) -> list[int]:
        """What followed the last tokens where they stood last; at most `room`, perhaps nothing."""
        start = next(filter(None, (self._after.get(tuple(self.tokens[-n:])) for n in NGRAMS)), None)
        if start is None:
            return []
        period = len(self.tokens) - start  # what reaches the end goes round: "- - -" goes on
        return [self.tokens[start + i % period] for i in range(min(self._length, room))]

    def judge(self, drafted: int, accepted: int) -> None:
        """Learn from how much of a draft was right."""
        if drafted == 0:
            return
        grown = self._length + 2 if accepted == drafted else self._length - 1
        self._length = min(max(grown, 1), self._longest)
        self._recent.append(accepted)
        self.pays = len(self._recent) < RECENT_DRAFTS or sum(self._recent) >= LEAST_ACCEPTED


def pass_costs(decoder: Any) -> dict[int, float]:
    """What a pass over so many tokens takes, where one over a single token takes 1: measured, which
    takes about 20 of them."""
    from mlx_lm.generate import generation_stream
    from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

    cache, seconds = make_prompt_cache(decoder), dict.fromkeys((1, 2, MOST_DRAFTED), math.inf)
    for warm in (False, True, True):  # what is used for the first time is made then
        for size in seconds:
            with mx.stream(generation_stream):
                start = time.perf_counter()
                mx.eval(decoder(mx.zeros((1, size), mx.int32), cache=cache))
            if warm:
                seconds[size] = min(seconds[size], time.perf_counter() - start)
            trim_prompt_cache(cache, size)
    return {size: each / seconds[1] for size, each in seconds.items()}


def most_drafted(costs: Mapping[int, float]) -> int:
    """How long a draft may be so that it pays if half of it is accepted, as of indented JSON; 0: no
    draft does. `costs` are those of `pass_costs`."""
    if costs[MOST_DRAFTED] < 1 + (MOST_DRAFTED - 1) / 2:
        return MOST_DRAFTED
    return 1 if costs[2] < 1 + 1 / 2 else 0


def check_draft(
    logits_of: Callable[..., mx.array],
    cache: list[Any],
    sampler: Sampler,
    tokens: list[int],
    draft: list[int],
) -> list[Choice]:
    """What the model chooses: the beginning of the draft that it agrees to, and one token more.

    The KV cache holds all but the last of them afterwards, and the random numbers that were drawn
    for what was refused are drawn again.

    Arguments:
        logits_of: a pass, from tokens (1, L) to the logits of the last `wanted`.
        cache: holds all of `tokens` but the last.
    """
    from mlx_lm.generate import generation_stream
    from mlx_lm.models.cache import trim_prompt_cache

    random = sampler.random
    with mx.stream(generation_stream):
        logits = logits_of(mx.array([[tokens[-1], *draft]]), wanted=1 + len(draft))
        states = []
        for i in range(len(draft) + 1):
            sampler.follow([*tokens, *draft[:i]])
            sampler.choose(logits[:, i])
            states.append(mx.array(random[0]))
        choices = sampler.read_all()
        agreed = (choice.token == drafted for choice, drafted in zip(choices, draft, strict=False))
        accepted = next((i for i, same in enumerate(agreed) if not same), len(draft))
        random[0][:] = states[accepted]
    trim_prompt_cache(cache, len(draft) - accepted)
    return choices[: accepted + 1]
