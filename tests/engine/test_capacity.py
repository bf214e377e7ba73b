"""Refusals before anything is read: what they count, and that what they advise does fit."""

import re
from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import make_official
from mlx.utils import tree_flatten
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.checkpoint.identity import arrays_of
from pixtral_mlx.cost import chips
from pixtral_mlx.cost.cost import activation_bytes
from pixtral_mlx.engine import capacity
from pixtral_mlx.engine.batch import Batch
from pixtral_mlx.engine.capacity import Need, kv_bytes_per_token, weights_bytes
from pixtral_mlx.interpret.recorder import TraceOptions
from pixtral_mlx.model.config import PIXTRAL_12B
from pixtral_mlx.model.kv_cache import KVFormat

WORDS = "Which of them is the largest?"


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Eight layers, so that keys and values count, and a context that can be filled."""
    text = {"head_dim": 64, "n_layers": 8, "max_seq_len": 4000}
    return px.load(make_official(tmp_path_factory.mktemp("room") / "m", text=text), dtype="float32")


@pytest.fixture(scope="module")
def pictures():
    return [Image.fromarray(np.full((96, 128, 3), 20 * n, np.uint8)) for n in range(4)]


@pytest.fixture
def refuse(deep, monkeypatch):
    """The message of a refusal where weights and so much more are usable; None if it fits."""

    def ask(room, messages=WORDS, **options):
        usable = weights_bytes(deep) + room
        monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: usable)
        try:
            deep.stream(messages, **options)
        except px.CapacityError as error:
            return str(error)
        return None

    return ask


def bytes_of(model, prompt, max_tokens, **options):
    tokens = len(prompt.tokens) + max_tokens
    grids = [(1, span.stop - span.start) for span in prompt.spans]
    kv = KVFormat(options.get("kv_bits"))
    return tokens * kv_bytes_per_token(model.config.text, 4, kv) + activation_bytes(
        model.config, tokens, grids, itemsize=4
    )


@pytest.mark.parametrize("options", [{}, {"kv_bits": 8}, {"kv_bits": 4}])
def test_the_line_is_drawn_at_the_byte(deep, pictures, refuse, options):
    prompt = deep.encode(WORDS, pictures)
    needed = bytes_of(deep, prompt, 30, **options)
    assert refuse(needed, prompt, max_tokens=30, **options) is None
    assert refuse(needed - 1, prompt, max_tokens=30, **options)
    assert refuse(needed - 1, prompt, max_tokens=30, force=True, **options) is None


def test_a_late_start_needs_the_plain_cache_until_then(deep, refuse):
    prompt = deep.encode(WORDS)
    plain = bytes_of(deep, prompt, 1000)
    late = {"max_tokens": 1000, "kv_bits": 4}
    assert refuse(plain // 2, prompt, **late) is None
    assert refuse(plain // 2, prompt, quantized_kv_start=900, **late)
    assert refuse(plain, prompt, quantized_kv_start=900, **late) is None


@pytest.mark.parametrize("share", [0.55, 0.7, 0.8, 0.9])
def test_whatever_is_advised_fits(deep, pictures, refuse, share):
    prompt = deep.encode(WORDS, pictures)
    room = int(share * bytes_of(deep, prompt, 20))
    said = refuse(room, WORDS, images=pictures, max_tokens=20)
    assert "are available: " in said and said.endswith("would fit (--force tries anyway)")
    ways = re.findall(r"--([a-z-]+) (\d+)", said)
    assert [name for name, _ in ways if name != "max-tokens"] == ["image-budget", "kv-bits"]
    for name, value in ways:
        options = {"max_tokens": 20} | {name.replace("-", "_"): int(value)}
        assert refuse(room, WORDS, images=pictures, **options) is None, name
    # One token more for each image and it fits no longer; the estimate takes a row of patches.
    budget = int(dict(ways)["image-budget"])
    sizes = [min(span.stop - span.start, budget + 1) for span in prompt.spans]
    words = len(prompt.tokens) - sum(span.stop - span.start for span in prompt.spans)
    need = Need(deep.config, 0, words + 20, tuple(sizes), itemsize=4)
    assert not need.fits(room)
    images = int(re.search(r"the first (\d) of 4 pictures", said)[1])
    assert refuse(room, WORDS, images=pictures[:images], max_tokens=20) is None
    assert refuse(room, WORDS, images=pictures[: images + 1], max_tokens=20)


def test_an_answer_that_is_too_long(deep, refuse):
    prompt = deep.encode(WORDS)
    room = bytes_of(deep, prompt, 50)
    said = refuse(room, prompt, max_tokens=1000)
    assert ": --max-tokens 50 would fit" in said
    assert refuse(room, prompt, max_tokens=50) is None
    assert refuse(room, prompt, max_tokens=51)


def test_a_text_that_is_too_long(deep, refuse):
    prompt = px.Prompt([1] * 500)
    room = bytes_of(deep, px.Prompt([1] * 100), 20)
    said = refuse(room, prompt, max_tokens=1)
    assert (
        "120 tokens of text and answer or" in said or "120 tokens of text and answer would" in said
    )
    assert refuse(room, px.Prompt([1] * 100), max_tokens=20) is None


def test_weights_that_are_too_large(deep, refuse, monkeypatch):
    prompt = deep.encode(WORDS)
    room = bytes_of(deep, prompt, 1)
    said = refuse(room - weights_bytes(deep) * 3 // 4, prompt, max_tokens=1)
    assert re.search(r": 6 bits would fit: .* --bits 6`", said)
    assert "no width would fit: it takes a machine" in refuse(-weights_bytes(deep), prompt)


@pytest.mark.parametrize(
    "keep",
    [
        TraceOptions(),
        TraceOptions(vision_layers=(), text_layers=(1, 5)),
        TraceOptions((0, 2), (), ("vision.1", "vision.0.keys", "projector", "vision.embeddings")),
        TraceOptions((), (7,), ("text.3", "text.2.heads", "text.0.queries", "text.embeddings")),
    ],
    ids=["all", "text", "vision", "states"],
)
def test_a_trace_holds_what_is_counted(deep, pictures, keep):
    prompt = deep.encode(WORDS, pictures[:2])
    eos = {deep.tokenizer.eos_id: -1e9}
    reply = deep.generate(prompt, max_tokens=7, trace=keep, logit_bias=eos)
    assert len(reply.tokens) == 7
    patches = sum(grid.patches for grid in prompt.grids)
    assert reply.trace.nbytes == 4 * keep.numbers(deep.config, len(prompt.tokens) + 6, 7, patches)


def test_the_trace_of_the_12b():
    config = PIXTRAL_12B
    assert 2 * TraceOptions(None, ()).numbers(config, 4160, 0, 4096) == 402_653_184
    assert 2 * TraceOptions().numbers(config, 4160, 99, 0) == 99 * 737_280
    need = Need(config, 0, 1200, (4160,), answer_tokens=200, trace=TraceOptions())
    assert need.total - replace(need, trace=None).total == 2 * 4160 * 49_152 + 200 * 737_280
    assert str(need).endswith("+ trace 0.56 GB")


def test_a_trace_that_does_not_fit(deep, pictures, refuse):
    prompt = deep.encode(WORDS, pictures)
    plain = bytes_of(deep, prompt, 30)
    patches = sum(span.stop - span.start for span in prompt.spans)  # as estimated
    whole = 4 * TraceOptions().numbers(deep.config, 0, 30, patches)
    text = 4 * TraceOptions(()).numbers(deep.config, 0, 30, patches)
    assert refuse(plain + whole, prompt, max_tokens=30, trace=True) is None
    assert refuse(plain + whole - 1, prompt, max_tokens=30) is None
    said = refuse(plain + whole - 1, prompt, max_tokens=30, trace=True)
    assert "+ trace" in said and "or a trace without the encoder (px.TraceOptions" in said
    most = int(re.search(r"--max-tokens (\d+)", said)[1])
    assert refuse(plain + whole - 1, prompt, max_tokens=most, trace=True) is None
    assert refuse(plain + whole - 1, prompt, max_tokens=most + 1, trace=True)
    keep = TraceOptions(vision_layers=())
    assert refuse(plain + text, prompt, max_tokens=30, trace=keep) is None
    said = refuse(plain + text - 1, prompt, max_tokens=30, trace=keep)
    assert "or trace=False would fit" in said


def test_a_prompt_beyond_the_context(deep, pictures):
    long = "x " * 1900
    used = len(deep.encode(long).tokens)
    assert 3600 < used < 4000
    with pytest.raises(px.CapacityError, match="the context holds 1 to 4,000: the first") as caught:
        deep.encode(long, pictures * 3)
    count = int(re.search(r"the first (\d+) of 12 pictures", str(caught.value))[1])
    budget = int(re.search(r"--image-budget (\d+)", str(caught.value))[1])
    every = pictures * 3
    assert len(deep.encode(long, every[:count]).tokens) <= 4000
    assert len(deep.encode(long, every, image_budget=budget).tokens) <= 4000
    with pytest.raises(px.CapacityError):
        deep.encode(long, every[: count + 1])
    with pytest.raises(px.CapacityError, match="send less text"):
        deep.encode("x " * 2100)


def test_a_mac_that_keeps_room_from_its_gpu(deep, refuse, monkeypatch):
    """By what MLX reports on a Mac; nothing was run on one."""
    assert chips.wired_limit_bytes(16 * 2**30) == 10 * 2**30
    assert chips.wired_limit_bytes(64 * 2**30) == 56 * 2**30
    assert chips.wired_limit_bytes(0) == 0
    prompt = deep.encode(WORDS)
    assert "sysctl" not in refuse(0, prompt, max_tokens=50)
    monkeypatch.setattr(mx, "device_info", lambda: {"memory_size": 16 * 2**30})
    assert "(sudo sysctl iogpu.wired_limit_mb=10240, not measured) would fit" in refuse(
        0, prompt, max_tokens=50
    )


def test_the_type_that_suits_a_chip(monkeypatch, folder):
    assert {chip.dtype for name, chip in chips.CHIPS.items() if name[:2] in ("M1", "M2")} == {
        "float16"
    }
    assert {chip.dtype for name, chip in chips.CHIPS.items() if name > "M3"} == {"bfloat16"}
    for name, dtype in (
        ("Apple M2 Pro", mx.float16),
        ("Apple M4", mx.bfloat16),
        ("AMD", mx.float32),
    ):
        monkeypatch.setattr(mx, "device_info", lambda name=name: {"device_name": name})
        assert px.load(folder, dtype="auto").decoder.norm.weight.dtype == dtype


def test_the_12b_on_a_mac_with_16_gigabytes():
    """One image fits at 4 bits; twenty pages do not, and 4 bits of keys and values alone do not
    make them fit."""
    usable = int(chips.expected_usable_bytes(16))
    need = Need(PIXTRAL_12B, 7_714_819_832, 1200, (4160,))
    assert need.fits(usable)
    pages = Need(PIXTRAL_12B, 7_714_819_832, 1200, (3328,) * 20)
    assert not pages.fits(usable)
    ways = capacity._less_context(pages, 200, usable)
    assert [way.split()[0] for way in ways] == ["the", "--image-budget"] or ways[
        -1
    ] == "--kv-bits 4"


# An answer without a limit ----------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"kv_bits": 8}, {"trace": True}])
def test_without_a_limit_an_answer_takes_what_there_is(deep, pictures, monkeypatch, options):
    """It never is refused for a limit that nobody asked for, and the next token would not fit."""
    prompt = deep.encode(WORDS, pictures)
    rest = 4000 - len(prompt.tokens) + 1
    needed = [
        capacity.need_of(
            deep, prompt, n, KVFormat(options.get("kv_bits")).of(deep.config.text),
            trace=TraceOptions() if options.get("trace") else None,
        ).total for n in range(rest + 2)
    ]  # fmt: skip
    for usable, limit in (
        (needed[700], 700), (needed[701] - 1, 700), (needed[1], 1), (10**12, rest),
    ):  # fmt: skip
        monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda n=usable: n)
        assert deep.stream(prompt, max_tokens=None, **options).limit == limit
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: needed[1] - 1)
    with pytest.raises(px.CapacityError):
        deep.stream(prompt, max_tokens=None, **options)
    assert deep.stream(prompt, max_tokens=None, force=True, **options).limit == rest


def test_answers_without_a_limit_share_the_memory(deep, pictures, monkeypatch):
    """As many as there are places are written at once, whatever their prompts."""
    per_token = kv_bytes_per_token(deep.config.text, 4)
    usable = weights_bytes(deep) + capacity.RESERVE_BYTES + 3 * 2000 * per_token
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: usable)
    batch = Batch(deep.engine, batch_size=3)
    asked = [(WORDS, []), (WORDS * 9, pictures), ("Why?", pictures[:1])]
    begun = set()
    for words, images in asked:
        batch.add({"messages": words, "images": images, "max_tokens": None,
                   "logit_bias": {deep.tokenizer.eos_id: -1e9}})  # fmt: skip
    for _ in range(200):
        begun |= {number for number, event in batch.step() if isinstance(event, px.Piece)}
    assert begun == {0, 1, 2} and batch.busy
    lengths = [len(request.stream.prompt.tokens) + request.stream.limit
               for request in batch._rows.values()]  # fmt: skip
    assert lengths == [2000] * 3
    batch.close()


def test_what_would_be_too_short_a_share_is_more(deep, monkeypatch):
    per_token = kv_bytes_per_token(deep.config.text, 4)
    prompt = deep.encode(WORDS * 60)
    length = len(prompt.tokens)
    usable = weights_bytes(deep) + capacity.RESERVE_BYTES + 3000 * per_token
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: usable)
    most = partial(capacity.most_answer_tokens, deep, prompt, 4000 - length)
    assert 1500 - length < capacity.WORTHWHILE_TOKENS < 3000 - length
    assert most(shares=8) == most(shares=1) == 4000 - length
    short = deep.encode("Why?")
    assert capacity.most_answer_tokens(deep, short, 3900, shares=8) == 1500 - len(short.tokens)


def test_every_parameter_counts_once(loaded):
    """Asked before every answer, so that it does not name them, as `parameters()` does."""
    named = [array for _, array in tree_flatten(loaded.parameters())]
    assert {*map(id, arrays_of(loaded))} == {*map(id, named)}
    assert len(arrays_of(loaded)) == len(named) > 50
    assert weights_bytes(loaded) == sum(array.nbytes for array in named)
