"""Parity in float32 with transformers, through the golden arrays of `make_golden.py`."""

import cases
import checkpoints
import golden_checks
import mlx.core as mx
import numpy as np
import pytest
from golden_checks import Golden

import pixtral_mlx as px
from pixtral_mlx.model import attention

WITH_IMAGES = [name for name in cases.CASES if name != "text_only"]


@pytest.fixture(scope="module")
def golden_model(tmp_path_factory):
    """The model behind the golden arrays, from the official layout."""
    return golden_checks.load(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def goldens():
    """Case -> golden arrays."""
    return {name: Golden(name) for name in cases.CASES}


@pytest.mark.parametrize("name", cases.CASES)
def test_tokens_and_pixels(golden_model, goldens, name):
    golden_checks.check_inputs(golden_model, goldens[name])


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_vision_layers(golden_model, goldens, name):
    golden_checks.check_vision(golden_model, goldens[name], encode(golden_model, goldens[name]))


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_projector(golden_model, goldens, name):
    golden_checks.check_projector(golden_model, goldens[name])


@pytest.mark.parametrize("name", cases.CASES)
def test_merged_embeddings_and_decoder_layers(golden_model, goldens, name):
    golden_checks.check_decoder(golden_model, goldens[name], encode(golden_model, goldens[name]))


@pytest.mark.parametrize("name", cases.CASES)
def test_logits(golden_model, goldens, name):
    golden_checks.check_logits(golden_model, goldens[name], encode(golden_model, goldens[name]))


@pytest.mark.parametrize("name", cases.CASES)
def test_greedy_tokens(golden_model, goldens, name):
    golden_checks.check_greedy(golden_model, goldens[name], encode(golden_model, goldens[name]))


def encode(model, golden):
    """The prompt of a golden conversation."""
    return model.encode(golden.messages, image_options=golden_checks.OPTIONS)


def complex_turn(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Pairs (2j, 2j+1) as complex numbers, turned: how mistral-inference writes RoPE."""
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def test_rope_2d_is_the_complex_product_of_mistral_inference(golden_model):
    config, (rows, columns) = golden_model.config.vision, (3, 5)
    frequencies = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    row, column = np.mgrid[0:rows, 0:columns].reshape(2, -1, 1)
    angles = np.concatenate([row * frequencies[0::2], column * frequencies[1::2]], axis=-1)
    rope = golden_model.vision_encoder.rope
    ours = rope.angles([(rows, columns), (2, 2)])
    assert np.abs(np.array(ours)[:15] - angles).max() <= 1e-6
    assert np.array_equal(np.array(ours)[15], np.zeros(config.head_dim // 2))  # starts anew
    x = np.random.RandomState(0).standard_normal((1, 2, rows * columns, config.head_dim))
    turned = rope.rotate(mx.array(x.astype(np.float32)), mx.cos(ours[:15]), mx.sin(ours[:15]))
    assert np.abs(np.array(turned) - complex_turn(x, angles)).max() <= 2e-6


def test_rope_1d_is_the_complex_product_of_mistral_inference(golden_model):
    config = golden_model.config.text
    frequencies = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    x = np.random.RandomState(0).standard_normal((1, 2, 7, config.head_dim))
    angles = (40 + np.arange(7))[:, None] * frequencies
    rope = golden_model.decoder.layers[0].attention.rope
    turned = rope(mx.array(x.astype(np.float32)), 40)
    assert np.abs(np.array(turned) - complex_turn(x, angles)).max() <= 2e-5


@pytest.mark.parametrize("keys", ["hub", "v5"])
def test_hf_folders_give_the_same_logits(tmp_path, goldens, keys):
    model = px.load(checkpoints.make_hf(tmp_path, seed=cases.SEED, keys=keys), dtype="float32")
    for name in ("text_only", "two_images"):
        golden_checks.check_all(model, goldens[name])


@pytest.mark.parametrize("make", [checkpoints.make_official, checkpoints.make_hf])
def test_plain_nemo_folders_give_the_same_logits(tmp_path, goldens, make):
    model = px.load(make(tmp_path, seed=cases.SEED, vision=False), dtype="float32")
    assert model.vision_encoder is None
    golden_checks.check_all(model, goldens["text_only"])


@pytest.mark.parametrize("at_once", [1000, 25, 1])
def test_images_do_not_see_one_another(golden_model, monkeypatch, at_once):
    monkeypatch.setattr(attention, "PATCHES_AT_ONCE", at_once)
    sizes = [(40, 90), (64, 64), (200, 20), (16, 16)]
    parts = [cases.image(*size, seed=i) for i, size in enumerate(sizes)]
    images = golden_model.encode([cases.user(*parts)]).images
    together = golden_model.vision_encoder(images)
    alone = mx.concatenate([golden_model.vision_encoder([image]) for image in images])
    assert mx.abs(together - alone).max().item() <= 1e-5


def test_memory_of_many_images_grows_by_their_features_alone(golden_model, monkeypatch):
    """A mask or a map over all patches would grow with the square."""
    monkeypatch.setattr(attention, "PATCHES_AT_ONCE", 256)  # images of this size go one by one
    image = mx.array(golden_model.encode([cases.user(cases.image(256, 256))]).images[0])

    def peak_bytes(count: int) -> int:
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(golden_model.vision_encoder([image] * count))
        return mx.get_peak_memory() - before

    def usual_peak_bytes(count: int) -> int:
        """Of three runs: what is not needed any more is freed on another thread, at times late."""
        return sorted(peak_bytes(count) for _ in range(3))[1]

    features = golden_model.vision_encoder([image]).nbytes
    assert usual_peak_bytes(33) - usual_peak_bytes(3) < 1.2 * 30 * features


class JumpingCache:
    """A KV cache whose next position can be set: few keys, far apart."""

    def __init__(self):
        self.offset = 0
        self.keys = self.values = None

    def update_and_fetch(self, keys, values):
        """Appends, as the caches of mlx-lm do."""
        self.offset += keys.shape[2]
        old = self.keys is not None
        self.keys = mx.concatenate([self.keys, keys], axis=2) if old else keys
        self.values = mx.concatenate([self.values, values], axis=2) if old else values
        return self.keys, self.values

    def make_mask(self, length: int, **_):
        """Causal over the keys that are there, not over positions."""
        return "causal" if length > 1 else None


@pytest.fixture(scope="module")
def far_decoder(tmp_path_factory):
    """Decoder of the long-position checkpoint, head width 128 as in Pixtral 12B."""
    folder = tmp_path_factory.mktemp("long")
    return golden_checks.load(folder, text=cases.LONG_TEXT, vision=False).decoder


@pytest.mark.parametrize("start", cases.LONG_STARTS)
@pytest.mark.parametrize("step", [cases.LONG_TOKENS, 1], ids=["prefill", "one by one"])
def test_decoder_far_from_the_start(far_decoder, start, step):
    """Positions near 64k and 128k attend to the first 16 positions and to their neighbours.

    Angles are products of a position and a frequency in float32, in the reference as here. Near
    130k that alone is off by up to 0.009 radian on the second fastest pair, and moves these
    logits by 0.015 (rms 0.002) from what exact angles give, for torch and for us alike. So the
    strict tolerance is against torch in float32, and a wide one against exact angles.
    """
    with np.load(golden_checks.GOLDEN / "long.npz") as file:
        golden = dict(file)
    tokens = mx.array(golden["tokens"])[None]
    caches = [JumpingCache() for _ in far_decoder.layers]
    far_decoder(tokens[:, : cases.LONG_PREFIX], caches)
    for cache in caches:
        cache.offset = start
    places = range(cases.LONG_PREFIX, tokens.shape[1], step)
    parts = [far_decoder(tokens[:, i : i + step], caches) for i in places]
    ours = np.array(mx.concatenate(parts, axis=1)[0])
    for kind, allowed in (("float32", golden_checks.LOGITS), ("exact", (4e-2, 4e-3))):
        error = ours - golden[f"{kind}_{start}"]
        assert np.abs(error).max() <= allowed[0], kind
        assert np.sqrt((error**2).mean()) <= allowed[1], kind


def test_pixtral_large_with_its_sentencepiece_tokenizer(tmp_path):
    folder = checkpoints.make_official(
        tmp_path, tokenizer="spm", text={"dim": 64}, vision={"adapter_bias": False}
    )
    model = px.load(folder, dtype="float32")
    assert model.config.text.vocab_size == 32_768
    messages = [cases.user(cases.image(40, 20), cases.text("What is this?"))]
    prompt = model.encode(messages, image_options=golden_checks.OPTIONS)
    tokens, _ = cases.reference_tokens(folder / "tokenizer.model.v7m1", messages)
    assert prompt.tokens == tokens
    start = tokens.index(10)
    assert tokens[start : start + 8] == [10, 10, 10, 14, 10, 10, 10, 15]
    assert model.logits(prompt).shape == (len(tokens), 32_768)
    reply = model.generate(messages, max_tokens=4)
    assert len(reply.tokens) == 4
    assert isinstance(reply.text, str)
