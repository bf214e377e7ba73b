"""Keys and values in 8 and 4 bits: what they cost, what they change, and that nothing else does."""

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import make_official
from mlx.utils import tree_flatten
from questions import noise

import pixtral_mlx as px
from pixtral_mlx import cli
from pixtral_mlx.cost.cost import decode_bytes
from pixtral_mlx.engine.capacity import kv_bytes_per_token, room_bytes
from pixtral_mlx.interpret import edits
from pixtral_mlx.model.config import PIXTRAL_12B
from pixtral_mlx.model.kv_cache import KVFormat, growing_to
from pixtral_mlx.model.tap import Tap

NEW = 5
WIDE = {"head_dim": 64, "n_layers": 2}


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory):
    return make_official(tmp_path_factory.mktemp("kv") / "model", text=WIDE)


@pytest.fixture(scope="module")
def loaded_wide(wide_folder):
    return px.load(wide_folder, dtype="float32")


@pytest.fixture
def wide(loaded_wide):
    loaded_wide.clear_cache()
    return loaded_wide


@pytest.fixture(scope="module")
def prompts(loaded_wide):
    return [
        loaded_wide.encode(text, [noise()]) for text in ("What is this?", "How many are there?")
    ]


class Rounded:
    """A cache that rounds whatever it is given and keeps plain numbers."""

    def __init__(self, bits, group_size):
        self.how, self.offset, self.keys, self.values = (group_size, bits), 0, None, None

    def update_and_fetch(self, keys, values):
        keys, values = (
            mx.dequantize(*mx.quantize(a, *self.how), *self.how) for a in (keys, values)
        )
        if self.keys is not None:
            keys = mx.concatenate([self.keys, keys], axis=2)
            values = mx.concatenate([self.values, values], axis=2)
        self.keys, self.values, self.offset = keys, values, keys.shape[2]
        return keys, values


def naive(model, prompt, tokens, bits, group_size=64, queries=None):
    """Log-probabilities of `tokens` and the caches, one position after the other; `queries` gets
    those of the last layer."""

    def record(site, value, position):
        if queries is not None and site == ("text", 1, "queries"):
            queries.append(np.array(value[0, :, 0]))

    caches = [Rounded(bits, group_size) for _ in model.decoder.layers]
    longer = px.Prompt(prompt.tokens + tokens[:-1], prompt.images, prompt.grids, prompt.spans)
    embeddings, found = model.embed(longer), []
    for n in range(len(longer.tokens)):
        one = mx.zeros((1, 1), mx.int32), caches, embeddings[None, n : n + 1]
        logits = model.decoder(*one, tap=Tap(longer, (), record))[0, 0]
        if n >= len(prompt.tokens) - 1:
            token = tokens[n - len(prompt.tokens) + 1]
            found.append((logits[token] - mx.logsumexp(logits)).item())
    return found, caches


# What it changes -------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "group_size"), [(8, None), (8, 32), (4, None)])
@pytest.mark.parametrize("step", [3, 512])
def test_the_answer_is_that_of_rounded_keys_and_values(wide, prompts, bits, group_size, step):
    reply = wide.generate(
        prompts[0], max_tokens=NEW, kv_bits=bits, kv_group_size=group_size, prefill_step_size=step
    )
    expected, _ = naive(wide, prompts[0], reply.tokens, bits, group_size or 64)
    np.testing.assert_allclose(reply.logprobs, expected, atol=2e-5)


def test_eight_bits_are_near_and_four_are_further(wide, prompts):
    plain = wide.generate(prompts[0], max_tokens=NEW)
    spread = float(np.ptp(np.array(wide.logits(prompts[0])[-1])))
    errors = []
    for bits in (8, 4):
        found, _ = naive(wide, prompts[0], plain.tokens, bits)
        errors.append(np.abs(np.array(found) - plain.logprobs).max() / spread)
    assert 0 < errors[0] < 0.005 < errors[1] < 0.2
    stepped = wide.generate(prompts[0], max_tokens=1, kv_bits=8)
    assert stepped.logprobs[0] == pytest.approx(plain.logprobs[0], abs=0.01 * spread)
    assert stepped.logprobs != plain.logprobs[:1]


