"""Attention on demand equals the naive softmax; looking changes nothing."""

from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from questions import noise

import pixtral_mlx as px
from pixtral_mlx.interpret.maps import find_evidence, mean_distance, rank_correlation
from pixtral_mlx.interpret.recorder import TraceOptions

NEW = 5


@pytest.fixture(scope="module")
def prompt(loaded):
    content = [
        {"type": "text", "text": "Compare"},
        {"type": "image", "image": noise(0, 70, 40)},
        {"type": "text", "text": "and"},
        {"type": "image", "image": noise(1, 30, 60)},
        {"type": "text", "text": "please."},
    ]
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    return loaded.encode([*turns, {"role": "user", "content": content}])


@pytest.fixture(scope="module")
def reply(loaded, prompt):
    return loaded.generate(prompt, max_tokens=NEW, trace=True, prefill_step_size=7)


def softmax(queries, keys, mask):
    """The materialised map; in float64, since float32 rounds scores of 30 by more than 1e-6."""
    q, k, mask = (np.array(array, np.float64) for array in (queries, keys, mask))
    weights = np.exp(q @ k.transpose(0, 2, 1) * q.shape[-1] ** -0.5 + mask)
    return weights / weights.sum(axis=-1, keepdims=True)


def naive_vision(model, prompt):
    """[layer] -> (H, N, N) over all images, with a mask: the way of the paper, materialised."""
    encoder = model.vision_encoder
    x = encoder.ln_pre(mx.concatenate([encoder.embed(image) for image in prompt.images]))
    angles = encoder.rope.angles(prompt.grids)
    cosine, sine = mx.cos(angles), mx.sin(angles)
    image_of = np.repeat(np.arange(len(prompt.grids)), [g.patches for g in prompt.grids])
    mask = mx.array(np.where(image_of[:, None] == image_of, 0, -np.inf).astype(np.float32))
    maps = []
    for layer in encoder.layers:
        attention, h = layer.attention, layer.attention_norm(x)
        q = encoder.rope.rotate(attention._heads(attention.wq(h)), cosine, sine)[0]
        k = encoder.rope.rotate(attention._heads(attention.wk(h)), cosine, sine)[0]
        maps.append(softmax(q, k, mask))
        x = layer(x, cosine, sine, [grid.patches for grid in prompt.grids])
    return maps


