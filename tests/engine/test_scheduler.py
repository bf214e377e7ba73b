"""The scheduler: what a step is, who comes, goes and fails meanwhile."""

import gc
import json
import weakref
from itertools import pairwise
from types import SimpleNamespace

import mlx.core as mx
import pydantic
import pytest
from cases import picture
from checkpoints import make_official
from questions import user
from watching import Watched, same

import pixtral_mlx as px
from pixtral_mlx.engine import batch
from pixtral_mlx.engine.batch import Batch
from pixtral_mlx.engine.capacity import need_of
from pixtral_mlx.engine.generate import GenerationStream
from pixtral_mlx.engine.request import Request
from pixtral_mlx.engine.run import Run
from pixtral_mlx.engine.sampling import Sampler
from pixtral_mlx.model.decoder import Decoder
from pixtral_mlx.model.kv_cache import KVFormat
from pixtral_mlx.model.vision import VisionBlock

LONG = "A rather long text that is read in many parts. " * 3
STEP = {"prefill_step_size": 8, "reuse": False}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Its heads of 32 numbers can be kept in 8 bits, which takes groups of 32."""
    return px.load(
        make_official(tmp_path_factory.mktemp("steps") / "model", text={"head_dim": 32}),
        dtype="float32",
    )


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Of the scheduler: it stands still, so that no part of a prompt is called short, unless a test
    adds to its one number."""
    now = [0.0]
    monkeypatch.setattr(batch, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


@pytest.fixture
def endless(wide):
    """Options of an answer that does not end by itself."""
    return {"logit_bias": {wide.tokenizer.eos_id: -1e9}, **STEP}


@pytest.fixture
def calls(monkeypatch):
    """(rows, positions) of every pass through the decoder."""
    found, hidden = [], Decoder.hidden

    def spy(self, inputs, *arguments, **options):
        found.append(tuple(inputs.shape))
        return hidden(self, inputs, *arguments, **options)

    monkeypatch.setattr(Decoder, "hidden", spy)
    return found


# What a step is --------------------------------------------------------------------------------


def test_between_two_steps_of_the_answers_stands_at_most_one_part_of_a_prompt(wide, calls, endless):
    watched = Watched(wide)
    for text in ("Why?", "How?"):
        watched.add(text, max_tokens=200, **endless)
    watched.until(lambda: all(watched.pieces[n] for n in (0, 1)))
    for _ in range(2):
        watched.add(user(picture(64, 64), LONG), max_tokens=4, **STEP)
    since, parts = 0, 0  # the last step of the answers
    while watched.batch._turns:
        calls.clear()
        watched.step()
        read = [length for rows, length in calls if length > 1]
        assert len(read) <= 1 and max(read, default=0) <= 8
        assert not (read and len(calls) > 1), "a part of a prompt and a step of the answers"
        parts += len(read)
        since = 0 if any(rows > 1 for rows, _ in calls) else since + 1
        assert since < 2
    assert parts > 20
    watched.batch.close()


def test_short_parts_share_a_turn_as_long_as_a_token(wide, calls, endless, clock, monkeypatch):
    """A pass over a token of two answers takes 10 s here, and one over a part of a prompt 4 s."""
    hidden = Decoder.hidden

    def slow(self, inputs, *arguments, **options):
        clock[0] += 10 if inputs.shape[0] > 1 else 4
        return hidden(self, inputs, *arguments, **options)

    watched = Watched(wide)
    for text in ("Why?", "How?"):
        watched.add(text, max_tokens=200, **endless)
    watched.until(lambda: all(watched.pieces[n] for n in (0, 1)))
    monkeypatch.setattr(Decoder, "hidden", slow)
    for _ in range(2):
        watched.add(LONG, max_tokens=4, **STEP)
    parts = []
    while not watched.pieces[3]:
        calls.clear()
        watched.step()
        parts.append(sum(length > 1 for _, length in calls))
    assert {*parts[:8]} == {0, 3} and not any(a and b for a, b in pairwise(parts))
    watched.batch.close()


def test_a_first_token_waits_for_no_prompt_that_came_later(wide, calls, endless):
    watched = Watched(wide)
    for _ in range(4):
        watched.add(LONG, max_tokens=200, **endless)
    parts = []
    for number in range(4):
        watched.until(lambda n=number: watched.pieces[n])
        assert not any(watched.pieces[n] for n in range(number + 1, 4))
        parts.append(sum(length > 1 for _, length in calls))
    assert parts[0] * 4 == parts[3] and parts[0] * 2 == parts[1]
    watched.batch.close()


def test_nothing_to_do_is_no_step(wide):
    batch = Batch(wide.engine)
    assert batch.step() == [] and not batch.busy and batch.close() == []
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        Batch(wide.engine, batch_size=0)


@pytest.mark.parametrize("bits", [8, None])
def test_keys_and_values_count_in_the_bits_they_are_kept_in(wide, monkeypatch, endless, bits):
    """There is room for two answers in 8 bits, and so for one as computed."""
    options = {"max_tokens": 40, "prompt_lookup_num_tokens": 2, **endless}  # each runs by itself
    need = need_of(wide, wide.encode(LONG), 40, KVFormat(8), options["prefill_step_size"])
    usable = need.weights + 2 * need.cache + need.activations + 1
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: usable)
    watched = Watched(wide)
    first, second = (watched.add(LONG, kv_bits=bits, force=True, **options) for _ in range(2))
    watched.until(lambda: len(watched.pieces[first]) > 20)
    assert bool(watched.pieces[second]) == (bits == 8)
    watched.batch.close()


