"""Batches: the answers of single runs, whoever comes, goes or fails meanwhile."""

from types import SimpleNamespace

import numpy as np
import pytest
from cases import picture
from questions import user

import pixtral_mlx as px
from pixtral_mlx.mini import scene

QUESTIONS = [
    "What is in the first row, second column?",
    "How many rows are there?",
    "What is in row 1, column 1?",
    "How many columns are there?",
]


def mixed():
    """Requests with no, one and several pictures, of several sizes and lengths."""
    return [
        "Why?",
        user(picture(40, 30), "What is this?"),
        user("Compare", picture(90, 20, seed=1), "with", picture(16, 64, seed=2), "please. " * 9),
        user(picture(64, 64, seed=3), picture(64, 64, seed=4), "Which?"),
        user("One word only, and a rather long text before it. " * 4),
        user(picture(64, 64, seed=4), "Which?"),
    ]


def same(batched, single, digits=1e-4):
    assert batched.tokens == single.tokens
    assert (batched.text, batched.finish_reason) == (single.text, single.finish_reason)
    np.testing.assert_allclose(batched.logprobs, single.logprobs, atol=digits)
    for name in ("prompt_tokens", "image_tokens", "generated_tokens"):
        assert getattr(batched.stats, name) == getattr(single.stats, name)


# The same answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("step", [5, 512])
def test_a_batch_gives_the_answers_of_single_runs(model, size, step):
    replies = model.generate_batch(
        mixed(), batch_size=size, max_tokens=14, prefill_step_size=step, reuse=False
    )
    for reply, request in zip(replies, mixed(), strict=True):
        same(reply, model.generate(request, max_tokens=14, reuse=False))


def test_pixtral_mini_answers_a_batch_as_one_by_one(mini):
    scenes = [scene(1, 2, 3), scene(2, 3, 4)]
    requests = [user(s.image, q) for s in scenes for q in QUESTIONS]
    replies = mini.generate_batch(requests, reuse=False)
    for reply, request in zip(replies, requests, strict=True):
        same(reply, mini.generate(request, reuse=False))
    assert {reply.finish_reason for reply in replies} == {"stop"}
    assert len({reply.text for reply in replies}) > 3


def test_each_request_may_have_options_of_its_own(model):
    words = model.generate("Why?", max_tokens=8, reuse=False)
    requests = [
        {"messages": "Why?", "max_tokens": 3},
        {"messages": "Why?", "stop": words.text[3:6]},
        {"messages": "Why?", "logit_bias": {model.tokenizer.eos_id: 1e9}},
        {"messages": "Why?", "logit_bias": {300: 8.0}, "repetition_penalty": 20.0},
        {"messages": "What?", "images": [picture(40, 30)], "max_tokens": 1},
        {"messages": "plain", "raw": True},
        {"messages": "Why?", "stop": words.text[-2:] + " and more"},  # begins and does not come
    ]
    replies = model.generate_batch(requests, max_tokens=8, reuse=False)
    for reply, request in zip(replies, requests, strict=True):
        same(reply, model.generate(**{"max_tokens": 8, "reuse": False} | request))
    assert [reply.finish_reason for reply in replies[:3]] == ["length", "stop", "stop"]
    assert replies[1].text == words.text[:3] and replies[2].tokens == []


@pytest.mark.parametrize("filters", [{}, {"top_k": 40}, {"top_p": 0.7, "min_p": 0.01}])
def test_a_seed_draws_what_it_draws_alone(model, filters):
    options = {"max_tokens": 12, "temperature": 1.5, "reuse": False, **filters}
    requests = [{"messages": m, "seed": seed} for seed, m in enumerate(mixed())]
    replies = model.generate_batch(requests, batch_size=4, **options)
    for reply, request in zip(replies, requests, strict=True):
        same(reply, model.generate(**request, **options))


def test_without_a_seed_answers_to_one_question_vary(model):
    replies = model.generate_batch(["Why?"] * 4, max_tokens=12, temperature=1.5)
    assert len({tuple(reply.tokens) for reply in replies}) > 1


def test_pictures_may_be_given_beside_the_questions(model):
    pictures = [[picture(40, 30)], [], [picture(20, 60), picture(40, 30)]]
    replies = model.generate_batch(["A?", "B?", "C?"], images=pictures, max_tokens=5)
    for reply, question, images in zip(replies, ["A?", "B?", "C?"], pictures, strict=True):
        same(reply, model.generate(question, images=images, max_tokens=5))
    with pytest.raises(ValueError, match="2 lists for 1 requests"):
        model.generate_batch(["A?"], images=[[], []])


def test_prompts_and_the_shortest_prompt_of_all(model):
    prompts = [model.encode("", raw=True), model.encode("Why?", [picture(40, 30)])]
    assert len(prompts[0].tokens) == 1
    for reply, prompt in zip(model.generate_batch(prompts, max_tokens=6), prompts, strict=True):
        same(reply, model.generate(prompt, max_tokens=6))


def test_nothing_to_do(model):
    assert model.generate_batch([]) == []


# What is shared, and what it takes -------------------------------------------------------------


def test_questions_about_one_document_read_it_once(model):
    model.clear_cache()
    document = [picture(64, 64, seed=8), picture(48, 64, seed=9)]
    requests = [user(*document, question) for question in ("First?", "Second?", "Third?")]
    replies = model.generate_batch(requests, max_tokens=5)
    assert replies[0].stats.cached_tokens == 0
    for reply in replies[1:]:
        assert reply.stats.cached_tokens >= reply.stats.image_tokens
    later = model.generate(requests[1], max_tokens=5)
    assert later.stats.cached_tokens == later.stats.prompt_tokens - 1
    for reply, request in zip(replies, requests, strict=True):
        same(reply, model.generate(request, max_tokens=5, reuse=False))