@pytest.mark.parametrize("bits", [8, 4])
def test_tokens_are_the_same_for_any_size_of_a_step(wide, prompts, bits):
    options = {"max_tokens": 8, "kv_bits": bits, "reuse": False}
    whole = wide.generate(prompts[0], prefill_step_size=10_000, **options)
    for step in (1, 7, 16):
        parts = wide.generate(prompts[0], prefill_step_size=step, **options)
        assert parts.tokens == whole.tokens
        np.testing.assert_allclose(parts.logprobs, whole.logprobs, atol=1e-4)
    assert "".join(piece.text for piece in wide.stream(prompts[0], **options)) == whole.text


def test_a_late_start(wide, prompts):
    options = {"max_tokens": NEW, "prefill_step_size": 4}
    plain = wide.generate(prompts[0], **options)
    never = wide.generate(prompts[0], kv_bits=4, quantized_kv_start=10_000, **options)
    assert (never.tokens, never.logprobs) == (plain.tokens, plain.logprobs)
    late = wide.generate(prompts[0], kv_bits=4, quantized_kv_start=8, trace=True, **options)
    early = wide.generate(prompts[0], kv_bits=4, **options)
    assert late.logprobs[0] not in (plain.logprobs[0], early.logprobs[0])
    assert late.trace.token_attention(2, 1).sum() == pytest.approx(1)
    # The first step is read as it is, and rounded afterwards: nobody can say what is shared.
    again = wide.generate(prompts[0], kv_bits=4, quantized_kv_start=8, **options)
    assert again.stats.cached_tokens == late.stats.cached_tokens == 0
    assert again.logprobs == late.logprobs


# What it costs ---------------------------------------------------------------------------------


def test_bytes_of_a_token_of_the_12b():
    sizes = [kv_bytes_per_token(PIXTRAL_12B.text, 2, KVFormat(bits)) for bits in (None, 8, 4)]
    assert sizes == [163_840, 87_040, 46_080]
    read = [decode_bytes(7, PIXTRAL_12B.text, 10, kv=KVFormat(bits)) for bits in (None, 8, 4)]
    assert read == [7 + 10 * size for size in sizes]


@pytest.mark.parametrize("kv", [KVFormat(), KVFormat(8), KVFormat(4), KVFormat(4, 32)])
def test_the_cache_has_the_bytes_that_were_predicted(wide, prompts, kv):
    before = room_bytes(wide, 0)
    reply = wide.generate(
        prompts[0], max_tokens=1, kv_bits=kv.bits, kv_group_size=kv.group_size
    )  # fmt: skip
    (kept,) = wide.prompt_cache._conversations()
    length = len(kept.content.tokens)
    assert length >= reply.stats.prompt_tokens - 1
    arrays = [array for layer in kept.layers for held in (layer.keys, layer.values)
              for array in ([held] if isinstance(held, mx.array) else held)]  # fmt: skip
    per_token = kv_bytes_per_token(wide.config.text, 4, kv)
    assert sum(array.nbytes for array in arrays) == length * per_token
    assert before - room_bytes(wide, length, kv) == length * per_token


# Reuse -----------------------------------------------------------------------------------------


def test_what_was_kept_in_another_form_never_serves(wide, prompts):
    first, second = prompts
    forms = [{}, {"kv_bits": 8}, {"kv_bits": 4}, {"kv_bits": 8, "kv_group_size": 32}]
    shared = next(n for n, pair in enumerate(zip(*(p.tokens for p in prompts), strict=False))
                  if pair[0] != pair[1])  # fmt: skip
    for form in forms:
        assert wide.generate(first, max_tokens=NEW, **form).stats.cached_tokens == 0
    for form in forms:
        reply = wide.generate(second, max_tokens=NEW, **form)
        alone = wide.generate(second, max_tokens=NEW, reuse=False, **form)
        assert reply.stats.cached_tokens == shared >= second.spans[0].stop
        assert reply.tokens == alone.tokens
        np.testing.assert_allclose(reply.logprobs, alone.logprobs, atol=2e-5)
    # The group size that is taken by itself is the same form.
    again = wide.generate(second, max_tokens=1, kv_bits=8, kv_group_size=64)
    assert again.stats.cached_tokens == len(second.tokens) - 1


def test_a_turn_that_goes_on_leaves_what_was_kept_as_it_is(wide, prompts):
    wide.generate(prompts[0], max_tokens=NEW, kv_bits=8)
    (kept,) = wide.prompt_cache._conversations()
    before = [np.array(part) for layer in kept.layers for part in layer.keys]
    wide.generate(prompts[1], max_tokens=NEW, kv_bits=8)
    (rest,) = (each for each in wide.prompt_cache._conversations() if each.start)
    after = [np.array(part) for layer in rest.layers for part in layer.keys]
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old[..., rest.start : len(kept), :], new)