def test_an_answer_that_is_alone_is_that_of_generate_to_the_last_bit(wide, calls):
    options = {"max_tokens": 20, "temperature": 1.0, "seed": 5, "top_k": 50, **STEP}
    alone, passes = wide.generate(LONG, **options), list(calls)
    calls.clear()
    watched = Watched(wide)
    watched.add(LONG, **options)
    reply = watched.finish()[0]
    assert (reply.tokens, reply.logprobs, reply.text) == (alone.tokens, alone.logprobs, alone.text)
    assert calls == passes


def test_an_image_is_encoded_a_layer_at_a_time(wide, monkeypatch, endless):
    seen, layer = [], VisionBlock.__call__
    monkeypatch.setattr(
        VisionBlock, "__call__", lambda self, *a, **o: seen.append(0) or layer(self, *a, **o)
    )
    watched = Watched(wide)
    watched.add("Why?", max_tokens=200, **endless)
    watched.until(lambda: watched.pieces[0])
    # Each of them is too large to be encoded together with another.
    monkeypatch.setattr("pixtral_mlx.model.attention.PATCHES_AT_ONCE", 4)
    watched.add(user(picture(64, 64), picture(32, 64), "Which?"), max_tokens=2, **endless)
    layers = []
    while 1 not in watched.ended:
        seen.clear()
        watched.step()
        layers.append(len(seen))
    assert max(layers) == 1 and sum(layers) == 2 * len(wide.vision_encoder.layers)
    assert not any(layers[n] and layers[n + 1] for n in range(len(layers) - 1))
    watched.batch.close()


# Coming and going ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "top_k": 40, "seed": 3}], ids=str)
def test_others_may_come_while_answers_are_written(wide, calls, options):
    options = {"repetition_penalty": 1.3, "max_tokens": 100, **options, **STEP}
    requests = ["Why?", user(picture(40, 30), "What is this?"), LONG, "How?"]
    watched = Watched(wide)
    for number, request in enumerate(requests):
        watched.add(request, **options)
        watched.until(lambda n=number: len(watched.pieces[n]) > 2)
    assert max(rows for rows, _ in calls) == 4
    ended = watched.finish()
    for number, request in enumerate(requests):
        same(ended[number], wide.generate(request, **options))


def test_a_request_goes_on_from_what_an_unfinished_answer_has_read(wide):
    wide.clear_cache()
    watched = Watched(wide)
    for number, text in enumerate(["First?", "Second?", "Third?"]):
        watched.add(user(picture(64, 64, seed=8), text), max_tokens=30)
        watched.until(lambda n=number: watched.pieces[n])
    for number, reply in watched.finish().items():
        assert (reply.stats.cached_tokens >= reply.stats.image_tokens) == (number > 0)
    wide.clear_cache()


