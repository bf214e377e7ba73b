"""What a run costs by arithmetic, against numbers that were worked out elsewhere."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

import pixtral_mlx as px
from pixtral_mlx import macs
from pixtral_mlx.config import PIXTRAL_12B
from pixtral_mlx.cost import (
    activation_bytes,
    decode_bytes,
    decoder_operations,
    prefill_operations,
    step_weight_bytes,
)
from pixtral_mlx.image import patch_grid
from pixtral_mlx.quantize import plan_for
from pixtral_mlx.schemes import check_options

GRID = patch_grid(1024, 1024, PIXTRAL_12B.vision)


def test_the_prefill_of_one_image_on_the_12b():
    total = prefill_operations(PIXTRAL_12B, GRID.tokens, [GRID])
    assert GRID.tokens == 4160
    assert total == pytest.approx(101.6e12, rel=5e-4)
    assert decoder_operations(PIXTRAL_12B.text, GRID.tokens) / total == pytest.approx(
        0.95, abs=5e-3
    )


def test_operations_of_a_small_decoder_are_those_counted_by_hand():
    text = px.TextConfig(
        dim=4, n_layers=2, head_dim=2, hidden_dim=5, n_heads=2, n_kv_heads=1,
        norm_eps=1e-5, rope_theta=1e4, vocab_size=9,
    )  # fmt: skip
    matrices = 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 3 * 4 * 5
    positions = 7
    # Scores and weighted sums, 4 wide, over half of 7 x 7; 2 operations each.
    attention = 2 * 2 * 4 * positions * positions / 2
    assert decoder_operations(text, positions) == 2 * (2 * positions * matrices + attention)


def test_a_text_prompt_needs_no_encoder():
    text = prefill_operations(PIXTRAL_12B, 100)
    assert text == decoder_operations(PIXTRAL_12B.text, 100)
    assert prefill_operations(PIXTRAL_12B, 100, [(2, 3)]) > text


def test_a_decode_step_of_the_12b_at_four_bits():
    plan = plan_for(PIXTRAL_12B, check_options(bits=4, group_size=64))
    weights = step_weight_bytes({tensor.name: tensor.nbytes for tensor in plan.tensors})
    assert weights == pytest.approx(6.51e9, rel=1e-3)
    assert decode_bytes(weights, PIXTRAL_12B.text, 4160) - weights == 4160 * 163_840


def test_of_the_embeddings_one_row_is_read_unless_they_are_the_output():
    sizes = {"decoder.tok_embeddings.weight": 10, "decoder.norm.weight": 1, "projector.w_in": 50}
    assert step_weight_bytes(sizes) == 11
    assert step_weight_bytes(sizes | {"decoder.output.weight": 7}) == 8


def test_a_plan_has_the_bytes_of_the_model_that_it_plans():
    model = px.quantized_copy(px.load("mini"), bits=4)
    held = {name: array.nbytes for name, array in tree_flatten(model.parameters())}
    plan = plan_for(model.config, check_options(bits=4))
    planned = {tensor.name: tensor.nbytes for tensor in plan.tensors}
    assert sum(held.values()) == plan.nbytes
    assert step_weight_bytes(held) == step_weight_bytes(planned)


def test_activations_grow_with_images_and_not_with_the_text_beyond_a_step():
    one = activation_bytes(PIXTRAL_12B, 4160, [GRID])
    assert one == 2 * 4096 * (2 * 1024 + 3 * 4096 + 1024)
    # Large images are encoded one by one; of the others, what the projector waits for.
    assert activation_bytes(PIXTRAL_12B, 1, [GRID, GRID]) - one == 2 * 4096 * 1024
    small = [(10, 10)] * 30
    assert activation_bytes(PIXTRAL_12B, 1, small) == 2 * (1000 * 14 * 1024 + 3000 * 1024)
    text = activation_bytes(PIXTRAL_12B, 512)
    assert activation_bytes(PIXTRAL_12B, 1024) - text == 2 * 512 * 5120


def test_the_estimate_is_of_the_size_that_is_measured():
    """In the encoder, where attention is small beside the inner activations."""
    config = px.VisionConfig(
        hidden_size=256, num_channels=3, image_size=1024, patch_size=16, rope_theta=1e4,
        intermediate_size=4096, num_hidden_layers=2, num_attention_heads=2, image_token_id=10,
    )  # fmt: skip
    from pixtral_mlx.vision import VisionEncoder

    encoder = VisionEncoder(config)
    mx.eval(encoder.parameters())
    whole = px.PixtralConfig(PIXTRAL_12B.text, config)
    images = [mx.random.normal((3, 128, 128)) for _ in range(8)]
    mx.eval(images)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(encoder(images))
    measured = mx.get_peak_memory() - before
    estimate = activation_bytes(whole, 0, [(8, 8)] * 8, itemsize=4)
    assert 0.6 < measured / estimate < 1.7


def test_chips():
    chip = macs.CHIPS["M4 Max"]
    assert (chip.gigabytes_per_second, max(chip.memory_gb)) == (546, 128)
    assert chip.operations_per_second == 40 * 256 * 1.58e9
    assert macs.this_chip("Apple M2 Pro") == macs.CHIPS["M2 Pro"]
    assert macs.this_chip("Intel") is None
    assert macs.usable_bytes(36) == 24 * 2**30
    assert macs.usable_bytes(64) == 48 * 2**30
    # Within a generation the larger chip reads faster.
    for letter in "1234":
        speeds = [c.gigabytes_per_second for name, c in macs.CHIPS.items() if name[1] == letter]
        assert speeds == sorted(speeds)
