"""One model, many threads, one at a time: whoever loaded it, whoever asks, whoever is last."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import pixtral_mlx as px
from pixtral_mlx.mini import scene
from pixtral_mlx.random_model import random_model

QUESTION, IMAGES = "Describe the picture.", [scene(3).image]
OPTIONS = {"images": IMAGES, "max_tokens": 12}


@pytest.fixture(scope="module")
def right():
    return px.load("mini", dtype="float32").generate(QUESTION, **OPTIONS)


def elsewhere(function):
    """Its result, on a thread that ends with it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


ASKED = {
    "generate": lambda model: model.generate(QUESTION, **OPTIONS).tokens,
    "stream": lambda model: [piece.token for piece in model.stream(QUESTION, **OPTIONS)],
    "batch": lambda model: (
        model.generate_batch([QUESTION] * 2, images=[IMAGES] * 2, max_tokens=12)[1].tokens
    ),
    "trace": lambda model: model.generate(QUESTION, trace=True, **OPTIONS).tokens,
    "lookup": lambda model: model.generate(QUESTION, prompt_lookup_num_tokens=3, **OPTIONS).tokens,
}


@pytest.mark.parametrize("name", ASKED)
def test_a_model_answers_on_a_thread_that_did_not_load_it(right, name):
    """No weight has been read by then; afterwards the loading thread asks, and a third one."""
    model = px.load("mini", dtype="float32")
    assert elsewhere(lambda: ASKED[name](model)) == right.tokens
    assert ASKED[name](model) == right.tokens
    assert elsewhere(lambda: ASKED[name](model)) == right.tokens


@pytest.mark.parametrize("kind", ["in 16 bits", "loaded on a thread that has ended", "copied"])
def test_however_it_came_to_be(right, kind):
    if kind == "in 16 bits":  # every weight is still to be converted
        model = px.load("mini", dtype="bfloat16")
    elif kind == "copied":
        model = px.quantized_copy(px.load("mini"))
    else:
        model = elsewhere(lambda: px.load("mini", dtype="float32"))
    assert elsewhere(lambda: model.generate(QUESTION, **OPTIONS).text).startswith("A wide picture")


def test_weights_that_nobody_has_computed_yet(mini):
    """Of a model that was built and not loaded, and of one that was changed, handed to a worker."""
    built = px.Pixtral(mini.config)
    assert elsewhere(lambda: built.logits(px.Prompt([1, 2])).shape)[0] == 2
    changed = px.load("mini")
    changed.set_dtype(mx.float16)
    with px.Worker(changed) as worker:
        assert worker.stream(QUESTION, **OPTIONS).__next__().text


def test_random_weights_come_into_being_on_any_thread():
    config = px.load("mini").config
    model = random_model(replace(config, text=replace(config.text, vocab_size=131_072)))
    prompt = px.Prompt([1, 2, 3])
    assert elsewhere(lambda: model.logits(prompt).shape) == (3, 131_072)


def test_only_the_vision_weights_may_be_unread(right):
    model = px.load("mini", dtype="float32")
    model.generate("Hello", max_tokens=2)
    assert elsewhere(lambda: model.generate(QUESTION, **OPTIONS).tokens) == right.tokens


def test_what_one_thread_left_another_goes_on_from(right):
    model = px.load("mini", dtype="float32")
    elsewhere(lambda: model.generate(QUESTION, **OPTIONS))
    again = elsewhere(lambda: model.generate(QUESTION, **OPTIONS))
    assert again.stats.cached_tokens == again.stats.prompt_tokens - 1
    assert again.tokens == right.tokens
    longer = f"{QUESTION} Again!"  # the same image behind other words
    first = elsewhere(lambda: model.generate(longer, reuse=False, **OPTIONS))
    assert elsewhere(lambda: model.generate(longer, **OPTIONS)).tokens == first.tokens


def test_a_trace_is_read_on_any_thread(right):
    model = px.load("mini", dtype="float32")
    trace = elsewhere(lambda: model.generate(QUESTION, trace=True, **OPTIONS)).trace
    maps = [ask(lambda: trace.image_attention(1)) for ask in (elsewhere, lambda f: f())]
    np.testing.assert_array_equal(*maps)
    assert elsewhere(lambda: trace.position_lens(3, 0)) == trace.position_lens(3, 0)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 1.0, "seed": 4}, {"trace": True}, {"repetition_penalty": 1.3},
     {"prompt_lookup_num_tokens": 3}, {"prefill_step_size": 4}],
    ids=str,
)  # fmt: skip
def test_each_piece_may_be_asked_for_on_another_thread(recwarn, options):
    """As servers do that hand a generator to a pool of threads."""
    model = px.load("mini", dtype="float32")
    expected = model.generate(QUESTION, reuse=False, **OPTIONS, **options)
    stream = model.stream(QUESTION, reuse=False, **OPTIONS, **options)
    ends = iter(lambda: elsewhere(lambda: next(stream, None)), None)
    assert [piece.token for piece in ends] == expected.tokens
    assert stream.reply.finish_reason == expected.finish_reason


def test_threads_that_end_take_nothing_along(right):
    """What MLX keeps of a thread goes when it ends; the others go on."""
    model = px.load("mini", dtype="float32")
    kept = model.stream(QUESTION, reuse=False, **OPTIONS)
    first = next(kept)
    for _ in range(3):
        elsewhere(lambda: mx.eval(model.logits(px.Prompt([1, 2]))))
    assert [first.token, *(piece.token for piece in kept)] == right.tokens
    assert threading.active_count() < 20


END = """
import asyncio, sys, threading
import pixtral_mlx as px
from pixtral_mlx.mini import scene
model = px.load("mini")
def ask(number):
    options = {"temperature": 1.0} if number % 2 else {}
    return model.generate("What is it?", images=[scene(number).image], max_tokens=3, **options).text
last = sys.argv[1]
if last == "asyncio":
    async def main():
        for number in range(3):
            print(await asyncio.to_thread(ask, number))
    asyncio.run(main())
elif last == "direct":
    thread = threading.Thread(target=lambda: print(float(model.logits(px.Prompt([1])).sum())))
    thread.start(); thread.join()
else:
    done = threading.Event()
    def wait():
        print(ask(1)); done.set(); threading.Event().wait()
    threading.Thread(target=wait, daemon=True).start()
    done.wait(60)
    print(ask(0))
"""


@pytest.mark.parametrize("last", ["asyncio", "direct", "daemon"])
def test_python_ends_cleanly(last):
    """Whatever thread worked last, each of several times: what went wrong did so now and then."""
    home = str(Path(px.__file__).parents[1])
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", END, last],
            capture_output=True, text=True, timeout=120, cwd=home, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.strip()