def test_no_reuse_leaves_nothing(model):
    model.clear_cache()
    model.generate_batch(["Why?", "How?"], max_tokens=4, reuse=False)
    assert len(model.prompt_cache) == 0


def test_statistics(model):
    replies = model.generate_batch(mixed(), max_tokens=6, reuse=False)
    for reply in replies:
        stats = reply.stats
        assert stats.peak_bytes > 0 and stats.prompt_seconds > stats.vision_seconds
        assert stats.decode_seconds > 0 and stats.cached_tokens == 0
        assert (stats.vision_seconds > 0) == (stats.image_tokens > 0)


class Watched:
    """Requests that note how many were taken and not yet answered."""

    def __init__(self, requests):
        self.requests, self.open, self.most = requests, 0, 0

    def __iter__(self):
        for request in self.requests:
            self.open += 1
            self.most = max(self.most, self.open)
            yield request

    def answers(self, stream):
        for number, reply in stream:
            self.open -= 1
            yield number, reply


def test_answers_come_as_they_are_finished_and_requests_as_there_is_room(model):
    lengths = [9, 2, 5, 1, 7, 3, 1, 1]
    requests = [{"messages": f"Question {n}?", "max_tokens": k} for n, k in enumerate(lengths)]
    watched = Watched(requests)
    finished = dict(watched.answers(model.stream_batch(watched, batch_size=2)))
    assert [len(finished[n].tokens) for n in range(8)] == lengths
    assert list(finished) != sorted(finished)  # a short answer overtakes a long one
    assert watched.most == 3  # two are written, one waits


@pytest.mark.parametrize("activations", [0, 90])
def test_fewer_at_once_where_memory_is_short(model, monkeypatch, activations):
    from pixtral_mlx.engine import batch, request

    asked = []

    def room(_, tokens):
        asked.append(tokens)
        return 200 - tokens

    monkeypatch.setattr(
        request, "need_of", lambda *_, **__: SimpleNamespace(activations=activations, cache=0)
    )

    model.generate("An earlier question?", max_tokens=2)
    assert len(model.prompt_cache)
    monkeypatch.setattr(batch, "room_bytes", room)
    requests = [f"Question {n}?" for n in range(5)] + ["long " * 120]
    watched = Watched(requests)
    finished = dict(watched.answers(model.stream_batch(watched, max_tokens=60, reuse=False)))
    # Two rows of some 70 tokens fit, or one beside activations; the long one runs alone.
    assert watched.most == (2 if activations else 3)
    assert max(asked) > 200 and len(finished) == 6
    assert not model.prompt_cache.nbytes  # what was kept has made way
    for number, asked_for in enumerate(requests):
        same(finished[number], model.generate(asked_for, max_tokens=60, reuse=False))


# What goes wrong -------------------------------------------------------------------------------


def failing(model):
    context = model.config.text.max_seq_len
    return [
        "Why?",
        {"messages": "What?", "images": [b"no picture"]},
        user(picture(40, 30), "What is this?"),
        {"messages": "x " * context},
        [{"role": "pirate", "content": "Arr"}],
        "How?",
    ]


def test_a_request_that_fails_does_not_lose_the_others(model):
    requests = failing(model)
    replies = model.generate_batch(requests, max_tokens=5, batch_size=2, return_errors=True)
    kinds = [type(reply).__name__ for reply in replies]
    assert kinds == ["Reply", "ImageError", "Reply", "CapacityError", "PromptError", "Reply"]
    for n in (0, 2, 5):
        same(replies[n], model.generate(requests[n], max_tokens=5))
    with pytest.raises(px.ImageError, match="not a picture"):
        model.generate_batch(requests, max_tokens=5)


def test_a_prompt_that_contradicts_its_pictures_fails_alone(model):
    wrong = px.Prompt([1, 3, 10, 4], [np.zeros((3, 32, 32), np.float32)], [(2, 2)])
    first, second = model.generate_batch([wrong, "Why?"], max_tokens=4, return_errors=True)
    assert isinstance(first, px.PromptError) and len(second.tokens) == 4


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"trace": True}, "no trace"),
        ({"edits": [px.edits.NoBreakTokens()]}, "no edits"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
    ],
)
def test_options_that_cannot_be(model, options, seen):
    with pytest.raises(ValueError, match=seen.replace("no edits", "takes no edits")):
        model.stream_batch(["Why?"], **options)
    with pytest.raises(ValueError, match=seen.replace("no edits", "takes no edits")):
        model.generate_batch(["Why?"], **options)


def test_damaged_weights_are_named(folder):
    damaged = px.load(folder, dtype="float32")
    damaged.decoder.norm.weight = damaged.decoder.norm.weight * float("nan")
    with pytest.raises(px.CheckpointError, match="computes NaN"):
        damaged.generate_batch(["Why?", "How?"], max_tokens=4)


def test_an_interrupt_keeps_what_there_is(model):
    seen = []

    def requests():
        yield {"messages": "Why?", "max_tokens": 2}
        yield {"messages": "How?", "max_tokens": 50}
        yield {"messages": "What?", "max_tokens": 50}
        seen.append("third")
        raise KeyboardInterrupt

    stream = model.stream_batch(requests(), batch_size=2, reuse=False)
    first, second, third = stream.replies(3)
    assert seen and (first.finish_reason, len(first.tokens)) == ("length", 2)
    assert second.finish_reason == "interrupted"
    whole = model.generate("How?", max_tokens=50, reuse=False)
    assert 0 < len(second.tokens) < 50 and second.tokens == whole.tokens[: len(second.tokens)]
    assert third.finish_reason == "interrupted" and len(third.tokens) < 50
    assert len(model.generate_batch(["Why?"], max_tokens=3)[0].tokens) == 3
