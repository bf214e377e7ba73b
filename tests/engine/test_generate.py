"""Generation: options, streaming, stopping, and the same answer however the prompt is read."""

import math

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import make_official, shipped_tokenizer

import pixtral_mlx as px
from pixtral_mlx.engine.answer import _overlap, _StopText
from pixtral_mlx.engine.options import GenerationOptions
from pixtral_mlx.engine.sampling import Choice
from pixtral_mlx.inputs.tokenizer import Tokenizer

SCRIPTS = {
    "Chinese": "敏捷的棕色狐狸跳过了懒狗，今天天气很好。",
    "Japanese": "素早い茶色の狐が、のろまな犬を飛び越えた。",
    "Korean": "빠른 갈색 여우가 게으른 개를 뛰어넘는다.",
    "Arabic": "الثعلب البني السريع يقفز فوق الكلب الكسول.",
    "Hebrew": "השועל החום המהיר קופץ מעל הכלב העצלן.",
    "Hindi": "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "Thai": "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ",
    "Russian": "Быстрая бурая лиса прыгает через ленивую собаку.",
    "Greek": "Η γρήγορη καφέ αλεπού πηδάει πάνω από τον σκύλο.",
    "Tamil": "விரைவான பழுப்பு நரி சோம்பேறி நாய் மீது குதிக்கிறது.",
    "Georgian": "სწრაფი ყავისფერი მელა ახტება ზარმაც ძაღლს.",
    "Emoji": "👩‍👩‍👧‍👦 🦊➡️🐶 naïve café 🇫🇷 𝔓𝔦𝔵𝔱𝔯𝔞𝔩",
}


# The same answer -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 512])
def test_chunks_of_the_prefill_do_not_change_tokens(model, prompt, step):
    whole = model.generate(prompt, max_tokens=12, prefill_step_size=100_000, reuse=False)
    chunked = model.generate(prompt, max_tokens=12, prefill_step_size=step, reuse=False)
    assert chunked.tokens == whole.tokens
    np.testing.assert_allclose(chunked.logprobs, whole.logprobs, atol=1e-4)


def test_greedy_is_the_argmax_of_the_logits_of_the_whole_sequence(model, prompt):
    reply = model.generate(prompt, max_tokens=6)
    for n, token in enumerate(reply.tokens):
        longer = px.Prompt(prompt.tokens + reply.tokens[:n], prompt.images, prompt.grids)
        logits = model.logits(longer)[-1]
        assert int(mx.argmax(logits)) == token
        expected = float(logits[token] - mx.logsumexp(logits))
        assert reply.logprobs[n] == pytest.approx(expected, abs=1e-4)


def test_seed_repeats_and_temperature_varies(model, prompt):
    def sample(seed):
        return model.generate(prompt, max_tokens=16, temperature=1.5, seed=seed).tokens

    assert sample(1) == sample(1)
    assert len({tuple(sample(seed)) for seed in range(4)}) > 1


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_filters_that_leave_one_token_are_greedy(model, prompt, narrow):
    greedy = model.generate(prompt, max_tokens=8).tokens
    assert model.generate(prompt, max_tokens=8, temperature=2.0, seed=5, **narrow).tokens == greedy


def test_logit_bias_forbids_and_forces(model, prompt):
    first = model.generate(prompt, max_tokens=4).tokens[0]
    assert first not in model.generate(prompt, max_tokens=4, logit_bias={first: -1e9}).tokens
    assert model.generate(prompt, max_tokens=4, logit_bias={300: 1e9}).tokens == [300] * 4


def test_repetition_penalty_makes_a_repeated_token_rarer(model, prompt):
    forced = model.generate(prompt, max_tokens=6, logit_bias={300: 8.0}).tokens
    penalised = model.generate(
        prompt, max_tokens=6, logit_bias={300: 8.0}, repetition_penalty=20.0
    ).tokens
    assert penalised.count(300) < forced.count(300)


def test_log_probabilities_are_float32_whatever_the_model_computes_in(folder, prompt):
    coarse = px.load(folder, dtype="bfloat16")
    reply = coarse.generate(prompt, max_tokens=4)
    for n, token in enumerate(reply.tokens):
        longer = px.Prompt(prompt.tokens + reply.tokens[:n], prompt.images, prompt.grids)
        logits = coarse.logits(longer)[-1].astype(mx.float32)
        expected = float(logits[token] - mx.logsumexp(logits))
        assert reply.logprobs[n] == pytest.approx(expected, abs=0.1)  # bf16 inside
    assert any(p != float(mx.array(p).astype(mx.bfloat16)) for p in reply.logprobs)


