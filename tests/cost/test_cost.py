"""What a run costs by arithmetic, against numbers that were worked out elsewhere."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import pixtral_mlx as px
from pixtral_mlx.cost import chips, machine
from pixtral_mlx.cost.buffers import BUFFER_BYTES
from pixtral_mlx.cost.cost import (
    activation_bytes,
    decode_bytes,
    decoder_operations,
    prefill_operations,
    step_weight_bytes,
)
from pixtral_mlx.engine.capacity import RESERVE_BYTES
from pixtral_mlx.model import device
from pixtral_mlx.model.config import PIXTRAL_12B, PIXTRAL_12B_VISION
from pixtral_mlx.model.prompt import patch_grid
from pixtral_mlx.quantization.options import ConversionOptions
from pixtral_mlx.quantization.plan import plan_for
from pixtral_mlx.random_model import random_model, scaled

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
    plan = plan_for(PIXTRAL_12B, ConversionOptions(bits=4, group_size=64))
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
    plan = plan_for(model.config, ConversionOptions(bits=4))
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
    from pixtral_mlx.model.vision import VisionEncoder

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
    chip = chips.CHIPS["M4 Max"]
    assert (chip.gigabytes_per_second, max(chip.memory_gb)) == (546, 128)
    assert chip.operations_per_second == 40 * 256 * 1.58e9
    assert chips.this_chip("Apple M2 Pro") == chips.CHIPS["M2 Pro"]
    assert chips.this_chip("Intel") is None
    assert chips.expected_usable_bytes(36) == 24 * 2**30
    assert chips.expected_usable_bytes(64) == 48 * 2**30
    # Within a generation the larger chip reads faster.
    for letter in "123456":
        speeds = [c.gigabytes_per_second for name, c in chips.CHIPS.items() if name[1] == letter]
        assert speeds == sorted(speeds) and speeds


def test_the_table_of_which_mac_is_what_its_script_prints():
    place = Path(__file__).parents[2] / "benchmarks" / "which_mac.py"
    spec = importlib.util.spec_from_file_location("which_mac", place)
    which_mac = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(which_mac)
    for place, found, table in which_mac.TABLES:
        assert [match[0] for match in found.finditer(place.read_text())] == [table()]
    page = " ".join(which_mac.MACS_PAGE.read_text().split())
    assert f"the KV cache of {which_mac.TEXT_TOKENS:,} tokens of text" in page
    assert f"a reserve of {RESERVE_BYTES / 1e9:g} GB" in page
    assert f"at most {BUFFER_BYTES / 1e9:g} GB of freed" in page


def test_every_chip_that_was_sold_is_there_with_its_source():
    names = {chip.name.split(",")[0] for chip in chips.CHIPS.values()}
    kinds = ("", " Pro", " Max", " Ultra")
    made = {f"M{n}{kind}" for n in range(1, 6) for kind in kinds} - {"M4 Ultra"}  # never made
    assert made <= names
    for chip in chips.CHIPS.values():
        assert chip.source.startswith("https://")
        if chip.name != "M1":
            assert "apple.com/" in chip.source
    # Published: 75 % more than the M3 Pro, 50 % more than the M3 Ultra.
    assert chips.CHIPS["M4 Pro"].gigabytes_per_second / 1.75 == pytest.approx(156, abs=7)
    assert chips.CHIPS["M5 Ultra"].gigabytes_per_second / 1.5 == pytest.approx(819, rel=0.03)


@pytest.mark.parametrize("name", ["M3 Max", "M4 Max", "M5 Max"])
def test_memory_tells_the_two_bandwidths_of_a_name_apart(name):
    slow, fast = (chip for chip in chips.CHIPS.values() if chip.name.split(",")[0] == name)
    assert slow.gigabytes_per_second < fast.gigabytes_per_second
    assert not set(slow.memory_gb) & set(fast.memory_gb)
    for chip in (slow, fast):
        for size in chip.memory_gb:
            assert chips.this_chip(f"Apple {name}", size * 2**30) == chip
    assert chips.this_chip(f"Apple {name}") == fast


def test_the_bandwidth_of_a_machine(monkeypatch):
    assert machine.machine_bandwidth(4800)[:2] == (4800, "given")
    with pytest.raises(ValueError, match=r"^bandwidth must be above 0, got -1$"):
        machine.machine_bandwidth(-1)
    monkeypatch.setattr(machine, "COPY_BYTES", 2**22)
    for gpu in (False, True):  # by NumPy, and where MLX computes
        with device.assumed(gpu=gpu):
            assert 0.05 < machine.copy_speed() < 5000
    # On a Mac the chip's name and memory decide, if its GPU computes.
    mac = {"device_name": "Apple M4 Max", "memory_size": 36 * 2**30}
    monkeypatch.setattr(mx, "device_info", lambda: mac)
    with device.assumed(gpu=False):
        found = machine.machine_bandwidth()
        assert found.kind == "measured" and "copies of 4 MB" in found.source
    with device.assumed(gpu=True):
        found = machine.machine_bandwidth()
    assert (found.gigabytes_per_second, found.kind) == (410, "published")
    assert found.source.startswith("M4 Max, 32 cores: https://support.apple.com/")


def test_the_precision_of_float32_products_is_measured(monkeypatch):
    def product_of(mantissa_bits):
        """A product whose inputs keep so many bits of their mantissa, as TF32's keep 10."""

        def rounded(array):
            whole = np.array(array).view(np.uint32).astype(np.uint64)
            drop = 23 - mantissa_bits
            return mx.array(
                (((whole + (1 << (drop - 1))) >> drop) << drop).astype(np.uint32).view(np.float32)
            )

        return lambda self, other: multiply(rounded(self), rounded(other))

    here = px.machine()
    assert here.float32_products in ("float32", "TF32")
    assert here.facts()["float32_error"] == here.float32_error > 0
    multiply = mx.matmul
    for bits, expected in ((22, "float32"), (10, "TF32"), (7, "less than TF32")):
        machine._float32_error.cache_clear()
        monkeypatch.setattr(mx.array, "__matmul__", product_of(bits))
        assert px.machine().float32_products == expected
    machine._float32_error.cache_clear()


def test_a_random_model_is_one_of_a_conversion():
    small = replace(
        PIXTRAL_12B.text, dim=128, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=32, hidden_dim=256
    )
    eye = replace(
        PIXTRAL_12B_VISION, hidden_size=64, intermediate_size=128, num_hidden_layers=4,
        num_attention_heads=2,
    )  # fmt: skip
    config = px.PixtralConfig(small, eye)
    half = scaled(config, 0.5)
    assert (half.text.n_layers, half.vision.num_hidden_layers) == (2, 2)
    assert (scaled(config, 0.01).text.n_layers, half.text.dim) == (1, 128)
    with pytest.raises(ValueError, match=r"^share must be above 0 and at most 1, got 1\.5$"):
        scaled(config, 1.5)
    model = random_model(config, dtype="float32")
    leaves = dict(tree_flatten(model.parameters()))
    plan = plan_for(config, ConversionOptions(bits=4, dtype="float32"))
    assert sum(array.nbytes for array in leaves.values()) == plan.nbytes
    logits = np.array(model.decoder(mx.array([[1, 500, 9]])))
    features = np.array(model.projector(model.vision_encoder([mx.ones((3, 32, 48))])))
    assert np.isfinite(logits).all() and 0.1 < logits.std() < 30
    assert np.isfinite(features).all() and 0.01 < features.std() < 30
    weight = leaves["decoder.layers.0.feed_forward.w1.weight"]
    assert len(set(np.array(weight).ravel().tolist())) > weight.size / 2