def naive_text(model, prompt, tokens):
    """[layer] -> (H, L, L), and the residual streams, of prompt and answer in one pass."""
    decoder = model.decoder
    longer = px.Prompt(prompt.tokens + tokens, prompt.images, prompt.grids, prompt.spans)
    x = model.embed(longer)[None]
    mask = nn.MultiHeadAttention.create_additive_causal_mask(x.shape[1])
    maps, residuals = [], []
    for layer in decoder.layers:
        attention, h = layer.attention, layer.attention_norm(x)
        length, kv = x.shape[1], attention.n_kv_heads
        q = attention.wq(h).reshape(1, length, attention.n_heads, -1).transpose(0, 2, 1, 3)
        k = attention.wk(h).reshape(1, length, kv, -1).transpose(0, 2, 1, 3)
        q, k = attention.rope(q)[0], mx.repeat(attention.rope(k)[0], q.shape[1] // kv, axis=0)
        maps.append(softmax(q, k, mask))
        x = layer(x, "causal")
        residuals.append(x[0])
    return maps, residuals


def test_every_row_of_every_vision_head_is_the_naive_softmax(model, prompt, reply):
    for layer, maps in enumerate(naive_vision(model, prompt)):
        first = 0
        for image, grid in enumerate(prompt.grids):
            for patch in range(grid.patches):
                row = slice(first, first + grid.patches)
                for head in range(maps.shape[0]):
                    ours = reply.trace.vision_attention(layer, patch, head, image)
                    assert ours.shape == grid
                    assert ours.dtype == np.float32
                    assert abs(ours.sum() - 1) < 1e-5
                    naive = maps[head, first + patch, row]
                    np.testing.assert_allclose(ours.ravel(), naive, atol=1e-6)
            first += grid.patches
    mean = reply.trace.vision_attention(0, (1, 2))
    heads = [reply.trace.vision_attention(0, (1, 2), head) for head in range(4)]
    np.testing.assert_allclose(mean, np.mean(heads, axis=0), atol=1e-7)


def test_every_row_of_every_text_head_is_the_naive_softmax(model, prompt, reply):
    maps, _ = naive_text(model, prompt, reply.tokens)
    for layer in range(len(model.decoder.layers)):
        for token in range(NEW):
            length = len(prompt.tokens) + token
            for head in range(4):
                ours = reply.trace.token_attention(token, layer, head)
                assert ours.shape == (length,)
                assert abs(ours.sum() - 1) < 1e-5
                naive = maps[layer][head, length - 1, :length]
                # Queries and keys of chunks and steps round otherwise than those of one pass.
                np.testing.assert_allclose(ours, naive, atol=4e-6)
                assert np.abs(ours - naive).mean() < 2e-7


def test_image_attention_is_the_part_on_the_patches(model, prompt, reply):
    for image, (grid, span) in enumerate(zip(prompt.grids, prompt.spans, strict=True)):
        row = reply.trace.token_attention(2, 1, 3)
        ours = reply.trace.image_attention(2, 1, 3, image)
        for r in range(grid.rows):
            for c in range(grid.columns):
                assert prompt.tokens[span.position(r, c)] == 10
                assert ours[r, c] == row[span.position(r, c)]
        layers = [reply.trace.image_attention(2, layer, None, image) for layer in range(3)]
        mean = reply.trace.image_attention(2, image=image)
        np.testing.assert_allclose(mean, np.mean(layers, axis=0), atol=1e-7)
        assert reply.trace.image_shares(2)[image] == pytest.approx(mean.sum(), abs=1e-6)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_looking_changes_nothing(folder, prompt, bits, dtype):
    def run(trace):
        fresh = px.load(folder, dtype=dtype)
        if bits:
            nn.quantize(fresh.decoder, group_size=32, bits=bits)
        return fresh.generate(prompt, max_tokens=NEW, trace=trace, prefill_step_size=9)

    plain, traced = run(False), run(True)
    assert plain.tokens == traced.tokens
    assert plain.logprobs == traced.logprobs  # to the bit
    assert plain.trace is None
    with pytest.raises(ValueError, match="trace=True"):
        plain.evidence(0)


@pytest.mark.parametrize("step", [1, 6, 512])
def test_chunks_of_the_prefill_do_not_matter(model, prompt, reply, step):
    again = model.generate(prompt, max_tokens=NEW, trace=True, prefill_step_size=step, reuse=False)
    for token in range(NEW):
        np.testing.assert_allclose(
            again.trace.token_attention(token, 2), reply.trace.token_attention(token, 2), atol=1e-5
        )


def test_logit_lens_ends_in_what_was_said(model, prompt, reply):
    _, residuals = naive_text(model, prompt, reply.tokens)
    decoder, label = model.decoder, model.tokenizer.label
    for token in range(NEW):
        at = len(prompt.tokens) - 1 + token
        for layer in range(3):
            naive = mx.softmax(decoder.unembed(decoder.norm(residuals[layer][at])))
            best = reply.trace.logit_lens(token, layer, top=3)
            order = np.argsort(-np.array(naive))[:3]
            assert [text for text, _ in best] == [label(int(i)) for i in order]
            chances = [p for _, p in best]
            np.testing.assert_allclose(chances, np.array(naive)[order], rtol=1e-3, atol=1e-6)
        text, chance = reply.trace.alternatives(token, top=1)[0]
        assert text == label(reply.tokens[token])
        assert np.log(chance) == pytest.approx(reply.logprobs[token], abs=1e-4)
        assert reply.trace.surprise(token) == -reply.logprobs[token]


def test_lens_at_any_position_of_the_prompt(model, prompt, reply):
    _, residuals = naive_text(model, prompt, [])
    decoder = model.decoder
    patch = prompt.spans[1].position(2, 1)
    for position in (0, 3, patch, len(prompt.tokens) - 1):
        naive = np.array(mx.softmax(decoder.unembed(decoder.norm(residuals[1][position]))))
        ours = reply.trace.position_lens(position, 1, top=2)
        np.testing.assert_allclose(
            [p for _, p in ours], np.sort(naive)[::-1][:2], rtol=1e-3, atol=1e-6
        )


def test_rollout(model, prompt, reply):
    maps = naive_vision(model, prompt)
    grid = prompt.grids[0]
    through = np.eye(grid.patches)
    for layer in maps:
        mean = layer[:, : grid.patches, : grid.patches].mean(axis=0)
        through = (0.5 * mean + 0.5 * np.eye(grid.patches)) @ through
    ours = reply.trace.vision_rollout((1, 1))
    np.testing.assert_allclose(ours.ravel(), through[grid.columns + 1], atol=1e-6)
    assert ours.sum() == pytest.approx(1, abs=1e-5)


def test_rollout_step_by_step(reply):
    steps = list(reply.trace.vision_rollout_steps((1, 1)))
    layers = reply.trace.config.vision.num_hidden_layers
    assert [step[:2] for step in steps] == [(n + 1, layers) for n in range(layers)]
    np.testing.assert_array_equal(steps[-1][2], reply.trace.vision_rollout((1, 1)))


def test_all_heads_at_once(model, prompt, reply):
    trace = reply.trace
    for image, grid in enumerate(prompt.grids):
        rows = trace.vision_rows(1, (1, 0), image)
        assert rows.shape == (4, *grid)
        assert rows.dtype == np.float32
        for head in range(4):
            assert np.array_equal(rows[head], trace.vision_attention(1, (1, 0), head, image))
        on_image = trace.image_rows(3, image)
        assert on_image.shape == (3, 4, *grid)
        for layer in range(3):
            heads = trace.token_rows(3, layer)
            assert heads.shape == (4, len(prompt.tokens) + 3)
            for head in range(4):
                one = trace.token_attention(3, layer, head)
                np.testing.assert_allclose(heads[head], one, atol=1e-7)
                part = trace.image_attention(3, layer, head, image)
                np.testing.assert_allclose(on_image[layer, head], part, atol=1e-7)
    with pytest.raises(IndexError, match="image 2"):
        trace.image_rows(0, 2)


def test_how_far_heads_look(model, prompt, reply):
    maps = naive_vision(model, prompt)
    first, grid = prompt.grids[0].patches, prompt.grids[1]
    places = np.array([(r, c) for r in range(grid.rows) for c in range(grid.columns)])
    far = np.sqrt(((places[:, None] - places) ** 2).sum(axis=-1))
    for layer, whole in enumerate(maps):
        own = whole[:, first : first + grid.patches, first : first + grid.patches]
        naive = (own * far).sum(axis=-1).mean(axis=-1)
        np.testing.assert_allclose(reply.trace.vision_distances(layer, 1), naive, rtol=1e-5)


def test_the_whole_distribution(model, prompt, reply):
    bias = {reply.tokens[1]: -100.0}
    biased = model.generate(prompt, max_tokens=NEW, trace=True, logit_bias=bias).trace
    assert biased.tokens[1] != reply.tokens[1]
    for trace in (reply.trace, biased):
        whole = trace.log_probabilities(1)
        assert whole.shape == (512,)
        assert np.exp(whole).sum() == pytest.approx(1, abs=1e-5)
        assert int(whole.argmax()) == reply.tokens[1]  # what bias took away is still there
        assert whole.max() == pytest.approx(reply.logprobs[1], abs=1e-4)
    early = reply.trace.log_probabilities(1, 0)
    assert np.exp(early.max()) == pytest.approx(reply.trace.logit_lens(1, 0)[0][1])


def test_another_thread_is_told_to_ask_the_worker(model, prompt, reply):
    def look(trace):
        try:
            return trace.token_attention(0, 1, 2)
        except RuntimeError as error:
            return str(error)
        finally:
            mx.clear_streams()

    stream = model.stream(prompt, max_tokens=NEW, trace=True, prefill_step_size=7)
    piece = next(stream)
    with ThreadPoolExecutor(1) as other:
        assert "worker.submit" in other.submit(look, piece.trace).result()
        list(stream)
        after = other.submit(look, piece.trace).result()
    np.testing.assert_allclose(after, reply.trace.token_attention(0, 1, 2), atol=1e-6)


def test_numbers_of_numpy_name_patches(reply):
    trace, wanted = reply.trace, reply.trace.vision_attention(0, (1, 2))
    for patch in ((np.int64(1), np.int64(2)), np.array([1, 2]), np.int32(7)):
        assert np.array_equal(trace.vision_attention(0, patch), wanted)


def test_live_pieces_can_be_looked_at_while_the_answer_is_written(model, prompt, reply):
    stream = model.stream(prompt, max_tokens=NEW, trace=True, prefill_step_size=7)
    for number, piece in enumerate(stream):
        row = piece.trace.token_attention(number, 1, 2)
        np.testing.assert_allclose(row, reply.trace.token_attention(number, 1, 2), atol=1e-6)
        with pytest.raises(IndexError, match="token"):
            piece.trace.token_attention(number + 1, 1, 2)
    assert stream.reply.trace.words == [p.text for p in model.stream(prompt, max_tokens=NEW)]


def test_kept_layers_and_states_can_be_named(model, prompt):
    sites = ("vision.1", "projector", "text.2", "text.0.heads")
    options = TraceOptions(vision_layers=[1], text_layers=[2], states=sites)
    trace = model.generate(prompt, max_tokens=NEW, trace=options, prefill_step_size=7).trace
    assert trace.nbytes < model.generate(prompt, max_tokens=NEW, trace=True).trace.nbytes * 3
    assert trace.vision_attention(1, 0).sum() == pytest.approx(1, abs=1e-5)
    for call in (lambda: trace.vision_attention(0, 0), lambda: trace.token_attention(0, 0)):
        with pytest.raises(IndexError, match="not kept"):
            call()
    states = trace.states
    patches = sum(grid.patches for grid in prompt.grids)
    assert states["vision.1"].shape == (patches, 64)
    assert states["projector"].shape == (patches, 128)
    assert states["text.2"].shape[0] >= len(prompt.tokens) + NEW - 1
    assert states["text.0.heads"].shape[-2:] == (4, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.vision_attention(0, (0.5, 1)), "allowed: a number, or"),
        (lambda t: t.vision_attention(0, (1, 2, 3)), "allowed: a number, or"),
        (lambda t: t.vision_attention(0, "a"), "allowed: a number, or"),
        (lambda t: t.vision_attention(3, 0), "vision layer 3: there are 3, 0 to 2"),
        (lambda t: t.vision_attention(-1, 0), "vision layer -1"),
        (lambda t: t.vision_attention(0, 15), "patch 15: there are 15, 0 to 14"),
        (lambda t: t.vision_attention(0, (3, 0)), r"rows 0 to 2 and columns 0 to 4"),
        (lambda t: t.vision_attention(0, 0, 4), "vision head 4: there are 4, 0 to 3"),
        (lambda t: t.vision_attention(0, 0, image=2), "image 2: there are 2, 0 to 1"),
        (lambda t: t.token_attention(0, 3), "text layer 3: there are 3"),
        (lambda t: t.token_attention(NEW, 0), f"token {NEW}: there are {NEW}"),
        (lambda t: t.token_attention(0, 0, 9), "text head 9"),
        (lambda t: t.image_attention(0, image=-1), "image -1"),
        (lambda t: t.position_lens(10_000, 0), "position 10000"),
        (lambda t: t.surprise(99), "token 99"),
    ],
)
def test_what_is_not_there_is_named(reply, call, message):
    with pytest.raises(IndexError, match=message):
        call(reply.trace)


