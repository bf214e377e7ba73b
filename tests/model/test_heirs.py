"""Models that inherited Pixtral's encoder against transformers: patches merged before the
projector, YaRN beyond the original context, queries that grow, tied embeddings."""

import cases
import checkpoints
import golden_checks
import numpy as np
import pytest

import pixtral_mlx as px
from pixtral_mlx.model.config import Yarn
from pixtral_mlx.model.rope import stretched


def make(kind, folder, name):
    """The folder of an heir: "official" or "hf"."""
    seed, text, _ = cases.HEIRS[name]
    how = {"text": text, "vision": checkpoints.HEIR_VISION, "seed": seed, "tokenizer": "tekken-v13"}
    return getattr(checkpoints, f"make_{kind}")(folder, **how)


@pytest.mark.parametrize("kind", ["official", "hf"])
@pytest.mark.parametrize("name", cases.HEIRS)
def test_every_point_is_that_of_transformers(tmp_path, name, kind):
    model = px.load(make(kind, tmp_path, name), dtype="float32")
    golden_checks.check_all(model, golden_checks.Golden(name))


@pytest.fixture(scope="module")
def ministral(tmp_path_factory):
    """Patches merged, YaRN and growing queries, far beyond the original context of 32 tokens."""
    return px.load(make("official", tmp_path_factory.mktemp("heir"), "ministral"), dtype="float32")


def questions():
    """Pictures of different sizes and prompts of different lengths."""
    return [
        [cases.user(cases.image(60, 50, seed=1), cases.text("What is this? " * 4))],
        [cases.user(cases.text("Short."))],
        [cases.user(cases.image(30, 120, seed=2), cases.image(90, 30, seed=3), cases.text("And?"))],
    ]


def test_a_batch_answers_as_each_alone(ministral):
    """Rows of a batch stand at positions of their own, by which their queries grow."""
    alone = [ministral.generate(q, max_tokens=12, reuse=False) for q in questions()]
    together = ministral.generate_batch(questions(), max_tokens=12)
    assert [reply.tokens for reply in together] == [reply.tokens for reply in alone]


def test_what_is_kept_is_gone_on_with(ministral):
    """A picture that is known is not encoded again, wherever the prompts part."""
    ministral.clear_cache()
    picture = cases.image(60, 90, seed=4)
    first = ministral.generate([cases.user(picture, cases.text("What?"))], max_tokens=4)
    again = [cases.user(picture, cases.text("What else is there?"))]
    found = ministral.generate(again, max_tokens=12)
    assert found.stats.cached_tokens > first.stats.image_tokens
    assert found.tokens == ministral.generate(again, max_tokens=12, reuse=False).tokens


@pytest.mark.parametrize("prefill_step_size", [7, 512])
def test_prompts_are_read_in_parts(ministral, prefill_step_size):
    (messages, *_) = questions()
    found = ministral.generate(
        messages, max_tokens=6, prefill_step_size=prefill_step_size, reuse=False
    )
    assert found.tokens == ministral.generate(messages, max_tokens=6, reuse=False).tokens


def test_maps_have_a_cell_a_patch_in_the_encoder_and_a_cell_a_token_in_the_decoder(ministral):
    (messages, *_) = questions()
    trace = ministral.generate(messages, max_tokens=3, trace=True).trace
    (rows, columns) = trace.prompt.grids[0]
    assert (rows, columns) == (2, 3) and trace.prompt.merge == 2
    assert trace.prompt.images[0].shape == (3, rows * 28, columns * 28)
    seen = trace.vision_attention(1, (3, 5))
    assert seen.shape == (4, 6) and seen.sum() == pytest.approx(1)
    looked = trace.image_attention(0)
    assert looked.shape == (2, 3) and 0 < looked.sum() < 1
    with pytest.raises(IndexError, match="rows 0 to 3 and columns 0 to 5"):
        trace.vision_attention(1, (4, 0))


def test_a_tap_keeps_the_encoders_patches_and_the_projectors_tokens(ministral):
    prompt = ministral.encode(questions()[2])
    states = px.TraceOptions(states=["vision.0", "projector"])
    trace = ministral.generate(prompt, max_tokens=1, trace=states).trace
    tokens = sum(grid.patches for grid in prompt.grids)
    assert trace.states["projector"].shape[0] == tokens
    assert trace.states["vision.0"].shape[0] == 4 * tokens
    assert prompt.patch_range(1) == range(4 * prompt.grids[0].patches, 4 * tokens)
    assert prompt.feature_range(1) == range(prompt.grids[0].patches, tokens)


