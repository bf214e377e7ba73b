"""Activations beyond what float16 holds: what computes them, and what is said where it cannot.

A residual stream may be scaled as a whole, since every layer normalises it first: pixtral-mini with
residuals of hundreds of thousands gives the answers of pixtral-mini. In float16 it cannot.
"""

import json
import re
import shutil

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import make_official
from mlx.utils import tree_flatten

import pixtral_mlx as px
from pixtral_mlx.checkpoint.checkpoint import Precision, precision
from pixtral_mlx.cli import main
from pixtral_mlx.engine.capacity import weights_bytes
from pixtral_mlx.interpret.activations import largest_activations
from pixtral_mlx.mini import CHECKPOINT, scene
from pixtral_mlx.model.tap import Tap

DECODER = ("tok_embeddings", "wo.weight", "w2.weight", "adapter.w_out.weight", "adapter.w_out.bias")
ENCODER = ("ln_pre", "wo.weight", "w2.weight")


def scaled_mini(folder, where, dtype=mx.bfloat16):
    """pixtral-mini with a residual stream 512 times as large, in "decoder" or "encoder"."""
    shutil.copytree(CHECKPOINT, folder)
    file = folder / "consolidated.safetensors"
    weights = dict(mx.load(str(file)))
    for name, array in weights.items():
        vision = name.startswith("vision_encoder.")
        if where == "decoder" and not vision and name.endswith(DECODER):
            weights[name] = 512 * array
        elif where == "encoder" and vision and any(part in name for part in ENCODER):
            weights[name] = 4096 * array
        elif where == "encoder" and name.endswith("adapter.w_in.weight"):
            weights[name] = array / 4096
        weights[name] = weights[name].astype(dtype)
    mx.eval(weights)
    mx.save_safetensors(str(file), weights)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("large")
    return {where: scaled_mini(place / where, where) for where in ("decoder", "encoder")}


@pytest.fixture(scope="module")
def question():
    return scene(2_000_002, rows=3, columns=4).questions[2]


def ask(model, question, **options):
    return model.generate(question.text, images=question.images, reuse=False, **options)


def on(chip, monkeypatch):
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": f"Apple {chip}"})


@pytest.mark.parametrize("where", ["decoder", "encoder"])
def test_float16_names_another_type_before_damage(folders, mini, question, where):
    plain = ask(mini, question)
    assert plain.text == question.answer
    exact = ask(px.load(folders[where], dtype="float32"), question)
    assert exact.tokens == plain.tokens
    np.testing.assert_allclose(exact.logprobs, plain.logprobs, atol=1e-3)
    assert ask(px.load(folders[where]), question).text == question.answer  # bfloat16, as stored
    small = px.load(folders[where], dtype="float16")
    with pytest.raises(px.CheckpointError, match="NaN in float16, which ends at 65,504") as caught:
        ask(small, question)
    line = str(caught.value)
    assert line.index("--dtype bfloat16") < line.index("inspect --check")


def test_auto_keeps_encoder_and_projector_out_of_float16(folders, question, monkeypatch):
    on("M1", monkeypatch)
    model = px.load(folders["encoder"], dtype="auto")
    assert model.decoder.norm.weight.dtype == model.decoder.output.weight.dtype == mx.float16
    parts = (model.vision_encoder.parameters(), model.projector.parameters())
    assert {array.dtype for _, array in tree_flatten(parts)} == {mx.bfloat16}
    reply = ask(model, question, trace=True)
    assert reply.text == question.answer
    assert model.embed(reply.trace.prompt).dtype == mx.float16
    with pytest.raises(px.CheckpointError, match="--dtype bfloat16"):
        ask(px.load(folders["decoder"], dtype="auto"), question)
    on("M3 Pro", monkeypatch)
    assert ask(px.load(folders["decoder"], dtype="auto"), question).text == question.answer


def test_what_else_reads_an_answer_says_so_too(folders, question):
    """A batch, a comparison, an occlusion map: none gives NaN, and a batch goes on."""
    small, large = (px.load(folders["encoder"], dtype=kind) for kind in ("float16", "bfloat16"))
    prompt = small.encode(question.text, question.images)
    error, reply = small.generate_batch([prompt, "Hello?"], max_tokens=3, return_errors=True)
    assert isinstance(error, px.CheckpointError) and "--dtype bfloat16" in str(error)
    assert len(small.prompt_cache) == 1  # nothing kept of what is NaN
    assert reply.text == small.generate("Hello?", max_tokens=3).text  # no picture, nothing large
    tokens = ask(large, question).tokens
    for first, second in ((small, large), (large, small)):
        with pytest.raises(px.CheckpointError, match="--dtype bfloat16"):
            px.compare_runs(first, prompt, tokens, other=second)
    with pytest.raises(px.CheckpointError, match="--dtype bfloat16"):
        small.occlusion(prompt, 0, [(0, 0)], tokens=tokens)
    assert np.isfinite(large.occlusion(prompt, 0, [(0, 0)], tokens=tokens))


def test_damage_in_float16_ends_with_the_weights(tmp_path, question):
    model = px.load("mini", dtype="float16")
    model.decoder.norm.weight = model.decoder.norm.weight * float("nan")
    with pytest.raises(px.CheckpointError, match="if that does not help, look for damaged weights"):
        ask(model, question, max_tokens=1)


