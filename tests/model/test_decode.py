"""One wait a token, for work that was launched a step before; nothing is started by reading."""

import functools

import mlx.core as mx
import pytest
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.engine import sampling
from pixtral_mlx.engine.generate import GenerationStream
from pixtral_mlx.engine.sampling import Sampler, choice_of
from pixtral_mlx.model.decoder import Decoder

READS = ("item", "tolist", "__int__", "__float__", "__bool__", "__index__", "__array__")


@pytest.fixture
def events(monkeypatch, tmp_path):
    """What happens, in order: "step", "launch", "wait", "read", and "read of new work"."""
    found = []

    def told(name, function):
        @functools.wraps(function)
        def told_function(*arguments, **options):
            found.append(name)
            return function(*arguments, **options)

        return told_function

    def read(function):
        def read_function(array, *arguments, **options):
            mx.export_to_dot(str(tmp_path / "graph"), array)
            # What was launched has forgotten what it was computed from: nothing points anywhere.
            new = "->" in (tmp_path / "graph").read_text()
            found.append("read of new work" if new else "read")
            return function(array, *arguments, **options)

        return read_function

    def read_choice(token, logprobs, top):
        return choice_of(token, read(lambda array: array)(logprobs), top)

    monkeypatch.setattr(Decoder, "hidden", told("step", Decoder.hidden))
    monkeypatch.setattr(mx, "async_eval", told("launch", mx.async_eval))
    monkeypatch.setattr(mx, "eval", told("wait", mx.eval))
    monkeypatch.setattr(sampling, "choice_of", read_choice)
    for name in READS:
        if hasattr(mx.array, name):
            monkeypatch.setattr(mx.array, name, read(getattr(mx.array, name)))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "seed": 3},
        {"repetition_penalty": 1.2, "logit_bias": {5: 1.0}},
        {"trace": True},
        {"edits": [px.edits.KnockOutHeads("text", 1, [0])]},
    ],
    ids=str,
)
def test_the_next_step_is_launched_before_a_token_is_read(model, events, options):
    prompt = model.encode("What is this?", [Image.new("RGB", (40, 60), (200, 30, 90))])
    launched = ["step", "launch"] + ["launch"] * ("trace" in options)
    options = px.GenerationOptions(max_tokens=6, reuse=False, **options)
    steps = filter(None, GenerationStream(model.engine, prompt, options).steps())
    next(steps)
    assert events.count("step") == 1  # over the prompt: the first token waits for no other
    next(steps)
    assert events.count("step") == 3  # over the first token, and over the second
    for number in range(2, 6):
        events.clear()
        next(steps)
        # The token is read, and then its log-probability: one wait, for what was launched a token
        # ago. Nobody will read what would follow the last token.
        assert events == [*(launched if number < 5 else ()), "read", "read"], number


def test_a_draft_is_checked_in_one_step_with_one_wait(model, events):
    options = px.GenerationOptions(
        reuse=False,
        max_tokens=30,
        logit_bias={117: 99.0},
        prompt_lookup_num_tokens=8,
        temperature=0.5,
        seed=1,
    )
    steps = filter(None, GenerationStream(model.engine, model.encode("abab"), options).steps())
    next(steps)
    events.clear()
    assert len(list(steps)) == 29
    checks = events.count("step")
    assert checks == events.count("wait") < 15
    assert events.count("read") == len(events) - 2 * checks  # and nothing is started by reading


def test_what_a_sampler_chose_comes_with_its_log_probability(model):
    sampler = Sampler(px.GenerationOptions(), 4)
    for row in ([0.1, 0.2, 0.6, 0.1], [0.7, 0.1, 0.1, 0.1]):
        sampler.choose(mx.log(mx.array([row])))
    sampler.launch()
    assert [sampler.read()[:2] for _ in range(2)] == [
        (2, pytest.approx(-0.5108256)), (0, pytest.approx(-0.3566749)),
    ]  # fmt: skip
