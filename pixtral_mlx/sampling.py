"""What temperature and filters make of a distribution, before a token is drawn from it."""

import numpy as np

from .generate import GenerationOptions, is_greedy


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
    scaled = _filtered(logprobs, options) / temperature
    weights = np.exp(scaled - scaled.max())
    return (weights / weights.sum()).astype(np.float32)


def _filtered(logprobs: np.ndarray, options: GenerationOptions) -> np.ndarray:
    """Log-probabilities, minus infinity for what mlx-lm's sampler drops."""
    import mlx.core as mx
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

    kept = mx.array(logprobs)[None]
    if 0 < options.top_p < 1:
        kept = apply_top_p(kept, options.top_p)
    if options.min_p:
        kept = apply_min_p(kept, options.min_p)
    if 0 < options.top_k < logprobs.size:
        kept = apply_top_k(kept, options.top_k)
    return np.array(kept[0], dtype=np.float64)
