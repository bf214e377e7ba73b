"""Reuse between calls: what may serve again does, nothing else does, and the answers stay."""

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from questions import noise
from reuse import NEW, check, common, prompt_rest

import pixtral_mlx as px
from pixtral_mlx.engine.content import image_digest
from pixtral_mlx.interpret import edits
from pixtral_mlx.interpret.recorder import TraceOptions


@pytest.fixture
def encoded(model, monkeypatch):
    """Shapes of the images that the vision encoder is given."""
    seen, encode = [], model.vision_encoder._encode

    def count(images, *rest, **named):
        seen.extend(tuple(image.shape) for image in images)
        return encode(images, *rest, **named)

    monkeypatch.setattr(type(model.vision_encoder), "_encode", lambda _, *a, **n: count(*a, **n))
    return seen


def turns(*parts):
    """Messages: user content and assistant texts in turn."""
    return [{"role": ("user", "assistant")[n % 2], "content": part} for n, part in enumerate(parts)]


def content(text, *images):
    return [*({"type": "image", "image": i} for i in images), {"type": "text", "text": text}]


# Keys and values -------------------------------------------------------------------------------


def test_a_second_question_on_an_image_computes_only_itself(model, encoded):
    first = model.encode("What is this?", [noise(0)])
    second = model.encode("How many are there?", [noise(0)])
    check(model, first, 0)
    encoded.clear()
    reply = model.generate(second, max_tokens=NEW)
    shared = common(first.tokens, second.tokens)
    assert reply.stats.cached_tokens == shared >= first.spans[0].stop
    assert encoded == []
    assert reply.stats.vision_seconds == 0
    alone = model.generate(second, max_tokens=NEW, reuse=False)
    assert reply.tokens == alone.tokens
    np.testing.assert_allclose(reply.logprobs, alone.logprobs, atol=1e-5)


def test_the_same_question_again_computes_its_last_position(model):
    prompt = model.encode("What is this?", [noise(0)])
    check(model, prompt, 0)
    check(model, prompt, len(prompt.tokens) - 1)
    check(model, prompt, len(prompt.tokens) - 1, max_tokens=2 * NEW)


def test_turns_go_on_from_the_answer(model):
    """The generated tokens are kept too: the next turn finds the answer there."""
    messages = turns(content("Hi", noise(0)))
    first = model.encode(messages)
    reply = model.generate(first, max_tokens=NEW, logit_bias={300: 1e9})
    longer = px.Prompt(
        first.tokens + reply.tokens + [2, 3, 120, 4], first.images, first.grids, first.spans
    )
    check(model, longer, len(first.tokens) + NEW - 1)  # nobody has read the last one yet
    assert len(model.prompt_cache) == 1  # the longer one took the place of the shorter


def test_text_only(model):
    first, second = (model.encode(f"A long question, and then {n}") for n in ("one", "two"))
    check(model, first, 0)
    check(model, second, common(first.tokens, second.tokens))


def test_another_image_of_the_same_size_never_hits(model):
    prompts = [model.encode("What is this?", [noise(seed)]) for seed in (0, 1)]
    assert prompts[0].tokens == prompts[1].tokens
    start = prompts[0].spans[0].start
    check(model, prompts[0], 0)
    check(model, prompts[1], start)
    check(model, prompts[0], len(prompts[0].tokens) - 1)


def test_files_that_differ_in_mode_or_palette_alone_are_keyed_by_their_pixels(model):
    indices = np.random.RandomState(0).randint(0, 4, (40, 70), dtype=np.uint8)
    palettes = [[c * k % 256 for c in range(12)] for k in (17, 23)]
    images = [Image.fromarray(indices).convert("P") for _ in palettes]
    for image, palette in zip(images, palettes, strict=True):
        image.putdata(indices.ravel().tolist())
        image.putpalette(palette)
    grey, same = Image.fromarray(indices * 60), images[0].convert("RGB")
    prompts = [model.encode("What?", [image]) for image in (*images, grey, same)]
    digests = [image_digest(prompt.images[0]) for prompt in prompts]
    assert len(set(digests[:3])) == 3
    assert digests[3] == digests[0]
    start = prompts[0].spans[0].start
    for prompt in prompts[:3]:
        check(model, prompt, start if prompt is not prompts[0] else 0)
    check(model, prompts[3], len(prompts[3].tokens) - 1)


def test_the_size_is_part_of_what_an_image_shows():
    pixels = np.zeros((3, 32, 64), np.float32)
    assert image_digest(pixels) != image_digest(pixels.reshape(3, 64, 32))
    assert image_digest(pixels) == image_digest(mx.array(pixels))


