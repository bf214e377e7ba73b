"""Checks of answers that go on from what earlier calls left."""

import numpy as np

NEW = 6


def check(model, prompt, cached, **options):
    """An answer that reused exactly `cached` tokens and is the one of reuse=False."""
    options = {"max_tokens": NEW} | options
    reply = model.generate(prompt, **options)
    alone = model.generate(prompt, **options, reuse=False)
    assert reply.stats.cached_tokens == cached
    assert alone.stats.cached_tokens == 0
    assert reply.tokens == alone.tokens
    np.testing.assert_allclose(reply.logprobs, alone.logprobs, atol=1e-5)
    return reply


def common(one, two):
    """Length of the beginning that two token lists share."""
    return next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), len(one))


def prompt_rest(prompt):
    """All of a prompt but its tokens."""
    return prompt.images, prompt.grids, prompt.spans