@pytest.mark.parametrize("when", ["waiting", "opened", "image", "prompt", "alone", "rows"])
def test_cancelled_at_any_time(wide, endless, when):
    watched = Watched(wide)
    others = [] if when == "alone" else ["Why?", "How?"]
    for text in others:
        watched.add(text, max_tokens=30, **endless)
    watched.until(lambda: all(watched.pieces[n] for n in range(len(others))))
    gone = watched.add(user(picture(64, 64), LONG), max_tokens=200, **endless)
    *_, request = watched.batch._turns
    steps = {"waiting": 0, "opened": 2, "image": 4, "prompt": 10}.get(when)
    for _ in range(steps or 0):
        watched.step()
    watched.until(lambda: steps is not None or len(watched.pieces[gone]) > 2)
    run = getattr(getattr(request, "stream", None), "run", None)
    kept = [weakref.ref(request), weakref.ref(run or request)]
    assert bool(run) == (when in ("image", "prompt", "alone"))
    assert run is None or run.ready == (when == "alone")
    del request, run
    reply = watched.batch.cancel(gone)
    assert reply.finish_reason == "interrupted"
    assert bool(reply.tokens) == (when in ("alone", "rows"))
    assert watched.batch.cancel(gone) is None
    gc.collect()
    assert [ref() for ref in kept] == [None, None]
    assert gone not in watched.finish()
    for number, text in enumerate(others):
        same(watched.ended[number], wide.generate(text, max_tokens=30, **endless))


def test_closing_hands_out_what_there_is(wide, endless):
    watched = Watched(wide, batch_size=2)
    for text in ("Why?", "How?", "What?", "Who?"):
        watched.add(text, max_tokens=100, **endless)
    watched.until(lambda: len(watched.pieces[1]) > 3)
    left = watched.batch.close()
    assert [number for number, _ in left] == [0, 1, 2, 3] and not watched.batch.busy
    assert {reply.finish_reason for _, reply in left} == {"interrupted"}
    assert [bool(reply.tokens) for _, reply in left] == [True, True, False, False]
    assert watched.add("Why?", max_tokens=2, **STEP) == 4
    same(watched.finish()[4], wide.generate("Why?", max_tokens=2, **STEP))


# What mlx-lm's batch has not, and what goes wrong ------------------------------------------------


SPECIAL = [
    {"trace": True},
    {"edits": [px.edits.KnockOutHeads("text", 1, [0])]},
    {"prompt_lookup_num_tokens": 4, "temperature": 1.2, "seed": 4},
    {"kv_bits": 8},
]


def test_what_a_batch_has_not_runs_beside_it(wide, calls):
    watched = Watched(wide)
    plain = {"max_tokens": 30, "temperature": 1.0, **STEP}
    for n, special in enumerate(SPECIAL):
        watched.add(user(picture(64, 48), "What is this?"), max_tokens=12, **STEP, **special)
        watched.add(f"{LONG} {n}?", seed=n, **plain)
    ended = watched.finish()
    for n, special in enumerate(SPECIAL):
        alone = wide.generate(
            user(picture(64, 48), "What is this?"), max_tokens=12, **STEP, **special
        )
        assert (ended[2 * n].tokens, ended[2 * n].logprobs) == (alone.tokens, alone.logprobs)
        same(ended[2 * n + 1], wide.generate(f"{LONG} {n}?", seed=n, **plain))
    row = ended[0].trace.token_attention(3, 1)
    assert row.shape == (ended[0].stats.prompt_tokens + 3,)
    assert row.sum() == pytest.approx(1, abs=1e-5)
    assert max(rows for rows, _ in calls) > 1


def refuse(done, total):
    if done:
        raise ZeroDivisionError("in the middle of the prompt")


WRONG = [
    ({"images": [b"no picture"]}, px.ImageError),
    ({"max_tokens": 0}, ValueError),
    ({"no_such_option": 1}, TypeError),
    ({"logit_bias": {10**6: 1.0}}, ValueError),
    ({"progress": refuse}, ZeroDivisionError),
]