def test_evidence_is_the_box_around_the_peak():
    attention = np.zeros((4, 6), np.float32)
    attention[1, 2], attention[1, 3], attention[2, 3] = 0.4, 0.3, 0.2
    attention[3, 0] = 0.3  # strong, but not connected
    found = find_evidence(attention)
    assert (found.rows, found.columns) == ((1, 3), (2, 4))
    assert found.score == pytest.approx(0.9 / 1.2)


def test_mean_distance_patch_by_patch():
    maps = np.random.RandomState(0).rand(2, 3, 5)
    far = [[((r - 1) ** 2 + (c - 4) ** 2) ** 0.5 for c in range(5)] for r in range(3)]
    naive = [sum(m[r, c] * far[r][c] for r in range(3) for c in range(5)) / m.sum() for m in maps]
    np.testing.assert_allclose(mean_distance(maps, (1, 4)), naive, rtol=1e-12)
    alone = np.zeros((3, 5))
    alone[1, 1] = 0.2
    assert mean_distance(alone, (1, 4)) == pytest.approx(3)
    assert mean_distance(alone, (1, 1)) == 0
    assert np.isnan(mean_distance(np.zeros((3, 5)), (0, 0)))


def test_rank_correlation():
    values = np.array([[3.0, 1.0], [2.0, 5.0]])
    assert rank_correlation(values, values**3) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)
    assert np.isnan(rank_correlation(values, np.ones((2, 2))))


@pytest.mark.parametrize("site", ["vision.3", "vision.0.haeds", "txt.1", "", "text.0.keys"])
def test_states_that_do_not_exist_are_named(model, prompt, site):
    with pytest.raises(
        IndexError, match=r"vision layer 3: there are 3|there are vision\.embeddings"
    ):
        model.generate(prompt, max_tokens=1, trace=TraceOptions(states=[site]))


def test_no_image(model):
    trace = model.generate("Hello", max_tokens=2, trace=True).trace
    assert trace.token_attention(1, 0).sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(IndexError, match="the prompt has no picture"):
        trace.image_attention(0)
