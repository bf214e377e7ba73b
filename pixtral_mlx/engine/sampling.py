"""Which token comes next: temperature and filters, and drawing from what they leave."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from .options import GenerationOptions

LEAST_TEMPERATURE = 1e-4
LEAST_TOP_P = 1e-3
"""Below these, sampling is greedy: float32 has no room for such small steps in 131,072 words."""


class Choice(NamedTuple):
    """A token of an answer.

    Arguments:
        token: its id.
        logprob: the model's own, before the mask of a form.
        allowed_mass: of an answer that keeps a form, how much of the probability was on tokens that
            it allowed.
        forced: whether the form left no choice.
        ends: whether the form lets nothing follow.
        top_logprobs: see `Piece.top_logprobs`.
    """

    token: int
    logprob: float
    allowed_mass: float | None = None
    forced: bool = False
    ends: bool = False
    top_logprobs: tuple[tuple[int, float], ...] = ()


def is_greedy(options: GenerationOptions) -> bool:
    """Whether the likeliest token is taken. Nearly nothing would overflow or filter out every
    token: then the likeliest is what is meant."""
    return options.temperature < LEAST_TEMPERATURE or 0 < options.top_p < LEAST_TOP_P


class Sampler:
    """Chooses tokens where the model computes, and keeps there how likely each choice was.

    Choosing waits for nothing. What `read` reads was launched with the choice, so that reading
    starts no work, which would stand in line behind the next step.

    Arguments:
        options: temperature, filters, bias and penalty.
        vocab_size: rows of the model's output.
        words: ids with a word, which are the first ones; those after them, for which fine-tunes
            have rows that say nothing, are never chosen. None is all.

    `draw` is mlx-lm's own sampler, or with a seed `seeded`; `random` holds the state that it draws
    with, in a list; `processors` are mlx-lm's, of the bias and the penalties; `recent` are the
    tokens that these look back at; `top` is how many of the likeliest come with each choice;
    `latest` is the latest choice, shape (1,), which need not have been computed.

    Raises:
        ValueError: a bias for a token that does not exist.
    """

    def __init__(self, options: GenerationOptions, vocab_size: int, words: int | None = None):
        from mlx_lm.sample_utils import make_logits_processors, make_sampler

        self.words = vocab_size if words is None else min(words, vocab_size)
        bias = options.logit_bias or {}
        wrong = [token for token in bias if not 0 <= token < self.words]
        if wrong:
            allowed = f"allowed: 0 to {self.words - 1}"
            raise ValueError(f"logit_bias names token {wrong[0]}; {allowed}")
        if options.seed is None or is_greedy(options):
            self.random: Any = mx.random.state
            self.draw = make_sampler(
                temp=0.0 if is_greedy(options) else options.temperature,
                top_p=options.top_p,
                min_p=options.min_p,
                top_k=options.top_k if options.top_k < vocab_size else 0,
            )
        else:
            self.random = [mx.random.key(options.seed)]
            self.draw = seeded(options, self.random)
        self.processors = make_logits_processors(
            logit_bias=dict(bias) or None,
            repetition_penalty=options.repetition_penalty,
            repetition_context_size=options.repetition_context_size,
            presence_penalty=options.presence_penalty,
            presence_context_size=options.presence_context_size,
            frequency_penalty=options.frequency_penalty,
            frequency_context_size=options.frequency_context_size,
        )
        self._looks_back = 0
        if len(self.processors) > bool(bias):
            self._looks_back = max(
                options.repetition_context_size,
                options.presence_context_size,
                options.frequency_context_size,
            )
        self.top = options.top_logprobs
        self.recent = self._ids([])
        self._chosen: deque[tuple[mx.array, mx.array]] = deque()

    def follow(self, tokens: Sequence[int]) -> None:
        """What is chosen next comes after these tokens."""
        if self._looks_back:
            self.recent = self._ids(tokens[-self._looks_back :])

    def wrote(self, token: mx.array) -> None:
        """What is chosen next comes after this one too, shape (1,)."""
        if self._looks_back:
            self.recent = mx.concatenate([self.recent, token])[-self._looks_back :]

    @staticmethod
    def _ids(tokens: Sequence[int]) -> mx.array:
        return mx.array(list(tokens), mx.uint32)

    def choose(self, logits: mx.array) -> None:
        """Choose from logits (1, vocabulary)."""
        logprobs = self.logprobs(logits)
        token = self.draw(logprobs)
        self.wrote(token)
        self.latest = token
        self._chosen.append((token, logprobs))

    def logprobs(self, logits: mx.array) -> mx.array:
        """With bias and penalties, normalised; shape (1, vocabulary)."""
        logits = spoken(logits, self.words)
        for process in self.processors:
            logits = process(self.recent, logits)
        return logits - mx.logsumexp(logits, axis=-1, keepdims=True)

    def launch(self) -> None:
        """Start computing what was chosen."""
        mx.async_eval(list(self._chosen), self.recent)

    def read(self) -> Choice:
        """The earliest choice that was not read yet; waits for it."""
        token, logprobs = self._chosen.popleft()
        return choice_of(int(token.item()), logprobs, self.top)  # type: ignore[arg-type]

    def read_all(self) -> list[Choice]:
        """All that were not read yet; waits once."""
        mx.eval(list(self._chosen))
        return [self.read() for _ in range(len(self._chosen))]


def spoken(logits: mx.array, words: int) -> mx.array:
    """Logits (..., vocabulary) in float32, and those of ids without a word impossible."""
    # Log-probabilities in bfloat16 would have two digits, and ties that are none.
    logits = logits.astype(mx.float32)
    if words == logits.shape[-1]:
        return logits
    return mx.where(mx.arange(logits.shape[-1]) < words, logits, -mx.inf)


def choice_of(token: int, logprobs: mx.array, top: int) -> Choice:
    """A choice, read in place: a computation would stand in line behind the next step.

    Arguments:
        logprobs: of all tokens, (vocabulary,) or (1, vocabulary), computed already.
        top: how many of the likeliest come with it.
    """
    row = memoryview(logprobs)  # type: ignore[arg-type]
    logprob = row[token] if row.ndim == 1 else row[0, token]
    # Where nobody asks for them, nothing of numpy is touched: this is done for every token.
    found = likeliest(np.asarray(row).reshape(-1), top) if top else ()
    return Choice(token, logprob, top_logprobs=found)


def likeliest(row: np.ndarray, count: int) -> tuple[tuple[int, float], ...]:
    """The likeliest tokens with their log-probabilities, likeliest first; of equals the one with
    the lower id. What is impossible (minus infinity) is left out.

    They are looked for here and not where the model computes, which is at the next step by now.

    Arguments:
        row: log-probabilities, shape (vocabulary,).
        count: how many at most.
    """
    if not count:
        return ()
    # Of so many parts each has one token above this, so all that are looked for are.
    maxima = np.maximum.reduceat(row, np.arange(0, row.size, 256))
    least = np.partition(maxima, -count)[-count] if len(maxima) >= count else -np.inf
    found = np.flatnonzero((row >= least) & (row > -np.inf))
    found = found[np.lexsort((found, -row[found]))][:count]
    return tuple((int(token), float(row[token])) for token in found)


def sampling_probabilities(
    logprobs: np.ndarray,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
) -> np.ndarray:
    """The probabilities that `generate` draws from: mlx-lm's filters in its order, top-p, min-p,
    top-k, each on the distribution as it is, and the temperature last.

    Arguments:
        logprobs: log-probabilities of all tokens, shape (vocabulary,), see
            `Trace.log_probabilities`.
        temperature, top_p, top_k, min_p: as in `GenerationOptions`.

    Returns:
        float32, shape (vocabulary,), sums to 1; 0 for what was filtered out.

    Raises:
        ValueError: an option out of range.
    """
    options = GenerationOptions(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    logprobs = np.asarray(logprobs, np.float32)
    if is_greedy(options):
        found = np.zeros_like(logprobs)
        found[int(logprobs.argmax())] = 1
        return found
    kept = _filtered(mx.array(logprobs)[None], options)
    scaled = np.array(kept[0], dtype=np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return (weights / weights.sum()).astype(np.float32)


def seeded(options: "GenerationOptions", random: list[mx.array]) -> Callable[[mx.array], mx.array]:
    """A sampler with random numbers of its own: whoever else draws meanwhile changes nothing.

    mlx-lm's samplers share MLX's random state. With `mx.random.seed(seed)` they draw what this one
    draws from `mx.random.key(seed)`.

    Arguments:
        options: of the generation, and not greedy.
        random: the key, which every draw replaces.

    Returns:
        A function from log-probabilities, shape (1, vocabulary), to a token, shape (1,).
    """

    def draw(logprobs: mx.array) -> mx.array:
        random[0], own = mx.random.split(random[0])
        scaled = _filtered(logprobs, options) * (1 / options.temperature)
        # Whoever evaluates the token gets the next key too, which thus belongs to no thread.
        return mx.depends([mx.random.categorical(scaled, key=own)], random)[0]

    return draw


def _filtered(logprobs: mx.array, options: GenerationOptions) -> mx.array:
    """Log-probabilities (1, vocabulary), minus infinity for what mlx-lm's sampler drops."""
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

    if 0 < options.top_p < 1:
        logprobs = apply_top_p(logprobs, options.top_p)
    if options.min_p:
        logprobs = apply_min_p(logprobs, options.min_p)
    if 0 < options.top_k < logprobs.shape[-1]:
        logprobs = apply_top_k(logprobs, options.top_k)
    return logprobs