# Endings ---------------------------------------------------------------------------------------


def test_end_token_stops_and_is_not_part_of_the_answer(model, prompt):
    reply = model.generate(prompt, max_tokens=9, logit_bias={model.tokenizer.eos_id: 1e9})
    assert (reply.tokens, reply.text, reply.finish_reason) == ([], "", "stop")
    assert reply.stats.generated_tokens == 0


def test_length(model, prompt):
    reply = model.generate(prompt, max_tokens=5)
    assert reply.finish_reason == "length"
    assert len(reply.tokens) == len(reply.logprobs) == reply.stats.generated_tokens == 5


def test_context_ends_an_answer(tmp_path, picture):
    short = px.load(make_official(tmp_path / "short", text={"max_seq_len": 40}), dtype="float32")
    prompt = short.encode("Hi", [picture])
    reply = short.generate(prompt, max_tokens=1000, logit_bias={2: -1e9})
    # The last token that is generated is never read, so it needs no place.
    assert len(prompt.tokens) + len(reply.tokens) - 1 == 40
    with pytest.raises(px.CapacityError, match=r"the context holds 1 to 40: send less text"):
        short.encode("Hi " * 40, [picture])


def test_stop_string_across_tokens_is_cut_and_never_shown(model, prompt):
    a, b = 97 + 20, 98 + 20  # bytes stand after the 20 control tokens
    script = iter([a, a, b, a])
    stream = model.stream(prompt, stop="ab", max_tokens=8)
    stream.steps = lambda: (Choice(token, -1.0) for token in script)
    pieces = [piece.text for piece in stream]
    assert "".join(pieces) == stream.reply.text == "a"
    assert stream.reply.finish_reason == "stop"
    assert len(stream.reply.tokens) == 3


def test_beginning_of_a_stop_string_that_does_not_come_is_kept(model, prompt):
    a, b = 97 + 20, 98 + 20
    script = iter([a, b, a])
    stream = model.stream(prompt, stop="abc", max_tokens=3)
    stream.steps = lambda: (Choice(token, -1.0) for token in script)
    assert "".join(piece.text for piece in stream) == "aba"
    assert stream.reply.finish_reason == "length"


@pytest.mark.parametrize(
    ("text", "stop", "length"), [("xa", "ab", 1), ("ab", "ab", 0), ("aab", "aabc", 3), ("", "a", 0)]
)
def test_overlap(text, stop, length):
    assert _overlap(text, stop) == length


def test_interrupt_keeps_what_there_is(model, prompt, monkeypatch):
    stream = model.stream(prompt, max_tokens=50)
    seen = [next(stream).token for _ in range(3)]
    stream.interrupt()
    assert stream.reply.finish_reason == "interrupted"
    assert stream.reply.tokens[:3] == seen
    with pytest.raises(StopIteration):
        next(stream)


def test_keyboard_interrupt_returns_the_partial_answer(model, prompt):
    def progress(done, total):
        if done == total:
            raise KeyboardInterrupt

    reply = model.generate(prompt, max_tokens=50, progress=progress)
    assert reply.finish_reason == "interrupted"


# Streaming -------------------------------------------------------------------------------------


def test_pieces_add_up_to_the_reply(model, prompt):
    stream = model.stream(prompt, max_tokens=24, temperature=1.0, seed=3)
    pieces = list(stream)
    assert "".join(p.text for p in pieces) == stream.reply.text
    assert [p.token for p in pieces] == stream.reply.tokens
    assert [p.logprob for p in pieces] == stream.reply.logprobs
    again = model.generate(prompt, max_tokens=24, temperature=1.0, seed=3)
    assert again.text == stream.reply.text


@pytest.fixture(scope="module", params=["tekken_240911.json", "v7m1"])
def full_tokenizer(request):
    name = request.param
    if name == "v7m1":
        name = "mistral_instruct_tokenizer_241114.model.v7m1"
    return Tokenizer(shipped_tokenizer(name))


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_stream_without_a_replacement_character(full_tokenizer, script):
    text = SCRIPTS[script]
    tokens = full_tokenizer._words.encode(text, bos=False, eos=False)
    decoder, shown = full_tokenizer.stream_decoder(), ""
    for token in tokens:
        new = decoder.add(token)
        assert "�" not in new
        shown += new
        assert text.startswith(shown)
    assert not decoder.pending
    assert shown == text == full_tokenizer.decode(tokens)


