"""mlx-lm's machinery runs on our decoder: caches, samplers, batching, speculation; with images."""

import mlx.core as mx
import pytest
from checkpoints import make_official
from mlx_lm.generate import BatchGenerator, generate_step, speculative_generate_step
from mlx_lm.models.cache import QuantizedKVCache, make_prompt_cache, trim_prompt_cache
from mlx_lm.sample_utils import make_sampler
from questions import noise

import pixtral_mlx as px

NEW = 8


@pytest.fixture(scope="module")
def draft(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlx_lm") / "draft"
    return px.load(make_official(folder, seed=7, text={"n_layers": 1}), dtype="float32")


@pytest.fixture(scope="module")
def prompts(loaded):
    image = noise(1, 90, 50)
    return [
        loaded.encode("What is it?", [image]),
        loaded.encode("Two of them.", [image.rotate(90), image.resize((30, 20))]),
        loaded.encode("No picture at all."),
    ]


@pytest.fixture(scope="module")
def expected(loaded, prompts):
    """Greedy tokens by the plainest means: the whole sequence again for every token."""
    return [_greedy_without_cache(loaded, prompt) for prompt in prompts]


def _greedy_without_cache(model, prompt):
    tokens = []
    for _ in range(NEW):
        longer = px.Prompt(prompt.tokens + tokens, prompt.images, prompt.grids)
        tokens.append(int(mx.argmax(model.logits(longer)[-1])))
    return tokens


def _prefilled(model, prompt, decoder=None):
    """A KV cache of all tokens but the last."""
    decoder = decoder or model.decoder
    cache = make_prompt_cache(decoder)
    tokens = mx.array(prompt.tokens[:-1])[None]
    embeddings = model.embed(prompt)[None, :-1] if prompt.images else None
    decoder(tokens, cache=cache, input_embeddings=embeddings)
    mx.eval([layer.state for layer in cache])
    return cache


def test_generate_step_takes_embeddings_of_images(model, prompts, expected):
    for prompt, tokens in zip(prompts, expected, strict=True):
        steps = generate_step(
            mx.array(prompt.tokens),
            model.decoder,
            max_tokens=NEW,
            input_embeddings=model.embed(prompt),
        )
        assert [int(token) for token, _ in steps] == tokens


def test_generate_step_is_unchanged_for_text(model, prompts, expected):
    steps = generate_step(mx.array(prompts[2].tokens), model.decoder, max_tokens=NEW)
    assert [int(token) for token, _ in steps] == expected[2]


def test_generate_step_goes_on_from_a_prefilled_cache(model, prompts, expected):
    cache = _prefilled(model, prompts[0])
    last = mx.array(prompts[0].tokens[-1:])
    steps = generate_step(last, model.decoder, max_tokens=NEW, prompt_cache=cache)
    assert [int(token) for token, _ in steps] == expected[0]


def test_samplers(model, prompts):
    def run(seed):
        mx.random.seed(seed)
        sampler = make_sampler(temp=1.0, top_p=0.9, top_k=50)
        steps = generate_step(
            mx.array(prompts[0].tokens), model.decoder, max_tokens=NEW, sampler=sampler,
            input_embeddings=model.embed(prompts[0]),
        )  # fmt: skip
        return [int(token) for token, _ in steps]

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_batch_generator_takes_prefilled_caches_of_images(model, prompts, expected):
    batch = BatchGenerator(model.decoder, max_tokens=NEW)
    ids = batch.insert(
        [prompt.tokens[-1:] for prompt in prompts],
        caches=[_prefilled(model, prompt) for prompt in prompts],
    )
    found = {uid: [] for uid in ids}
    while responses := batch.next_generated():
        for response in responses:
            found[response.uid].append(response.token)
    batch.close()
    assert [found[uid] for uid in ids] == expected


def test_batch_of_text_prompts_of_different_lengths(model):
    texts = [model.encode("Hi"), model.encode("A longer question than the first one?")]
    batch = BatchGenerator(model.decoder, max_tokens=NEW)
    ids = batch.insert([prompt.tokens for prompt in texts])
    found = {uid: [] for uid in ids}
    while responses := batch.next_generated():
        for response in responses:
            found[response.uid].append(response.token)
    batch.close()
    assert [found[uid] for uid in ids] == [_greedy_without_cache(model, p) for p in texts]


@pytest.mark.parametrize("drafts", [1, 3])
def test_speculative_decoding_with_an_image(model, draft, prompts, expected, drafts):
    prompt = prompts[0]
    # The draft model reads the same embeddings: widths are equal, its layers are others.
    cache = _prefilled(model, prompt) + _prefilled(model, prompt, draft.decoder)
    steps = speculative_generate_step(
        mx.array(prompt.tokens[-1:]), model.decoder, draft.decoder,
        num_draft_tokens=drafts, max_tokens=NEW, prompt_cache=cache,
    )  # fmt: skip
    assert [int(token) for token, _, _ in steps] == expected[0]


def test_quantized_kv_cache_with_an_image(tmp_path):
    # Groups of 32 need a head width of 32.
    folder = make_official(tmp_path / "wide", text={"head_dim": 32})
    wide = px.load(folder, dtype="float32")
    prompt = wide.encode("What?", [noise(2, 60, 40)])
    exact = wide.logits(prompt)
    cache = [QuantizedKVCache(group_size=32, bits=8) for _ in wide.decoder.layers]
    tokens = mx.array(prompt.tokens)[None]
    near = wide.decoder(tokens, cache=cache, input_embeddings=wide.embed(prompt)[None])[0]
    error = mx.abs(near - exact).max().item()
    assert 0 < error < 0.15 * mx.abs(exact).max().item()


def test_trimmed_cache_gives_the_same_tokens_again(model, prompts, expected):
    cache = _prefilled(model, prompts[0])
    last = mx.array(prompts[0].tokens[-1:])
    for _ in range(2):
        steps = generate_step(last, model.decoder, max_tokens=NEW, prompt_cache=cache)
        assert [int(token) for token, _ in steps] == expected[0]
        extra = cache[0].offset - (len(prompts[0].tokens) - 1)
        trim_prompt_cache(cache, extra)
