"""The likeliest tokens beside each one, whoever writes the answer."""

import json

import numpy as np
import pytest

from pixtral_mlx.engine.lookup import Drafter
from pixtral_mlx.engine.sampling import likeliest

BIAS = {300: 3.0, 65: -(10**9)}
OPTIONS = {"max_tokens": 30, "logit_bias": BIAS, "top_logprobs": 5, "reuse": False}
FORM = {"type": "object", "properties": {"seats": {"type": "integer"}}, "required": ["seats"]}


def check(model, prompt, reply, count=5):
    """One pass over prompt and answer gives them again."""
    whole = model.encode(prompt)
    start = len(whole.tokens) - 1
    whole.tokens.extend(reply.tokens)
    logits = np.array(model.logits(whole), np.float64)[start:-1]
    logits[:, model.tokenizer.n_words :] = -np.inf
    for token, bias in BIAS.items():
        logits[:, token] += bias
    logits -= logits.max(axis=-1, keepdims=True)
    own = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    assert len(reply.top_logprobs) == len(reply.tokens) == len(own) > 0
    for row, top, token, logprob in zip(
        own, reply.top_logprobs, reply.tokens, reply.logprobs, strict=True
    ):
        ids, values = zip(*top, strict=True)
        assert len({*ids}) == count and list(values) == sorted(values, reverse=True)
        np.testing.assert_allclose(values, np.sort(row)[: -count - 1 : -1], atol=1e-4)
        np.testing.assert_allclose(values, row[[*ids]], atol=1e-4)
        assert dict(top).get(token, logprob) == logprob
    json.dumps(reply.top_logprobs, allow_nan=False)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_alone(model, temperature):
    options = OPTIONS | {"temperature": temperature, "seed": 4, "top_k": 3}
    stream = model.stream("Which?", **options)
    pieces = list(stream)
    check(model, "Which?", stream.reply)
    assert [piece.top_logprobs for piece in pieces] == stream.reply.top_logprobs
    chosen = [token == top[0][0] for token, top in zip(
        stream.reply.tokens, stream.reply.top_logprobs, strict=True
    )]  # fmt: skip
    assert all(chosen) == (temperature == 0.0)


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_in_a_batch(model, temperature):
    """Some with a form, some with other numbers; one begins alone, and all but one ask."""
    requests = [{"messages": f"Question {n}?", "seed": n, "top_logprobs": n} for n in (3, 0, 20, 1)]
    requests += [{"messages": "Seats?", "response_format": FORM, "seed": 1}]
    replies = model.generate_batch(requests, **OPTIONS | {"temperature": temperature})
    for request, reply in zip(requests, replies, strict=True):
        count = request.get("top_logprobs", 5)
        alone = model.generate(**OPTIONS | {"temperature": temperature} | request)
        assert reply.tokens == alone.tokens
        ids = [[token for token, _ in top] for top in reply.top_logprobs]
        assert ids == [[token for token, _ in top] for top in alone.top_logprobs]
        if count:
            check(model, request["messages"], reply, count)
        else:
            assert reply.top_logprobs == []


def test_from_before_the_mask_and_of_what_was_forced(model):
    reply = model.generate("Seats?", response_format=FORM, **OPTIONS)
    assert reply.stats.forced_tokens > 3
    check(model, "Seats?", reply)
    outside = [token not in dict(top) for token, top in zip(
        reply.tokens, reply.top_logprobs, strict=True
    )]  # fmt: skip
    assert any(outside)


def test_of_several_tokens_in_one_pass(model, monkeypatch):
    draft = Drafter.draft
    monkeypatch.setattr(Drafter, "draft", lambda self, room: draft(self, room) or [7, 7][:room])
    reply = model.generate("- - - - - -", prompt_lookup_num_tokens=4, **OPTIONS)
    assert reply.stats.drafted_tokens > 0
    check(model, "- - - - - -", reply)


def test_off_nothing_changes(model):
    plain = {name: value for name, value in OPTIONS.items() if name != "top_logprobs"}
    without, asked = model.generate("Which?", **plain), model.generate("Which?", **OPTIONS)
    assert (without.tokens, without.logprobs) == (asked.tokens, asked.logprobs)
    assert without.top_logprobs == []
    assert {piece.top_logprobs for piece in model.stream("Which?", **plain)} == {()}


@pytest.mark.parametrize("wrong", [-1, 21, 1.5, True])
def test_a_number_out_of_range_is_refused(model, wrong):
    with pytest.raises(ValueError, match="top_logprobs must be"):
        model.generate("Which?", top_logprobs=wrong)


def test_of_equals_the_lower_id_and_nothing_impossible():
    rng = np.random.default_rng(0)
    for size in (3, 300, 256 * 20, 131_072):
        row = rng.integers(-9, 0, size).astype(np.float32)  # many ties
        row[rng.integers(0, size, size // 3)] = -np.inf
        for count in (1, 5, 20):
            order = [int(n) for n in np.lexsort((np.arange(size), -row)) if row[n] > -np.inf]
            expected = tuple((n, float(row[n])) for n in order[:count])
            assert likeliest(row, count) == expected
    assert likeliest(np.array([-1.0]), 0) == ()