@pytest.mark.parametrize(("wrong", "kind"), WRONG, ids=lambda value: str(value)[:20])
def test_a_request_that_fails_touches_no_other(wide, wrong, kind):
    watched = Watched(wide)
    requests = ["Why?", LONG, "How?"]
    for number, text in enumerate(requests):
        watched.add(text, **({"max_tokens": 12, **STEP} | (wrong if number == 1 else {})))
    ended = watched.finish()
    assert isinstance(ended[1], kind)
    for number in (0, 2):
        same(ended[number], wide.generate(requests[number], max_tokens=12, **STEP))


@pytest.mark.parametrize("place", [0, 1])
def test_nan_in_one_answer_ends_that_one(wide, monkeypatch, place):
    begin = Sampler.__init__

    def breaks(tokens, logits):
        return logits * (float("nan") if tokens.size > 60 else 1)

    def marked(self, options, *arguments, **named):
        begin(self, options, *arguments, **named)
        if options.seed == 13:
            self.processors.append(breaks)
            self._looks_back = 1000

    monkeypatch.setattr(Sampler, "__init__", marked)
    watched = Watched(wide)
    for number in range(3):
        watched.add("Why? " * 5, max_tokens=60, seed=13 if number == place else 1, **STEP)
    ended = watched.finish()
    assert isinstance(ended.pop(place), px.CheckpointError)
    assert 0 < len(watched.pieces[place]) < 60
    alone = wide.generate("Why? " * 5, max_tokens=60, **STEP)
    for reply in ended.values():
        same(reply, alone)


def test_a_computation_that_fails_ends_all_that_were_in_it(wide, monkeypatch, endless):
    watched = Watched(wide)
    for text in ("Why?", "How?"):
        watched.add(text, max_tokens=50, **endless)
    watched.add("Traced?", max_tokens=20, trace=True, **STEP)
    watched.until(lambda: all(watched.pieces.values()))
    hidden = Decoder.hidden

    def fail(self, inputs, *arguments, **options):
        if inputs.shape[0] > 1:
            raise RuntimeError("out of memory")
        return hidden(self, inputs, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "hidden", fail)
        watched.step()
        watched.until(lambda: 0 in watched.ended, most=3)
    assert {type(watched.ended[n]) for n in (0, 1)} == {RuntimeError}
    watched.add("Again?", max_tokens=5, **STEP)
    ended = watched.finish()
    same(ended[2], wide.generate("Traced?", max_tokens=20, **STEP))
    same(ended[3], wide.generate("Again?", max_tokens=5, **STEP))


def test_stop_strings(wide):
    words = wide.generate("Why?", max_tokens=12, reuse=False).text
    watched = Watched(wide)
    for stop in (words[3:6], words[-2:] + " and more", words[1:3]):
        watched.add("Why?", max_tokens=12, stop=stop, **STEP)
    ended = watched.finish()
    assert [ended[n].text for n in range(3)] == [words[:3], words, words[:1]]
    assert [ended[n].finish_reason for n in range(3)] == ["stop", "length", "stop"]


FORM = {"type": "object", "properties": {"seats": {"type": "integer"}}, "required": ["seats"]}


class Seats(pydantic.BaseModel):
    seats: int

    @pydantic.field_validator("seats")
    @classmethod
    def refuse(cls, value):
        raise TypeError("a mistake of the caller's")


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("what", ["allowed", "accept", "validator"])
def test_a_form_that_breaks_ends_its_own_answer(wide, monkeypatch, what, place):
    """Also in the middle of a step in which all rows are computed."""
    form = Seats if what == "validator" else FORM
    requests = [{"messages": f"Question {n}?", "max_tokens": 40, **STEP} for n in range(3)]
    for number in (place, 2):
        requests[number]["response_format"] = FORM
    alone = [wide.generate(**request) for request in requests]
    requests[place]["response_format"] = form
    watched = Watched(wide)
    for request in requests:
        watched.add(**request)
    watched.until(lambda: len(watched.batch._rows) == 3)
    if what != "validator":
        broken = watched.batch._rows[place].form._form.constraint

        def fail(*_):
            raise ValueError("the matcher has given up")

        monkeypatch.setattr(broken, what, fail)
    ended = watched.finish()
    error = ended.pop(place)
    assert isinstance(error, TypeError if what == "validator" else ValueError)
    assert len(ended) == 2
    for number, reply in ended.items():
        same(reply, alone[number])
    assert json.loads(ended[2].text) == ended[2].parsed