def test_adding_an_image_encodes_and_reads_from_there(model, encoded):
    one = model.encode(turns(content("Look", noise(0), noise(1, 30, 60))))
    two = model.encode(turns(content("Look", noise(0), noise(2, 50, 50))))
    check(model, one, 0)
    encoded.clear()
    reply = model.generate(two, max_tokens=NEW)
    # The tokens agree further than the pictures do.
    assert reply.stats.cached_tokens == two.spans[1].start
    assert encoded == [(3, 64, 64)]
    assert reply.tokens == model.generate(two, max_tokens=NEW, reuse=False).tokens


def test_a_conversation_that_diverges_leaves_the_older_one_as_it_was(model):
    document = content("Read this", noise(0))
    base = turns(document, "Yes.")
    ways = [model.encode([*base, *turns(question)]) for question in ("And A?", "But B then?")]
    shared = common(ways[0].tokens, ways[1].tokens)
    check(model, ways[0], 0)
    (kept,) = model.prompt_cache._conversations()
    before = [np.array(layer.keys)[..., shared : len(kept), :] for layer in kept.layers]
    check(model, ways[1], shared)
    assert len(model.prompt_cache) == 2
    (kept,) = (each for each in model.prompt_cache._conversations() if each.start)
    for layer, keys in zip(kept.layers, before, strict=True):
        assert np.array_equal(layer.keys, keys)
    check(model, ways[0], len(ways[0].tokens) - 1)
    check(model, ways[1], len(ways[1].tokens) - 1)
    assert len(model.prompt_cache) == 2


def test_what_questions_about_one_picture_share_is_kept_once(model):
    """And every one of them can be gone on from, to its last position."""
    picture = noise(0, 256, 256)
    texts = [f"Which number is this, {n} or {n + 1}?" for n in range(8)]
    prompts = [model.encode(turns(content(text, picture))) for text in texts]
    alone = []
    for prompt in prompts:
        model.clear_cache()
        alone.append(model.generate(prompt, max_tokens=NEW, reuse=False).tokens)
    model.generate(prompts[0], max_tokens=1)
    one = model.prompt_cache.nbytes
    found = [model.generate(prompt, max_tokens=NEW).tokens for prompt in prompts]
    assert found == alone
    assert len(model.prompt_cache) == len(prompts)
    assert model.prompt_cache.nbytes < 1.5 * one
    for prompt, answer in zip(prompts, alone, strict=True):
        further = px.Prompt([*prompt.tokens, *answer, 2, 3, 120, 4], *prompt_rest(prompt))
        check(model, further, len(prompt.tokens) + NEW - 1)


def test_answers_that_were_written_together_share_what_is_kept(model):
    picture = noise(0, 256, 256)
    prompts = [model.encode(f"Is it a {n}?", [picture]) for n in ("cat", "dog", "cow", "fox")]
    model.generate(prompts[0], max_tokens=1)
    one = model.prompt_cache.nbytes
    model.clear_cache()
    model.generate_batch(prompts, max_tokens=NEW)
    assert len(model.prompt_cache) == len(prompts)
    assert model.prompt_cache.nbytes < 1.5 * one
    for prompt in prompts:
        check(model, prompt, len(prompt.tokens) - 1)


def test_forks_of_forks_are_put_together(model):
    """What one conversation is kept of may stand on what another one is kept of."""
    start = [1, 3, *range(300, 360)]
    ways = [start]
    for n in range(3):  # each leaves the one before in its middle
        ways.append([*ways[-1][:-10], 100 + n, *range(400, 440)])
    for tokens in ways:
        model.generate(px.Prompt(tokens), max_tokens=NEW)
    assert {each.start > 0 for each in model.prompt_cache._conversations()} == {True, False}
    for tokens in ways:
        check(model, px.Prompt([*tokens, 7, 8]), len(tokens))
    for tokens in reversed(ways):
        check(model, px.Prompt([*tokens, 7, 8]), len(tokens) + 1)


def test_the_longest_of_several_is_taken(model):
    for n, text in enumerate(("a", "a long", "a long way")):
        model.generate(model.encode(turns(content(text, noise(0)), "Ok.", "Go")), max_tokens=n + 1)
    prompt = model.encode(turns(content("a long way", noise(0)), "Ok.", "Stop"))
    other = model.encode(turns(content("a long way", noise(0)), "Ok.", "Go"))
    check(model, prompt, common(prompt.tokens, other.tokens))


def test_two_answers_at_a_time(model):
    prompts = [model.encode(text, [noise(0)]) for text in ("What?", "What? Where?")]
    expected = [model.generate(p, max_tokens=NEW, reuse=False).tokens for p in prompts]
    streams = [model.stream(p, max_tokens=NEW) for p in prompts * 2]
    for _ in range(NEW):
        for stream in streams:
            next(stream, None)
    assert [stream.reply.tokens for stream in streams] == expected * 2
    for stream in streams:
        stream.interrupt()