def test_a_quantized_copy_computes_its_parts_as_its_model_does(folders, question, monkeypatch):
    on("M2 Max", monkeypatch)
    model = px.load(folders["encoder"], dtype="auto")
    copy = px.quantized_copy(model, bits=8, vision_bits=8)
    assert copy.vision_encoder.layers[0].attention.wq.scales.dtype == mx.bfloat16
    assert copy.decoder.layers[0].attention.wq.scales.dtype == mx.float16
    assert ask(copy, question).text == question.answer
    assert (
        px.quantized_copy(model, dtype="float32").vision_encoder.ln_pre.weight.dtype == mx.float32
    )


def test_conversations_of_auto_and_of_float16_are_two(tmp_path, monkeypatch):
    on("M1 Ultra", monkeypatch)
    assert str(precision("auto")) == "float16, vision bfloat16"
    assert str(precision("float16")) == "float16" and str(precision(None)) == "None"
    assert precision("bfloat16") == Precision(mx.bfloat16, mx.bfloat16)
    for dtype, cached in (("auto", 0), ("float16", 0), ("auto", 1)):
        model = px.load("mini", dtype=dtype)
        model.open_prompt_cache(tmp_path / "kept")
        reply = model.generate("What is this?", max_tokens=3)
        assert bool(reply.stats.cached_tokens) == cached


# inspect --check -------------------------------------------------------------------------------


def inspected(folder, capsys, *flags):
    assert main(["inspect", str(folder), "--check", *flags]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("where", ["decoder", "encoder"])
def test_inspect_tells_how_large_activations_become(folders, where, capsys):
    plain = json.loads(inspected("mini", capsys, "--json"))["activations"]
    report = json.loads(inspected(folders[where], capsys, "--json"))["activations"]
    assert (plain["float16"], report["float16"]) == ("fits", "overflows")
    assert (report["dtype"], report["picture"], report["tokens"]) == ("bfloat16", [512, 384], 801)
    layers = [f"vision.{n}" for n in range(4)] + [f"text.{n}" for n in range(5)]
    layers += ["vision.embeddings", "text.embeddings", "projector"]
    assert report["largest"].keys() == set(layers)
    factor = {"decoder": ("text", 512), "encoder": ("vision", 4096)}[where]
    for site, most in report["largest"].items():
        large = site.startswith(factor[0]) or (where == "decoder" and site == "projector")
        assert most == pytest.approx(plain["largest"][site] * (factor[1] if large else 1), rel=0.05)
    text = inspected(folders[where], capsys)
    assert re.search("layer +encoder +decoder", text)
    assert re.search(rf"^4 +{report['largest']['text.4']:,.1f}$", text, re.MULTILINE)
    first = "projector" if where == "decoder" else "encoder layer 0"
    assert re.search(rf"{first} reaches [\d,]+: float16 ends at 65,504: use bfloat16 or", text)


def test_what_is_stored_in_float16_is_measured_all_the_same(folders, tmp_path, capsys):
    folder = scaled_mini(tmp_path / "half", "decoder", mx.float16)
    stored = json.loads(inspected(folders["decoder"], capsys, "--json"))["activations"]
    report = json.loads(inspected(folder, capsys, "--json"))["activations"]
    assert report["dtype"] == "bfloat16" and report["largest"] == stored["largest"]


def test_what_the_table_says_is_what_the_layers_give(mini):
    """Against a pass of its own, in float32."""
    prompt = mini.encode("Hi?", [scene(3, rows=2, columns=2).image])
    seen = {}
    tap = Tap(
        prompt, record=lambda site, value, _: seen.__setitem__(str(site), np.abs(value).max())
    )
    mini.decoder.hidden(mx.array(prompt.tokens)[None], None, mini.embed(prompt, tap)[None], tap)
    steps = []
    found = largest_activations(mini, prompt, lambda *step: steps.append(step))
    assert steps == [(n, 9) for n in range(1, 10)]
    for site, most in found.items():
        own = [site, *(f"{site}.{what}" for what in ("queries", "keys", "heads"))]
        assert most == pytest.approx(max(float(seen[s]) for s in own if s in seen), rel=1e-5)


def test_a_check_holds_one_layer_at_a_time(tmp_path):
    text = {"dim": 512, "hidden_dim": 2048, "n_layers": 12}
    model = px.load(make_official(tmp_path / "deep", text=text), dtype="float32")
    prompt = model.encode("Hi?")
    whole = weights_bytes(model)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    largest_activations(model, prompt)
    assert mx.get_peak_memory() - before < whole / 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vision": False}, "on a question, "),
        ({"tokenizer": None}, "activations not looked at: "),
    ],
)
def test_models_without_eyes_or_words_are_checked_too(tmp_path, capsys, options, said):
    text = inspected(make_official(tmp_path / "model", **options), capsys)
    assert said in text and not re.search("layer +encoder", text)


def test_a_layer_that_computes_infinity_is_named(folders):
    model = px.load(folders["decoder"], dtype="float16")
    with pytest.raises(px.CheckpointError, match="projector holds NaN or infinity"):
        largest_activations(model, model.encode("Hi?", [scene(3, rows=2, columns=2).image]))