def test_an_answer_that_cannot_join_touches_no_other(wide, monkeypatch, endless):
    watched = Watched(wide)
    for text in ("Why?", "How?"):
        watched.add(text, max_tokens=30, **endless)
    watched.until(lambda: all(watched.pieces.values()))
    watched.add(LONG, max_tokens=5, **STEP)
    (request,) = watched.batch._turns

    def fail():
        raise RuntimeError("out of memory")

    monkeypatch.setattr(request, "leave", fail)
    ended = watched.finish()
    assert isinstance(ended[2], RuntimeError)
    for number, text in enumerate(("Why?", "How?")):
        same(ended[number], wide.generate(text, max_tokens=30, **endless))


def test_a_cancelled_reader_gives_its_place_and_its_memory_back(wide, endless):
    watched = Watched(wide, batch_size=1)
    gone = watched.add(wide.encode(user(picture(64, 64), LONG)), max_tokens=9, **endless)
    for _ in range(8):
        watched.step()
    (request,) = watched.batch._turns
    held = weakref.ref(request.stream.run.cache[0])
    watched.add(wide.encode("Why?"), max_tokens=2, **STEP)
    del request
    watched.batch.cancel(gone)
    gc.collect()
    assert held() is None
    for _ in range(2):  # the prompt, the first token
        watched.step()
    assert watched.pieces[1]
    watched.batch.close()


def test_what_is_cancelled_before_it_begins_computes_nothing(wide, calls, endless, monkeypatch):
    watched = Watched(wide, batch_size=1)
    watched.add("Why?", max_tokens=10, **endless)
    watched.until(lambda: watched.pieces[0])
    opened = []
    monkeypatch.setattr("pixtral_mlx.engine.request.Request.open", lambda *_: opened.append(0))
    gone = [watched.add(user(picture(64, 64), LONG), max_tokens=9, **STEP) for _ in range(3)]
    calls.clear()
    for number in gone:
        assert watched.batch.cancel(number).finish_reason == "interrupted"
    watched.finish()
    assert not opened and set(calls) == {(1, 1)}


@pytest.mark.parametrize("options", [{}, {"trace": True}])
@pytest.mark.parametrize("count", [1, 2])
def test_what_has_ended_is_gone_before_python_looks_for_cycles(wide, options, count):
    """Pictures and traces are large, and when it looks is up to it."""

    def streams():
        return sum(isinstance(one, GenerationStream) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before, batch = streams(), Batch(wide.engine)
        for _ in range(count):
            batch.add({"messages": user(picture(64, 64), "Why?"), "max_tokens": 3, **options})
        while batch.busy:
            batch.step()
        assert streams() == before
    finally:
        gc.enable()


def test_a_thousand_that_are_cancelled_leave_nothing(wide, endless):
    prompts = [wide.encode(user(picture(64, 64), LONG)), wide.encode("Why?")]
    kinds = (Request, GenerationStream, Run, px.Reply)

    def left():
        gc.collect()
        mx.clear_cache()
        found = [sum(isinstance(one, kind) for one in gc.get_objects()) for kind in kinds]
        return found, mx.get_active_memory()

    def come_and_go(count):
        for n in range(count):
            number = batch.add({"messages": prompts[n % 2], "max_tokens": 9, **endless})
            for _ in range((0, 1, 0, 2, 0, 5)[n % 6]):
                batch.step()
            assert batch.cancel(number).finish_reason == "interrupted"

    batch = Batch(wide.engine)
    come_and_go(20)
    before, bytes_before = left()
    come_and_go(1000)
    after, bytes_after = left()
    assert after == before and bytes_after <= bytes_before
    assert not batch.busy