def test_repetition_penalty_sees_the_tokens_that_were_not_read_again(model):
    prompt = model.encode("abcabcabc", [noise(0)])
    check(model, prompt, 0, repetition_penalty=5.0)
    check(model, prompt, len(prompt.tokens) - 1, repetition_penalty=5.0)


def test_sampling_and_progress(model):
    prompt, calls = model.encode("What is this?", [noise(0)]), []
    options = {"temperature": 1.0, "seed": 4, "prefill_step_size": 5}
    check(model, prompt, 0, **options)
    check(model, prompt, len(prompt.tokens) - 1, **options)
    longer = model.encode("What is this? And that?", [noise(0)])
    reply = model.generate(longer, max_tokens=1, progress=lambda *counts: calls.append(counts))
    assert calls[0] == (reply.stats.cached_tokens, len(longer.tokens))
    assert calls[-1] == (len(longer.tokens), len(longer.tokens))


def test_no_reuse_takes_nothing_and_leaves_nothing(model, encoded):
    prompt = model.encode("What is this?", [noise(0)])
    for _ in range(2):
        assert model.generate(prompt, max_tokens=2, reuse=False).stats.cached_tokens == 0
    assert model.prompt_cache.nbytes == 0
    assert len(encoded) == 2
    model.occlusion_map(prompt, 0, 4)
    model.logits(prompt)
    assert model.prompt_cache.nbytes == 0


# Edits -----------------------------------------------------------------------------------------

CHANGES = [
    [edits.NoBreakTokens()],
    [edits.MaskPatches([0, 3])],
    [edits.MaskPatches([0, 4])],
    [edits.ShufflePatches(1)],
    [edits.KnockOutHeads("text", 0, [1])],
    [edits.KnockOutHeads("vision", 0, [1])],
    [edits.SkipLayers("text", [1])],
    [edits.NoVisionMask()],
    [edits.SkipLayers("text", [1]), edits.MaskPatches([0])],
    [],
]


def test_each_edit_is_a_key_of_its_own_and_compares_by_value(model):
    prompt = model.encode("What?", [noise(0), noise(1)])
    for changes in CHANGES:
        check(model, prompt, 0, edits=changes)
    for changes in CHANGES:
        same = [type(edit)(**vars(edit)) for edit in changes]
        breaks = 4 if changes == [edits.NoBreakTokens()] else 0  # two images of three rows
        check(model, prompt, len(prompt.tokens) - breaks - 1, edits=same)


def test_images_that_may_see_one_another_are_keyed_together(model):
    one, two = (model.encode("What?", [noise(0), noise(seed)]) for seed in (1, 2))
    change = [edits.NoVisionMask()]
    check(model, one, 0, edits=change)
    check(model, two, one.spans[0].start, edits=change)
    check(model, one, 0)
    check(model, two, one.spans[1].start)


def test_an_edit_of_the_callers_own_is_never_reused(model):
    class Scale(edits.Edit):
        factor = 1.0

        def change(self, value, at):
            return value * self.factor if at.site == ("text", 0, "") else value

    prompt, change = model.encode("What?", [noise(0)]), Scale()
    check(model, prompt, 0, edits=[change])
    change.factor = 3.0
    check(model, prompt, 0, edits=[change])


# Looking inside --------------------------------------------------------------------------------


def test_a_trace_of_a_follow_up_is_the_one_of_a_fresh_run(model):
    pictures = [noise(0), noise(1, 30, 60)]
    model.generate("What is this?", images=pictures, max_tokens=3)
    prompt = model.encode("How many?", pictures)
    ours = model.generate(prompt, max_tokens=NEW, trace=True)
    assert ours.stats.cached_tokens > prompt.spans[1].stop - 2
    fresh = model.generate(prompt, max_tokens=NEW, trace=True, reuse=False)
    assert ours.tokens == fresh.tokens
    layers, close = range(3), {"atol": 1e-6}
    for layer in layers:
        for image, patch in ((0, 0), (0, 7), (1, 3)):
            one, two = (r.trace.vision_attention(layer, patch, 1, image) for r in (ours, fresh))
            assert np.array_equal(one, two)
        for token in range(NEW):
            for head in range(4):
                one, two = (r.trace.token_attention(token, layer, head) for r in (ours, fresh))
                np.testing.assert_allclose(one, two, **close)
            one, two = (r.trace.image_attention(token, layer, image=1) for r in (ours, fresh))
            np.testing.assert_allclose(one, two, **close)
            one, two = (r.trace.logit_lens(token, layer, 3) for r in (ours, fresh))
            assert [word for word, _ in one] == [word for word, _ in two]
            np.testing.assert_allclose([p for _, p in one], [p for _, p in two], **close)
        for position in (
            0,
            prompt.spans[0].start + 1,
            prompt.spans[1].start,
            -1 + len(prompt.tokens),
        ):
            one, two = (r.trace.position_lens(position, layer, 3) for r in (ours, fresh))
            np.testing.assert_allclose([p for _, p in one], [p for _, p in two], **close)