def test_a_folder_keeps_each_form(wide_folder, prompts, tmp_path, caplog):
    for form in ({}, {"kv_bits": 4}):
        model = px.load(wide_folder, dtype="float32")
        model.open_prompt_cache(tmp_path / "kept")
        model.generate(prompts[0], max_tokens=NEW, **form)
    sizes = sorted(path.stat().st_size for path in (tmp_path / "kept").iterdir())
    assert len(sizes) == 2 and sizes[0] < sizes[1] / 3
    for form, known in (({}, True), ({"kv_bits": 4}, True), ({"kv_bits": 8}, False)):
        other = px.load(wide_folder, dtype="float32")
        other.open_prompt_cache(tmp_path / "kept")
        reply = other.generate(prompts[1], max_tokens=NEW, **form)
        assert (reply.stats.cached_tokens >= prompts[1].spans[0].stop) == known
        alone = other.generate(prompts[1], max_tokens=NEW, reuse=False, **form)
        assert reply.tokens == alone.tokens
        np.testing.assert_allclose(reply.logprobs, alone.logprobs, atol=2e-5)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays: arrays.pop("1.keys.scales"), "the layers of this model"),
        (
            lambda arrays: arrays.update({"1.keys": arrays["0.keys"].view(mx.float32)}),
            "1.keys does",
        ),
        (lambda arrays: arrays.update({"1.keys.scales": arrays["1.keys"]}), "1.keys.scales does"),
        (lambda arrays: arrays.update({"0.values": arrays["0.values"] + 1}), "damaged"),
    ],
    ids=["no scales", "floats", "words as scales", "other data"],
)
def test_a_file_that_is_not_what_it_says_is_ignored(
    wide_folder, prompts, tmp_path, caplog, change, said
):
    model = px.load(wide_folder, dtype="float32")
    model.open_prompt_cache(tmp_path / "kept")
    model.generate(prompts[0], max_tokens=1, kv_bits=4)
    (path,) = (tmp_path / "kept").iterdir()
    arrays, metadata = mx.load(str(path), return_metadata=True)
    arrays = {name: mx.array(np.array(array)) for name, array in arrays.items()}
    change(arrays)
    mx.save_safetensors(str(path), arrays, metadata)
    other = px.load(wide_folder, dtype="float32")
    other.open_prompt_cache(tmp_path / "kept")
    reply = other.generate(prompts[1], max_tokens=1, kv_bits=4)
    assert reply.stats.cached_tokens == 0
    assert said in caplog.text


# Looking inside and edits ----------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
def test_attention_is_that_on_the_rounded_keys(wide, prompts, bits, tmp_path):
    prompt = prompts[0]
    reply = wide.generate(prompt, max_tokens=NEW, kv_bits=bits, trace=True)
    plain = wide.generate(prompt, max_tokens=NEW, kv_bits=bits)
    assert plain.logprobs == reply.logprobs or np.allclose(
        plain.logprobs, reply.logprobs, atol=2e-5
    )
    every: list[np.ndarray] = []
    _, caches = naive(wide, prompt, reply.tokens, bits, queries=every)
    for token in (0, 3):
        queries = mx.array(every[len(prompt.tokens) - 1 + token][:, None])
        keys = mx.repeat(caches[1].keys[0, :, : len(prompt.tokens) + token], 2, axis=0)
        rows = mx.softmax(queries @ keys.transpose(0, 2, 1) / 8, axis=-1)[:, 0]
        np.testing.assert_allclose(reply.trace.token_rows(token, 1), rows, atol=1e-5)
    # A position that is run once more against the rounded keys before it ends as it did.
    words = dict(reply.trace.position_lens(len(prompt.tokens) - 1, 1, top=512))
    again = dict(reply.trace.logit_lens(0, 1, top=512))
    assert max(abs(words[word] - again[word]) for word in again) < 1e-5
    reply.trace.save(tmp_path / "trace.safetensors")
    opened = px.open_trace(tmp_path / "trace.safetensors")
    np.testing.assert_array_equal(opened.token_rows(3, 1), reply.trace.token_rows(3, 1))