def test_scripts_of_single_bytes_stream_whole_characters(model):
    # The tiny tokenizer knows few words, so that most characters take several tokens.
    for text in SCRIPTS.values():
        stop_text = _StopText(model.tokenizer.stream_decoder(), ())
        shown = ""
        for token in model.tokenizer._words.encode(text, bos=False, eos=False):
            new = stop_text.add(token)
            assert "�" not in new
            shown += new
        assert shown == text
        assert not stop_text.pending


def test_answer_cut_inside_a_character_drops_the_half(model, prompt):
    tokens = [b + 20 for b in "é狐".encode()][:-1]
    stream = model.stream(prompt, max_tokens=len(tokens))
    stream.steps = lambda: (Choice(token, -1.0) for token in tokens)
    assert "".join(piece.text for piece in stream) == "é"
    assert stream.reply.tokens == tokens


# Options, statistics, memory ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0}, {"temperature": -1}, {"top_p": 1.5}, {"top_k": -1}, {"min_p": 2},
        {"prefill_step_size": 0}, {"repetition_penalty": 0}, {"stop": [""]}, {"stop": [3]},
        {"max_tokens": 2.5}, {"temperature": None}, {"temperature": "hot"},
        {"prefill_step_size": True},
    ],
)  # fmt: skip
def test_option_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} must be .*, got "):
        GenerationOptions(**wrong)


def test_options_of_other_kinds(model, prompt):
    assert (
        GenerationOptions(stop=None, edits=None, max_tokens=np.int64(3), temperature=0).stop == ()
    )
    assert len(model.generate(prompt, max_tokens=np.int64(3), reuse=False).tokens) == 3
    assert GenerationOptions(logit_bias={"12": 5}).logit_bias == {12: 5.0}
    with pytest.raises(ValueError, match="logit_bias must name whole numbers, got 'twelve'"):
        GenerationOptions(logit_bias={"twelve": 5})


def test_unknown_option_is_named(model, prompt):
    with pytest.raises(TypeError, match="temprature"):
        model.generate(prompt, temprature=1)


def test_logit_bias_outside_the_vocabulary(model, prompt):
    with pytest.raises(ValueError, match="token 99999; allowed: 0 to 511"):
        model.generate(prompt, logit_bias={99999: 1.0})


def test_statistics(model, prompt):
    stats = model.generate(prompt, max_tokens=5, reuse=False).stats
    assert stats.prompt_tokens == len(prompt.tokens)
    assert stats.image_tokens == prompt.grids[0].tokens
    assert stats.cached_tokens == 0
    assert 0 < stats.vision_seconds < stats.prompt_seconds
    assert stats.decode_seconds > 0
    assert stats.peak_bytes > 0


def test_progress_counts_the_prompt(model, prompt):
    calls = []
    model.generate(
        prompt,
        max_tokens=1,
        prefill_step_size=8,
        progress=lambda done, total: calls.append((done, total)),
        reuse=False,
    )
    assert calls[0][0] == 0
    assert calls[-1] == (len(prompt.tokens), len(prompt.tokens))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert len(calls) > len(prompt.tokens) // 8


def test_too_little_memory_is_said_before_anything_is_read(model, prompt, monkeypatch):
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: 10_000)
    with pytest.raises(px.CapacityError, match=r"10.0 kB are available: no width would fit"):
        model.generate(prompt)
    assert model.generate(prompt, max_tokens=1, force=True).tokens


def test_nan_weights_end_with_a_line_that_says_where_to_look(folder, prompt):
    broken = px.load(folder)
    broken.decoder.norm.weight = broken.decoder.norm.weight * math.nan
    with pytest.raises(px.CheckpointError, match="inspect --check"):
        broken.generate(prompt, max_tokens=2)


def test_raw_is_a_plain_completion_with_images(model, picture):
    prompt = model.encode("A caption:", [picture], raw=True)
    assert prompt.tokens[0] == model.tokenizer.bos_id
    assert prompt.spans[0].start == 1
    text = prompt.tokens[prompt.spans[0].stop :]
    assert model.tokenizer.decode(text) == "A caption:"
    assert not {3, 4} & set(prompt.tokens)
    assert model.generate("A caption:", images=[picture], raw=True, max_tokens=3).tokens


def test_messages_string_and_encoded_prompt_give_the_same(model, picture, prompt):
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is this?"}]
    as_messages = model.generate([{"role": "user", "content": content}], max_tokens=4)
    as_string = model.generate("What is this?", images=[picture], max_tokens=4)
    assert as_messages.tokens == as_string.tokens == model.generate(prompt, max_tokens=4).tokens
