"""Prompt lookup: the plain answer in fewer passes, and a KV cache that holds nothing else."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import make_official
from questions import noise

import pixtral_mlx as px
from pixtral_mlx.engine import lookup
from pixtral_mlx.engine.engine import Engine
from pixtral_mlx.engine.lookup import LEAST_ACCEPTED, RECENT_DRAFTS, Drafter
from pixtral_mlx.model.decoder import Decoder

LOOKUP = {"prompt_lookup_num_tokens": 8}
TABLE = "".join(f"| cup {n} | {n % 3} | 1.{n % 4}0 |\n" for n in range(8))
RECORDS = json.dumps([{"item": f"cup {n}", "price": n % 5} for n in range(6)])


MEASURED = Engine.most_drafted


def same(model, prompt, **options):
    """The answer with lookup, after checking that it is the plain one."""
    plain = model.generate(prompt, **options, reuse=False)
    copied = model.generate(prompt, **options, **LOOKUP, reuse=False)
    assert (copied.tokens, copied.text) == (plain.tokens, plain.text)
    assert copied.finish_reason == plain.finish_reason
    np.testing.assert_allclose(copied.logprobs, plain.logprobs, atol=1e-4)
    assert copied.stats.generated_tokens == plain.stats.generated_tokens
    assert copied.stats.accepted_tokens <= copied.stats.drafted_tokens
    assert plain.stats.drafted_tokens == 0
    return copied


# A decoder that writes what it is told ----------------------------------------------------------


class Script:
    """Stands in for the decoder: it writes `answer` after `prompt`, and goes wrong as soon as its
    KV cache holds anything but the beginning of that. `passes` counts positions, pass by pass."""

    def __init__(self, prompt, answer):
        self.sequence, self.passes = [*prompt, *answer], []

    def __call__(self, decoder, inputs, cache=None, input_embeddings=None, tap=None):
        given = inputs.astype(mx.float32)[:, None, :, None]
        for layer in cache:
            held, _ = layer.update_and_fetch(given, given)
        seen = [int(token) for token in held[0, 0, :, 0].tolist()]
        self.passes.append(inputs.shape[1])
        rows = np.zeros((1, inputs.shape[1], decoder.config.vocab_size), np.float32)
        for row in range(inputs.shape[1]):
            length = len(seen) - inputs.shape[1] + row + 1
            right = seen[:length] == self.sequence[:length] and length < len(self.sequence)
            rows[0, row, self.sequence[length] if right else 0] = 30
        return mx.array(rows)


@pytest.fixture
def scripted(model, monkeypatch):
    """A function: the texts of a question and an answer -> prompt, tokens of the answer, script."""

    def write(question, answer, end=True):
        prompt = model.encode(question)
        tokens = model.tokenizer._words.encode(answer, bos=False, eos=end)
        script = Script(prompt.tokens, tokens)
        monkeypatch.setattr(Decoder, "hidden", lambda self, *a, **o: script(self, *a, **o))
        monkeypatch.setattr(Decoder, "unembed", lambda self, logits: logits)
        return prompt, tokens, script

    return write


@pytest.mark.parametrize("answer", [TABLE, RECORDS, "abc" * 30, "-" * 50, "no two alike"])
@pytest.mark.parametrize("longest", [1, 2, 8, 64])
def test_an_answer_is_written_to_the_letter(model, scripted, answer, longest):
    prompt, tokens, script = scripted("Go", answer)
    stream = model.stream(prompt, prompt_lookup_num_tokens=longest)
    pieces = list(stream)
    assert [piece.token for piece in pieces] == tokens[:-1]
    assert "".join(piece.text for piece in pieces) == stream.reply.text == answer
    assert stream.reply.finish_reason == "stop"
    stats, checks = stream.reply.stats, script.passes[1:]  # after the one that read the prompt
    assert stats.drafted_tokens == sum(checks) - len(checks)
    assert max(checks) <= longest + 1
    if answer != "no two alike":
        # Every pass writes what it accepts and one token more; the end token may be among these.
        assert 0 <= stats.accepted_tokens + len(checks) + 1 - len(tokens) <= 1
        assert len(checks) < 0.8 * len(tokens)


def test_the_cache_that_is_left_holds_the_answer_and_nothing_else(model, scripted):
    prompt, tokens, _ = scripted("Go", TABLE)
    for stop in range(1, 60):
        model.clear_cache()
        stream = model.stream(prompt, **LOOKUP)
        for _ in range(stop):
            next(stream)
        stream.interrupt()
        (kept,) = model.prompt_cache._conversations()
        held = kept.layers[0].keys[0, 0, : len(kept), 0].tolist()
        assert held == kept.content.tokens.tolist()
        # All but the last token at least are known, and it too if it was copied.
        assert len(held) - len(prompt.tokens) in (stop - 1, stop)
        assert held == (prompt.tokens + tokens)[: len(held)]
        assert stream.reply.finish_reason == "interrupted"


def test_an_interrupt_inside_a_check_keeps_no_draft(model, scripted, monkeypatch):
    prompt, tokens, script = scripted("Go", RECORDS)
    for number in range(4, 20):
        model.clear_cache()
        script.passes.clear()
        with monkeypatch.context() as patch:
            told = Script.__call__

            def call(self, *arguments, told=told, number=number, **options):
                logits = told(self, *arguments, **options)
                if len(self.passes) == number:
                    raise KeyboardInterrupt  # the draft is in the KV cache
                return logits

            patch.setattr(Script, "__call__", call)
            reply = model.generate(prompt, **LOOKUP)
        assert reply.finish_reason == "interrupted"
        (kept,) = model.prompt_cache._conversations()
        known = len(prompt.tokens) + len(reply.tokens) - 1
        held = kept.layers[0].keys[0, 0, : len(kept), 0].tolist()
        assert held == (prompt.tokens + tokens)[:known]


@pytest.mark.parametrize("limit", range(1, 40))
def test_no_token_and_no_position_beyond_the_limit(model, scripted, limit):
    prompt, tokens, script = scripted("Go", TABLE)
    reply = model.generate(prompt, max_tokens=limit, **LOOKUP)
    assert (reply.tokens, reply.finish_reason) == (tokens[:limit], "length")
    # The last token is never read: it needs no place.
    assert sum(script.passes) - reply.stats.drafted_tokens + reply.stats.accepted_tokens <= (
        len(prompt.tokens) + limit - 1
    )
    refused = reply.stats.drafted_tokens - reply.stats.accepted_tokens
    assert sum(script.passes) <= len(prompt.tokens) + limit - 1 + refused


def test_the_context_ends_an_answer(tmp_path, monkeypatch):
    short = px.load(make_official(tmp_path / "short", text={"max_seq_len": 40}), dtype="float32")
    prompt, places = short.encode("Hi"), []
    hidden = Decoder.hidden

    def spy(self, inputs, cache=None, input_embeddings=None, tap=None):
        states = hidden(self, inputs, cache, input_embeddings, tap)
        places.append(cache[0].offset)
        return states

    forced = {300: 50.0}
    plain = short.generate(prompt, max_tokens=1000, logit_bias=forced, reuse=False)
    monkeypatch.setattr(Decoder, "hidden", spy)
    copied = short.generate(prompt, max_tokens=1000, logit_bias=forced, **LOOKUP)
    assert copied.tokens == plain.tokens
    assert len(prompt.tokens) + len(copied.tokens) - 1 == max(places) == 40
    assert copied.stats.accepted_tokens > 10


def test_an_end_token_inside_a_draft(model, scripted):
    # The question holds the answer of an earlier turn, its end token included, and what follows.
    earlier = [{"role": "user", "content": "cups"}, {"role": "assistant", "content": TABLE[:60]}]
    again = [*earlier, {"role": "user", "content": "cups"}]
    prompt, tokens, script = scripted(again, TABLE[:60])
    reply = model.generate(prompt, **LOOKUP)
    assert (reply.tokens, reply.text) == (tokens[:-1], TABLE[:60])
    assert (reply.finish_reason, reply.stats.generated_tokens) == ("stop", len(tokens) - 1)
    eos = model.tokenizer.eos_id
    assert eos in Drafter([*prompt.tokens, *tokens[:-1]], 8).draft(8)  # it is what is copied
    assert max(script.passes[2:]) > 2


@pytest.mark.parametrize("stop", ["cup 7", "2 | 1", "|\n| cup 5 |", ".20 |\n", "zzz"])
def test_a_stop_string_inside_a_draft(model, scripted, stop):
    prompt, tokens, _ = scripted("Go", TABLE)
    stream = model.stream(prompt, stop=stop, **LOOKUP)
    pieces = "".join(piece.text for piece in stream)
    assert pieces == stream.reply.text == TABLE.split(stop)[0]
    assert stream.reply.tokens == tokens[: len(stream.reply.tokens)]
    assert model.generate(prompt, stop=stop, reuse=False).tokens == stream.reply.tokens


def test_drafting_ends_where_nothing_is_accepted(model, scripted):
    # The pair "xy" comes again and again, and never goes on as before.
    prompt, tokens, script = scripted("Go", "".join(f"xy{chr(33 + n)}" for n in range(80)))
    read = []
    progress = lambda done, total: read.append((done, total))  # noqa: E731
    reply = model.generate(prompt, max_tokens=1000, progress=progress, **LOOKUP)
    assert reply.tokens == tokens[:-1]
    # The prompt is read once: what goes on one at a time tells nobody about it again.
    assert read == [(done, len(prompt.tokens)) for done in (0, len(prompt.tokens))]
    drafts = sum(size > 1 for size in script.passes[1:])
    assert drafts == RECENT_DRAFTS
    assert reply.stats.accepted_tokens < LEAST_ACCEPTED
    last = max(n for n, size in enumerate(script.passes) if size > 1)
    assert len(script.passes) - last > 100  # one token at a time from there on


@pytest.mark.parametrize("answer", [TABLE, RECORDS, "".join(f"xy{chr(33 + n)}" for n in range(80))])
def test_the_benchmark_counts_what_a_decoder_would_do(model, scripted, answer):
    place = Path(__file__).parents[2] / "benchmarks" / "lookup.py"
    benchmark: dict = {"__name__": "benchmark", "__file__": str(place)}
    exec(compile(place.read_text(), place, "exec"), benchmark)
    prompt, tokens, script = scripted("Go", answer)
    stats = model.generate(prompt, max_tokens=len(tokens), **LOOKUP).stats
    drafted, accepted, passes = benchmark["simulate"](prompt.tokens, tokens, 8)
    assert stats.drafted_tokens == drafted
    # The end token is no part of the answer, and no token is read after it.
    assert accepted - stats.accepted_tokens in (0, 1)
    assert script.passes[1:][: len(passes)] == passes


@pytest.mark.parametrize(
    ("costs", "most"),
    [
        ({1: 1, 2: 1.05, 4: 1.28}, 4),  # M5 Max
        ({1: 1, 2: 1.03, 4: 1.47}, 4),  # M4 Pro
        ({1: 1, 2: 1.4, 4: 2.6}, 1),
        ({1: 1, 2: 1.71, 4: 3.1}, 0),  # no kernel for few rows
    ],
)
def test_what_a_pass_costs_decides_how_much_is_drafted(scripted, model, monkeypatch, costs, most):
    monkeypatch.setattr(Engine, "most_drafted", MEASURED)
    monkeypatch.setitem(vars(model), "_pass_costs", costs)
    prompt, tokens, script = scripted("Go", TABLE)
    reply = model.generate(prompt, prompt_lookup_num_tokens=20, reuse=False)
    assert reply.tokens == tokens[:-1]
    assert max(script.passes[1:]) == 1 + most


def test_passes_are_measured_once(model, monkeypatch):
    """Of this decoder, in the order of their sizes, and nothing is left of them."""
    monkeypatch.setattr(Engine, "most_drafted", MEASURED)
    vars(model).pop("_pass_costs", None)
    now, hidden, sizes = [0.0], Decoder.hidden, []

    def slow(self, inputs, *rest):
        now[0] += (100.0, 1.0, 1.2)[min(len(sizes) // 3, 2)] * inputs.shape[1]  # each a second
        sizes.append(inputs.shape[1])
        return hidden(self, inputs, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "hidden", slow)
        patch.setattr("time.perf_counter", lambda: now[0])
        assert lookup.pass_costs(model.decoder) == {1: 1.0, 2: 2.0, 4: 4.0}
        assert sizes == [1, 2, 4] * 3
        assert model.engine.most_drafted == model.engine.most_drafted == 0
        assert len(sizes) == 18
    assert same(model, model.encode("abab"), max_tokens=20).stats.drafted_tokens == 0
    vars(model).pop("_pass_costs")


# Real decoders ----------------------------------------------------------------------------------


def test_pixtral_mini_says_the_same(mini):
    from pixtral_mlx.mini import scene

    drafted = accepted = 0
    for seed in range(2):
        for question in scene(10_000 + seed).questions[-5:]:
            reply = same(mini, mini.encode(question.text, question.images), max_tokens=40)
            assert reply.tokens
            # On and on, which it was never taught: it repeats itself.
            prompt = mini.encode(f"{question.text} {question.text}", question.images)
            stats = same(mini, prompt, max_tokens=60, logit_bias={2: -1e9}).stats
            drafted, accepted = drafted + stats.drafted_tokens, accepted + stats.accepted_tokens
    assert drafted > accepted > 30


def test_random_models_say_the_same(tmp_path):
    """Long answers from few words, so that much is copied and much of that is refused."""
    drafted = accepted = 0
    for seed in range(3):
        model = px.load(make_official(tmp_path / f"{seed}", seed=seed), dtype="float32")
        few = {int(token): 6.0 for token in np.random.RandomState(seed).randint(20, 500, 5)}
        for images in ([], [noise(seed)], [noise(seed), noise(9, 33, 80)]):
            prompt = model.encode("What is this? This is what?", images)
            for bias in (few, {2: -1e9}):
                reply = same(model, prompt, max_tokens=80, logit_bias=bias)
                drafted += reply.stats.drafted_tokens
                accepted += reply.stats.accepted_tokens
    assert drafted - accepted > 100 < accepted


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}, {"temperature": 2.0, "top_k": 3},
        {"temperature": 0.9, "min_p": 0.2, "repetition_penalty": 1.1}, {"repetition_penalty": 1.05},
    ],
    ids=str,
)  # fmt: skip
def test_sampling_draws_what_it_would_one_at_a_time(model, options):
    bias = dict.fromkeys((117, 118, 119, 120), 9.0)
    prompt, accepted, refused = model.encode("abcd dcba abcd", [noise(1)]), 0, 0
    for seed in range(5):
        stats = same(model, prompt, max_tokens=50, seed=seed, logit_bias=bias, **options).stats
        accepted += stats.accepted_tokens
        refused += stats.drafted_tokens - stats.accepted_tokens
    assert accepted > 5 < refused


EDITS = [
    px.edits.NoBreakTokens(), px.edits.MaskPatches([1, 2]), px.edits.ShufflePatches(3),
    px.edits.KnockOutHeads("text", 1, [0, 2]), px.edits.SkipLayers("text", [1]),
    px.edits.PatchState("text.1", mx.ones((99, 128)), [3, 5]),
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: type(edit).__name__)
def test_edits(model, edit):
    prompt = model.encode("abcd abcd", [noise(1)])
    bias = dict.fromkeys((117, 118, 119, 120), 9.0)
    assert same(model, prompt, max_tokens=60, edits=[edit], logit_bias=bias).stats.accepted_tokens


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_cache_is_cut_as_well(tmp_path, bits):
    wide = px.load(make_official(tmp_path / "wide", text={"head_dim": 32}), dtype="float32")
    bias = dict.fromkeys((117, 118, 119, 120), 9.0)
    prompt = wide.encode("abcd abcd", [noise(1)])
    stats = same(wide, prompt, max_tokens=60, kv_bits=bits, logit_bias=bias).stats
    assert 0 < stats.accepted_tokens < stats.drafted_tokens


def test_answers_go_on_from_one_another_whoever_wrote_them(model):
    """Lookup takes over what a plain answer left, and the other way round."""
    bias = dict.fromkeys((117, 118, 119, 120), 9.0)
    for first, then in ((LOOKUP, {}), ({}, LOOKUP), (LOOKUP, LOOKUP)):
        model.clear_cache()
        prompt = model.encode("abcd abcd", [noise(1)])
        one = model.generate(prompt, max_tokens=30, logit_bias=bias, **first)
        longer = px.Prompt(
            prompt.tokens + one.tokens + [117, 118, 119], prompt.images, prompt.grids, prompt.spans
        )
        two = model.generate(longer, max_tokens=30, logit_bias=bias, **then)
        known = len(prompt.tokens) + len(one.tokens)
        assert two.stats.cached_tokens in (known - 1, known)
        fresh = model.generate(longer, max_tokens=30, logit_bias=bias, reuse=False)
        assert two.tokens == fresh.tokens
        np.testing.assert_allclose(two.logprobs, fresh.logprobs, atol=1e-4)
        again = model.generate(longer, max_tokens=30, logit_bias=bias, **then)
        assert again.tokens == fresh.tokens
        assert again.stats.cached_tokens == len(longer.tokens) - 1


# Refusals ---------------------------------------------------------------------------------------


def test_a_trace_is_refused_and_so_is_a_wrong_number(model):
    with pytest.raises(
        ValueError, match="prompt_lookup_num_tokens and trace cannot be used together"
    ):
        model.generate("Hi", trace=True, **LOOKUP)
    with pytest.raises(ValueError, match="and quantized_kv_start cannot be used together"):
        px.GenerationOptions(kv_bits=8, quantized_kv_start=9, **LOOKUP)
    with pytest.raises(ValueError, match="leave prompt_lookup_num_tokens out"):
        model.generate_batch(["Hi"], **LOOKUP)
    for wrong in (-1, 65, 2.5, True):
        with pytest.raises(
            ValueError,
            match=r"^prompt_lookup_num_tokens must be (between 0 and 64|a whole number), got ",
        ):
            px.GenerationOptions(prompt_lookup_num_tokens=wrong)


@pytest.mark.parametrize("options", [{"temperature": 1.0, "seed": 2}, {"repetition_penalty": 1.3}])
def test_the_same_sampler_goes_on_where_drafting_ends(model, monkeypatch, options):
    bias = dict.fromkeys((117, 118, 119, 120), 9.0)
    options = {"max_tokens": 40, "reuse": False, "logit_bias": bias, **options}
    monkeypatch.setattr(Drafter, "judge", lambda self, n, _: setattr(self, "pays", not n))
    plain = model.generate("abcd dcba abcd", **options)
    drafted = model.generate("abcd dcba abcd", prompt_lookup_num_tokens=4, **options)
    assert 0 < drafted.stats.drafted_tokens <= 4
    assert drafted.tokens == plain.tokens