def test_a_trace_outlives_the_calls_that_go_on_from_it(model):
    prompt = model.encode("What is this?", [noise(0)])
    trace = model.generate(prompt, max_tokens=NEW, trace=True).trace
    rows = [trace.token_attention(t, 1, 0) for t in range(NEW)]
    longer = px.Prompt(prompt.tokens + trace.tokens + [2, 120], *prompt_rest(prompt))
    check(model, longer, len(prompt.tokens) + NEW - 1)
    for token, row in enumerate(rows):
        assert np.array_equal(trace.token_attention(token, 1, 0), row)


@pytest.mark.parametrize("images", [(0, 1), (0, 0), (1, 0, 1)])
def test_looking_changes_no_bit_from_the_same_state(folder, images):
    def answers(trace):
        model = px.load(folder, dtype="float32")
        model.generate("What is this?", images=[noise(1)], max_tokens=2)
        prompt = model.encode("And?", [noise(seed) for seed in images])
        return model.generate(prompt, max_tokens=NEW, trace=trace)

    plain, traced = answers(False), answers(True)
    assert plain.tokens == traced.tokens
    assert plain.logprobs == traced.logprobs
    assert traced.trace.vision_attention(0, 0, 0, len(images) - 1).sum() == pytest.approx(1)


def test_named_states_have_every_position(model):
    prompt = model.encode("What is this?", [noise(0), noise(0)])
    model.generate(prompt, max_tokens=2)
    options = TraceOptions(states=["text.1", "vision.0", "projector"])
    reply = model.generate(prompt, max_tokens=2, trace=options)
    assert reply.stats.cached_tokens == 0
    assert len(reply.trace.states["text.1"]) >= len(prompt.tokens)
    options = TraceOptions(states=["vision.0", "vision.1.heads", "projector"])
    reply = model.generate(prompt, max_tokens=2, trace=options)
    assert reply.stats.cached_tokens == len(prompt.tokens) - 1
    assert [len(reply.trace.states[site]) for site in options.states] == [30, 30, 30]


def test_a_trace_without_vision_needs_no_vision(model, encoded):
    prompt = model.encode("What is this?", [noise(0)])
    model.generate(prompt, max_tokens=2)
    encoded.clear()
    reply = model.generate(prompt, max_tokens=2, trace=TraceOptions(vision_layers=[]))
    assert encoded == []
    patch = prompt.spans[0].start + 4
    full = model.generate(prompt, max_tokens=2, trace=True, reuse=False)
    assert reply.trace.position_lens(patch, 2)[0] == pytest.approx(
        full.trace.position_lens(patch, 2)[0], abs=1e-6
    )


# Features --------------------------------------------------------------------------------------


def test_images_that_show_the_same_are_encoded_once(model, encoded):
    a, b = noise(0), noise(1)
    prompt = model.encode("Compare", [a, b, a, a.copy()])
    reply = model.generate(prompt, max_tokens=NEW)
    assert len(encoded) == 2
    alone = mx.concatenate([model.projector(model.vision_encoder([i])) for i in prompt.images])
    np.testing.assert_allclose(model.features(prompt), alone, atol=1e-5)
    encoded.clear()
    other = model.encode("Another order", [b, noise(2), a])
    check(model, other, other.spans[0].start)
    assert len(encoded) == 1 + 3  # the new one, and all three without reuse
    assert len(reply.tokens) == NEW


def test_many_images_in_groups_are_what_each_is_alone(model, monkeypatch):
    images = [p.images[0] for p in (model.encode("?", [noise(n, 70 - 9 * n)]) for n in range(5))]
    whole = np.array(model.vision_encoder(images))
    for most in (1, 16, 30):
        monkeypatch.setattr("pixtral_mlx.model.attention.PATCHES_AT_ONCE", most)
        np.testing.assert_allclose(model.vision_encoder(images), whole, atol=1e-5)
        prompt = model.encode("?", [noise(n, 70 - 9 * n) for n in range(5)])
        options = TraceOptions(states=["vision.1"])
        trace = model.generate(prompt, max_tokens=1, trace=options, reuse=False).trace
        assert trace.states["vision.1"].shape == whole.shape
        for image, grid in enumerate(prompt.grids):
            assert trace.vision_attention(2, grid.patches - 1, 0, image).sum() == pytest.approx(1)
