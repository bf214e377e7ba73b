"""What fits, and how fast: the numbers of the view and those of a run."""

import checkpoints
import pytest
import traitlets
from views import answer_to

import pixtral_mlx_widgets as w
from pixtral_mlx.cost import CHIPS
from pixtral_mlx.model.config import PIXTRAL_12B
from pixtral_mlx.quantization.options import ConversionOptions
from pixtral_mlx.quantization.plan import plan_for


def test_the_12b_needs_no_model():
    view = w.MemoryView(chip="M3 Max", memory_gb=64, text_tokens=0)
    found = view.estimate()
    assert found["tokens"] == 4160 and found["grid"] == [64, 64]
    assert found["weights"] / 1e9 == pytest.approx(7.71, abs=0.005)
    assert found["kv"] == 4160 * 163_840
    assert found["read"] == pytest.approx(6.5125e9 + found["kv"], rel=1e-3)
    assert found["tokens_per_second"] == pytest.approx(400e9 / found["read"])
    assert found["operations"] == pytest.approx(101.6e12, rel=1e-3)
    assert found["prefill_seconds"] == pytest.approx(101.6e12 / (40 * 256 * 1.4e9), rel=1e-3)
    assert found["usable"] == 48 * 2**30 and found["fits"]
    assert found["activations"] + found["reserve"] == 2e9


def test_a_view_and_the_table_of_macs_say_the_same():
    """5 bits and one picture: not on 16 GB, where they would fit but for the reserve."""
    view = w.MemoryView(chip="M3 Pro", memory_gb=18, bits=5, text_tokens=1000)
    assert view.estimate()["fits"]
    view.chip = "M4"
    view.memory_gb = 16
    found = view.estimate()
    assert not found["fits"]
    assert found["weights"] + found["kv"] + found["activations"] <= found["usable"]


def test_sliders_change_what_they_say():
    view = w.MemoryView()
    one = view.estimate()
    view.images = 8
    eight = view.estimate()
    assert eight["tokens"] - one["tokens"] == 7 * 4160
    assert eight["kv"] - one["kv"] == 7 * 4160 * 163_840
    assert eight["tokens_per_second"] < one["tokens_per_second"]
    view.side = 512
    assert view.estimate()["image_tokens"] == 33 * 32
    view.text_tokens = 1200
    assert view.estimate()["tokens"] == 8 * 33 * 32 + 1200
    view.bits = 16
    assert view.estimate()["weights"] / 1e9 == pytest.approx(25.37, abs=0.005)
    view.chip = "M1"
    assert view.memory_gb == 16
    assert not view.estimate()["fits"]


def test_a_session_counts_its_own_bytes(pair):
    view = w.MemoryView(pair)
    assert view.bits == 0

    def held(model):
        from mlx.utils import tree_flatten

        return sum(array.nbytes for _, array in tree_flatten(model.parameters()))

    found = view.estimate()
    assert found["weights"] == pair.look(held).result()
    assert found["kv_per_token"] == 2 * 5 * 2 * 32 * 4  # float32
    view.bits = 4
    assert view.estimate()["weights"] == plan_for(pair.config, ConversionOptions(bits=4)).nbytes


def test_other_sizes_and_wrong_ones(tmp_path):
    folder = checkpoints.make_official(tmp_path / "small", dtype="bfloat16")
    assert w.MemoryView(str(folder)).estimate()["kv_per_token"] == 2 * 3 * 2 * 16 * 2
    assert w.MemoryView(PIXTRAL_12B).estimate()["context"] == 131_072
    with pytest.raises(TypeError, match="allowed: a Session"):
        w.MemoryView(3)
    with pytest.raises(ValueError, match="bits 0 is the model as it is loaded"):
        w.MemoryView(bits=0)
    view = w.MemoryView()
    with pytest.raises(traitlets.TraitError, match="side is 4; allowed: 16 or more"):
        view.side = 4
    with pytest.raises(traitlets.TraitError):
        view.chip = "M9"
    assert "a run needs a model" in answer_to(view, "measure")["problem"]


def test_a_run_is_measured(pair, monkeypatch):
    view = w.MemoryView(pair, side=128, images=2, text_tokens=50, prediction=10.0)
    asked, epoch = pair.prompt, pair.epoch
    monkeypatch.setattr("pixtral_mlx_widgets.memory_view.this_chip", lambda *_: CHIPS["M2"])
    assert 0 < view.estimate()["trial_seconds"] < 60
    view.do_measure()
    view.wait(120)
    assert view.problem == "" and view.work == {}
    found = view.measured
    # Two pictures of 8 x 9 tokens, 50 words, and what the template adds.
    assert 2 * 72 + 49 <= found["prompt_tokens"] <= 2 * 72 + 60
    assert found["tokens_per_second"] > 0 and found["prompt_seconds"] > 0
    context = found["prompt_tokens"] + 16
    bytes_read = view.estimate()["read"] - view.estimate()["kv"] + context * 2560
    assert found["gigabytes_per_second"] == pytest.approx(
        found["tokens_per_second"] * bytes_read / 1e9
    )
    assert found["bound"] == pytest.approx(100e9 / bytes_read)
    assert found["peak_bytes"] > view.estimate()["weights"]
    assert (pair.prompt, pair.epoch) == (asked, epoch)  # the conversation is left alone


def test_too_much_for_the_context_is_one_sentence(pair):
    view = w.MemoryView(pair, side=1024, images=4)
    view.do_measure()
    view.wait(60)
    assert "the context holds 8,192" in view.problem and view.measured == {}
