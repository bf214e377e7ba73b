"""Two runs over one answer, and what sampling makes of a distribution."""

import mlx.core as mx
import numpy as np
import pytest

import pixtral_mlx as px
from pixtral_mlx.engine.sampling import Sampler
from pixtral_mlx.interpret import compare, edits
from pixtral_mlx.interpret.maps import block_means

CHANGES = [
    [edits.NoBreakTokens()],
    [edits.MaskPatches([(0, 1), 3], 1), edits.KnockOutHeads("text", 1, [0, 3])],
    [edits.SkipLayers("vision", [1]), edits.NoVisionMask()],
]


def naive(model, prompt, tokens, changes):
    """Log-probabilities behind each word, from one whole pass: shape (tokens, vocabulary)."""
    prompt = edits.edited(prompt, changes, model.config)
    longer = px.Prompt(prompt.tokens + tokens[:-1], prompt.images, prompt.grids, prompt.spans)
    rest = [e for e in changes if not isinstance(e, edits.NoBreakTokens)]
    logits = np.array(model.logits(longer, edits=rest), np.float64)[len(prompt.tokens) - 1 :]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("changes", CHANGES, ids=lambda c: type(c[0]).__name__)
@pytest.mark.parametrize("step", [512, 7])
def test_divergence_is_the_sum_over_the_vocabulary(model, prompt, monkeypatch, changes, step):
    monkeypatch.setattr(compare, "TOKENS_A_STEP", step)
    monkeypatch.setattr(compare, "POSITIONS_AT_ONCE", 4)
    tokens = model.generate(prompt, max_tokens=6).tokens
    calls = []
    found = px.compare_runs(
        model, prompt, tokens, changes, progress=lambda *counts: calls.append(counts)
    )
    p, q = naive(model, prompt, tokens, []), naive(model, prompt, tokens, changes)
    assert np.allclose(found.kl, (np.exp(p) * (p - q)).sum(-1), atol=2e-5)
    assert np.allclose(found.first, p[range(6), tokens], atol=2e-5)
    assert np.allclose(found.second, q[range(6), tokens], atol=2e-5)
    assert found.kl.max() > 1e-3  # the change matters
    assert calls[-1][0] == calls[-1][1]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_equal_runs_do_not_part_and_the_first_may_be_edited(model, prompt):
    changes = [edits.ShufflePatches(3)]
    tokens = model.generate(prompt, max_tokens=5, edits=changes).tokens
    same = px.compare_runs(model, prompt, tokens, changes, before=changes)
    assert np.abs(same.kl).max() < 1e-6
    reply = model.generate(prompt, max_tokens=5, edits=changes)
    assert np.allclose(same.first, reply.logprobs, atol=1e-4)
    forth = px.compare_runs(model, prompt, tokens, changes)
    back = px.compare_runs(model, prompt, tokens, [], before=changes)
    assert np.allclose(forth.second, back.first, atol=1e-5)
    assert not np.allclose(forth.kl, back.kl, rtol=1e-3)  # KL has a direction


def test_an_answer_read_once_is_set_against_many_runs(model, prompt, monkeypatch):
    tokens = model.generate(prompt, max_tokens=5).tokens
    expected = [px.compare_runs(model, prompt, tokens, changes) for changes in CHANGES]
    read, hidden = [], compare._hidden
    monkeypatch.setattr(compare, "_hidden", lambda *given: read.append(given[3]) or hidden(*given))
    first = px.read_answer(model, prompt, tokens)
    found = [first.against(changes) for changes in CHANGES]
    assert read == [(), *CHANGES]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.kl, other.kl)
        assert np.array_equal(one.first, other.first)
        assert np.array_equal(one.second, other.second)


def test_text_alone_and_an_empty_answer(model):
    prompt = model.encode("What?")
    tokens = model.generate(prompt, max_tokens=3).tokens
    found = px.compare_runs(model, prompt, tokens, [edits.SkipLayers("text", [1])])
    assert found.kl.shape == (3,)
    with pytest.raises(ValueError, match="no tokens"):
        px.compare_runs(model, prompt, [], [])


SETTINGS = [
    {"temperature": 0.7}, {"temperature": 1.5, "top_p": 0.6}, {"temperature": 1.0, "top_k": 3},
    {"temperature": 0.9, "min_p": 0.2}, {"temperature": 1.2, "top_p": 0.9, "top_k": 4},
    {"temperature": 0.0, "top_p": 0.5}, {"temperature": 1.0, "top_p": 1e-9},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_probabilities_are_those_that_generate_draws_from(settings):
    """Against the sampler itself: 20,000 draws, each share within five standard errors."""
    logits = np.random.RandomState(1).standard_normal(12).astype(np.float32) * 1.5
    logprobs = logits - np.log(np.exp(logits).sum())
    expected = px.sampling_probabilities(logprobs, **settings)
    assert expected.sum() == pytest.approx(1, abs=1e-6)
    options = px.GenerationOptions(**settings)
    sampler, draws = Sampler(options, 12).draw, 20_000
    mx.random.seed(5)
    drawn = np.array(sampler(mx.array(np.tile(logprobs, (draws, 1)))))
    shares = np.bincount(drawn, minlength=12) / draws
    error = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(shares - expected) <= 5 * error + 1e-12).all()


def test_sampling_refuses_what_generate_refuses():
    with pytest.raises(ValueError, match=r"^top_p must be between 0 and 1, got 2$"):
        px.sampling_probabilities(np.zeros(4), top_p=2)


def test_means_over_blocks():
    values = np.arange(15, dtype=np.float32).reshape(3, 5)
    expected = [[values[:2, :2].mean(), values[:2, 2:4].mean(), values[:2, 4].mean()],
                [values[2, :2].mean(), values[2, 2:4].mean(), values[2, 4]]]  # fmt: skip
    assert block_means(values, 2) == pytest.approx(np.array(expected))
    assert np.array_equal(block_means(values, 1), values)
    assert block_means(values, 9) == pytest.approx(np.array([[7.0]]))


def test_the_whole_distribution_is_that_of_the_logits(model, prompt):
    reply = model.generate(prompt, max_tokens=3, trace=True)
    longer = px.Prompt(prompt.tokens + reply.tokens[:2], prompt.images, prompt.grids, prompt.spans)
    logits = np.array(model.logits(longer)[-1], np.float64)
    found = reply.trace.log_probabilities(2)
    assert np.allclose(found, logits - np.log(np.exp(logits).sum()), atol=2e-5)
    assert found[reply.tokens[2]] == pytest.approx(reply.logprobs[2], abs=1e-4)
    earlier = reply.trace.log_probabilities(2, layer=0)
    assert np.exp(earlier.max()) == pytest.approx(reply.trace.logit_lens(2, 0, 1)[0][1], abs=1e-6)