def test_masking_a_cell_masks_what_one_token_shows(ministral):
    messages = questions()[2]
    prompt = ministral.encode(messages)
    mask = [px.edits.MaskPatches([(0, 1)], image=1)]
    plain = np.array(ministral.features(prompt))
    hidden = ministral.generate(
        prompt, max_tokens=1, edits=mask, trace=px.TraceOptions(states=["projector"])
    ).trace.states["projector"]
    changed = np.flatnonzero(np.abs(np.array(hidden) - plain).max(axis=1) > 1e-6)
    assert changed.tolist() == [prompt.feature_range(1).start + 1]
    assert ministral.occlusion_map(messages, 0).shape == prompt.grids[0]


def test_a_trace_is_read_again(ministral, tmp_path):
    trace = ministral.generate(questions()[2], max_tokens=2, trace=True).trace
    trace.save(tmp_path / "kept.safetensors")
    read = px.open_trace(tmp_path / "kept.safetensors")
    assert read.prompt.merge == 2
    for image in (0, 1):
        same = trace.vision_attention(0, 0, image=image), read.vision_attention(0, 0, image=image)
        assert np.array_equal(*same)
        assert np.array_equal(
            trace.image_attention(1, image=image), read.image_attention(1, image=image)
        )


@pytest.mark.parametrize("hf", [False, True], ids=["official", "hf"])
def test_fp8_weights_are_what_they_stand_for(tmp_path, hf):
    seed, text, messages = cases.HEIRS["ministral"]
    how = {"text": text, "vision": checkpoints.HEIR_VISION, "seed": seed, "tokenizer": "tekken-v13"}
    make_one = checkpoints.make_hf if hf else checkpoints.make_official
    params = checkpoints.official_params(text=text, vision=checkpoints.HEIR_VISION)
    tensors = checkpoints.official_tensors(params, seed=seed)
    tensors = checkpoints.hf_tensors(tensors, params) if hf else tensors
    packed = make_one(tmp_path / "fp8", **how)
    rounded = checkpoints.make_fp8(packed, tensors, hf=hf)
    plain = make_one(tmp_path / "plain", **how)
    (file,) = plain.glob("*.safetensors")
    checkpoints.write_safetensors(file, rounded)
    expected = px.load(plain, dtype="float32")
    found = px.load(packed, dtype="float32")
    prompt = expected.encode(messages())
    assert np.array_equal(np.array(found.logits(prompt)), np.array(expected.logits(prompt)))
    px.convert(packed, tmp_path / "a", bits=4, group_size=32, dtype="float32")
    px.convert(plain, tmp_path / "b", bits=4, group_size=32, dtype="float32")
    for one in sorted((tmp_path / "a").glob("*.safetensors")):
        assert one.read_bytes() == (tmp_path / "b" / one.name).read_bytes()


@pytest.mark.parametrize(
    ("head_dim", "theta", "yarn", "frequencies"),
    [
        (128, 1e6, Yarn(16.0, 16_384), [
            1.0, 0.1778279, 0.03162278, 0.004382954, 0.0003382353, 1.111425e-05, 1.976423e-06,
            3.514633e-07,
        ]),
        (64, 1e4, Yarn(8.0, 4096, beta=24.0, alpha=2.0), [
            1.0, 0.3162278, 0.1, 0.02885579, 0.005625, 0.0006719842, 0.000125, 3.952847e-05,
        ]),
    ],
)  # fmt: skip
def test_frequencies_are_stretched_as_by_transformers(head_dim, theta, yarn, frequencies):
    waves = stretched(theta ** (np.arange(0, head_dim, 2) / head_dim), yarn, theta)
    assert (1 / waves)[:: head_dim // 16] == pytest.approx(frequencies, rel=1e-6)


@pytest.mark.parametrize("version", ["v7", "v11", "v13"])
def test_tokens_and_pixels_are_those_of_mistral_common(tmp_path, version):
    """Newer templates, in which a system prompt has words of its own."""
    folder = checkpoints.make_official(
        tmp_path, tokenizer=f"tekken-{version}", vision=checkpoints.HEIR_VISION
    )
    messages = [
        {"role": "system", "content": "Be brief."},
        cases.user(cases.text("First:"), cases.image(50, 35, seed=6)),
        {"role": "assistant", "content": "Stripes."},
        cases.user(cases.image(200, 1700, seed=7), cases.text("And now? [IMG] stays text.")),
    ]
    prompt = px.load(folder, dtype="float32").encode(messages, image_options=golden_checks.OPTIONS)
    tokens, images = cases.reference_tokens(folder / "tekken.json", messages)
    assert prompt.tokens == tokens
    assert prompt.grids[1].rows == 1540 // 28
    for ours, theirs in zip(prompt.images, images, strict=True):
        assert np.abs(ours - theirs).max() <= golden_checks.PIXELS[0]