def test_edits_work_on_it_too(wide, prompts):
    some = [edits.KnockOutHeads("text", 0, [1])]
    reply = wide.generate(prompts[0], max_tokens=NEW, kv_bits=8, edits=some)
    alone = wide.generate(prompts[0], max_tokens=NEW, kv_bits=8, edits=some, reuse=False)
    assert reply.tokens == alone.tokens
    assert reply.logprobs != wide.generate(prompts[0], max_tokens=NEW, kv_bits=8).logprobs
    again = wide.generate(prompts[0], max_tokens=NEW, kv_bits=8, edits=some)
    assert again.stats.cached_tokens == len(prompts[0].tokens) - 1


# Mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kv_bits": 3}, "kv_bits must be 4, 8 or None, got 3"),
        ({"kv_bits": True}, "kv_bits must be 4, 8 or None, got True"),
        ({"kv_bits": 8, "kv_group_size": 48}, "kv_group_size must be 32, 64, 128 or None, got 48"),
        ({"kv_bits": 8, "kv_group_size": 128}, "kv_group_size is 128; heads of 64 allow 64, 32"),
        ({"kv_bits": 8, "quantized_kv_start": -1}, "quantized_kv_start must be 0 or more, got -1"),
        (
            {"kv_bits": 8, "quantized_kv_start": 1.5},
            "quantized_kv_start must be a whole number, got 1.5",
        ),
    ],
)
def test_forms_that_are_not_there(wide, prompts, options, said):
    with pytest.raises(ValueError, match=said):
        wide.stream(prompts[0], **options)


def test_heads_that_are_too_narrow(model):
    with pytest.raises(ValueError, match="heads of 16 are not a multiple of 32: leave it out"):
        model.stream("Hi", kv_bits=8)
    assert KVFormat(8).of(px.load("mini").config.text).group_size == 32


def test_the_command(wide_folder, capsys):
    ask = ["generate", "--model", str(wide_folder), "--prompt", "Hi", "--max-tokens", "3", "--json"]
    plain, eight, four = (
        cli.main([*ask, *more]) or capsys.readouterr().out
        for more in ((), ("--kv-bits", "8"), ("--kv-bits", "4", "--kv-group-size", "32"))
    )
    assert len({line.split('"logprobs"')[1].split("]")[0] for line in (plain, eight, four)}) == 3
    assert cli.main([*ask, "--kv-bits", "5"]) == 2
    assert "kv_bits must be 4, 8 or None, got 5" in capsys.readouterr().err


def test_a_batch_says_that_it_cannot(wide):
    with pytest.raises(ValueError, match="keep keys and values as computed: leave kv_bits out"):
        wide.generate_batch(["Hi"], kv_bits=8)


@pytest.mark.parametrize("options", [{}, {"kv_bits": 8}], ids=["float32", "8 bits"])
def test_a_hit_copies_nothing(wide, options):
    """The memory of the keys goes from one conversation to the next."""
    tokens, options = [1, 3, *range(300, 428)] * 4, {"max_tokens": 2, **options}

    def places():
        (whole,) = (kept for kept in wide.prompt_cache._conversations() if not kept.start)
        arrays = [part for layer in whole.layers for _, part in tree_flatten(layer.keys)]
        return [np.asarray(memoryview(array)).ctypes.data for array in arrays]

    reply = wide.generate(px.Prompt(tokens), **options)
    before = places()
    further = [*tokens, *reply.tokens, 5]
    for prompt, known in ((further, len(tokens) + 1), ([*tokens, 7], len(tokens))):
        reply = wide.generate(px.Prompt(prompt), **options)
        assert reply.stats.cached_tokens == known
        assert places() == before
    assert len(wide.prompt_cache) == 2


def test_a_cache_grows_once_for_a_prompt(wide):
    """In parts of 100 positions: room for all of them with the first, and no more than that."""
    cache = KVFormat().new_cache(wide.decoder)
    for part in range(11):
        with growing_to(cache, 1100):
            wide.decoder.hidden(mx.zeros((1, 100), mx.int32), cache)
        assert {layer.keys.shape[2] for layer in cache} == {1280}, part
    assert {layer.step for layer in cache} == {type(cache[0]).step}
    wide.decoder.hidden(mx.zeros((1, 300), mx.int32), cache)
    assert {layer.keys.shape[2] for layer in cache} == {1100 + 512}
