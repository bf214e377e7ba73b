"""Conversion: the same numbers as whole matrices give, and nothing half-written."""

import gc
import json
from pathlib import Path

import checkpoints
import mlx.core as mx
import numpy as np
import pytest
import safetensors
from questions import noise

import pixtral_mlx as px
from pixtral_mlx.checkpoint import safetensors_io
from pixtral_mlx.errors import ConfigError
from pixtral_mlx.quantization import rounding
from pixtral_mlx.quantization.conversion import convert

PICTURE = noise(0, 80, 48)

MODES = [
    {"bits": 2},
    {"bits": 3, "group_size": 32},
    {"bits": 4},
    {"bits": 5, "group_size": 32},
    {"bits": 6},
    {"bits": 8, "group_size": 64},
    {"mode": "mxfp4"},
    {"mode": "mxfp8"},
    {"mode": "nvfp4"},
    {"recipe": "mixed_3_6"},
    {"bits": 4, "vision_bits": 8, "projector_bits": 6, "embed_bits": 16, "head_bits": 5},
]


def stored(folder):
    """Every tensor of a converted folder."""
    found = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        found |= mx.load(str(file))
    return found


def answer(folder, dtype="float32", images=(PICTURE,)):
    """(tokens, logits) of one request."""
    model = px.load(folder, dtype=dtype)
    prompt = model.encode("What is this?", images=list(images))
    return prompt.tokens, np.array(model.logits(prompt).astype(mx.float32))


@pytest.mark.parametrize("options", MODES, ids=str)
def test_slices_give_what_whole_matrices_give(official, tmp_path, monkeypatch, options):
    monkeypatch.setattr(rounding, "SLICE_BYTES", 5000)
    result = convert(official, tmp_path / "out", **options)
    written = stored(tmp_path / "out")
    params = checkpoints.official_params()
    tensors = checkpoints.hf_tensors(checkpoints.official_tensors(params), params)
    by_peer = {
        "language_model." + name if name.startswith("lm_head") else name: values
        for name, values in tensors.items()
    }
    for tensor in result.plan.tensors:
        theirs = tensor.theirs.replace("vision_tower.vision_model.", "vision_tower.")
        whole = mx.array(by_peer[theirs]).astype(mx.bfloat16)
        if tensor.name.endswith("patch_conv.weight"):
            whole = whole.transpose(0, 2, 3, 1)
        parts = mx.quantize(whole, **tensor.scheme.entry()) if tensor.scheme else (whole,)
        for output, expected in zip(tensor.outputs(), parts, strict=True):
            found = written.pop(output.name)
            assert found.dtype == expected.dtype and found.shape == expected.shape, output.name
            assert mx.array_equal(found, expected), output.name
    assert not written


@pytest.mark.parametrize("options", MODES, ids=str)
def test_every_kind_loads_and_answers(official, tmp_path, options):
    convert(official, tmp_path / "out", **options)
    model = px.load(tmp_path / "out")
    reply = model.generate("What is this?", images=[PICTURE], max_tokens=4)
    assert len(reply.tokens) == 4 or reply.finish_reason == "stop"
    again = px.load(tmp_path / "out").generate("What is this?", images=[PICTURE], max_tokens=4)
    assert again.tokens == reply.tokens


@pytest.mark.parametrize(
    "make",
    [
        lambda at: checkpoints.make_official(at),
        lambda at: checkpoints.make_official(at, shards=3),
        lambda at: checkpoints.make_hf(at, shards=2),
        lambda at: checkpoints.make_hf(at, keys="v5"),
        lambda at: checkpoints.make_official(at, text={"tied_embeddings": True}),
        lambda at: checkpoints.make_official(at, vision={"adapter_bias": False}),
        lambda at: checkpoints.make_official(at, tokenizer="spm"),
    ],
    ids=["official", "sharded", "hf", "hf v5", "tied", "no bias", "sentencepiece"],
)
def test_sixteen_bits_change_the_layout_and_nothing_else(tmp_path, make):
    source = make(tmp_path / "source")
    result = convert(source, tmp_path / "out", bits=16, dtype="float32")
    assert set(result.errors.values()) == {0.0}
    assert result.plan.quantization() is None
    assert "quantization" not in json.loads((tmp_path / "out" / "config.json").read_text())
    before, after = answer(source), answer(tmp_path / "out")
    assert before[0] == after[0]
    assert np.array_equal(before[1], after[1])


def test_weights_that_are_kept_in_fewer_bits_have_an_error(folder, tmp_path):
    errors = convert(folder, tmp_path / "out", bits=16).errors  # float32 in, bfloat16 out
    matrices = [errors[name] for name in errors if ".attention.w" in name]
    assert matrices and all(2**-11 < error < 2**-8 for error in matrices)


def test_a_converted_folder_is_a_source_too(folder, tmp_path):
    convert(folder, tmp_path / "one", bits=16, dtype="float32")
    convert(tmp_path / "one", tmp_path / "two", bits=16, dtype="float32")
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(mx.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_without_vision_is_written_as_mlx_lm_names_it(tmp_path, tied):
    text = {"tied_embeddings": tied}
    source = checkpoints.make_official(tmp_path / "source", vision=False, text=text)
    convert(source, tmp_path / "out", bits=4)
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["model_type"] == "mistral" and settings["tie_word_embeddings"] is tied
    assert settings["quantization"] == {"group_size": 64, "bits": 4, "mode": "affine"}
    names = stored(tmp_path / "out")
    assert "model.layers.0.self_attn.q_proj.scales" in names
    assert ("lm_head.weight" in names) is not tied
    mlx_lm = pytest.importorskip("mlx_lm.utils")
    theirs, _ = mlx_lm.load_model(tmp_path / "out")
    theirs.set_dtype(mx.float32)
    tokens, ours = answer(tmp_path / "out", images=())
    logits = np.array(theirs(mx.array(tokens)[None])[0])
    assert np.abs(logits - ours).max() < 2e-3


def test_the_folder_holds_what_mlx_vlm_reads(official, tmp_path):
    result = convert(official, tmp_path / "out", vision_bits=8)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "README.md", "SHA256SUMS", "chat_template.jinja", "config.json", "config.4.0.0.json",
        "model-00001-of-00001.safetensors", "model.safetensors.index.json",
        "preprocessor_config.json", "processor_config.json", "quantization_error.json",
        "tekken.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["model_type"] == "pixtral"
    assert settings["image_token_index"] == 10 and settings["eos_token_id"] == 2
    assert settings["quantization"] == settings["quantization_config"]
    assert settings["quantization"]["bits"] == 4
    eye = "vision_tower.vision_model.transformer.layers.0.attention.q_proj"
    assert settings["quantization"][eye]["bits"] == 8
    assert (tmp_path / "out" / "tekken.json").read_bytes() == (
        official / "tekken.json"
    ).read_bytes()
    for_transformers = json.loads((tmp_path / "out" / "config.4.0.0.json").read_text())
    assert for_transformers["model_type"] == "llava"
    assert settings["configuration_files"] == ["config.4.0.0.json"]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == stored(tmp_path / "out").keys()
    assert index["metadata"]["total_size"] == result.plan.nbytes
    assert f"{result.plan.bits_per_weight:.2f} bits" in (tmp_path / "out/README.md").read_text()


def test_weights_are_cut_into_files_of_the_size_asked(official, tmp_path):
    result = convert(official, tmp_path / "out", shard_bytes=100_000)
    files = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        tensors = {name.rpartition(".")[0] for name in safetensors_io.read_header(file)}
        assert file.stat().st_size <= 100_000 or len(tensors) == 1
    assert result.nbytes == sum(file.stat().st_size for file in files)
    convert(official, tmp_path / "one")
    assert np.array_equal(answer(tmp_path / "out")[1], answer(tmp_path / "one")[1])


def test_the_context_survives(tmp_path):
    checkpoints.make_official(tmp_path / "short", text={"max_seq_len": 100})
    convert(tmp_path / "short", tmp_path / "out")
    assert px.load(tmp_path / "out").config.text.max_seq_len == 100


def test_a_folder_with_the_shadows_that_macos_leaves_loads(official, tmp_path):
    convert(official, tmp_path / "out")
    for path in list((tmp_path / "out").iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07 not what it seems")
    (tmp_path / "out" / "._tokenizer.model.v7m1").write_bytes(b"\x00")
    assert answer(tmp_path / "out")[0]


def test_what_a_killed_run_left_is_removed_before_the_disk_is_measured(
    official, tmp_path, monkeypatch
):
    stale = tmp_path / ".out.partial-1"
    stale.mkdir()
    monkeypatch.setattr(
        "pixtral_mlx.quantization.conversion.check_disk", lambda *_: stale.exists() and 1 / 0
    )
    convert(official, tmp_path / "out")


def test_the_format_is_what_its_reference_reads(official, tmp_path):
    convert(official, tmp_path / "out", mode="mxfp4", shard_bytes=100_000)
    checked = 0
    for file in (tmp_path / "out").glob("*.safetensors"):
        reference = dict(safetensors.deserialize(file.read_bytes()))
        for name, info in safetensors_io.read_header(file).items():
            theirs = reference.pop(name)
            assert (theirs["dtype"], tuple(theirs["shape"])) == (info.dtype, info.shape)
            assert bytes(theirs["data"]) == file.read_bytes()[info.start : info.stop]
            checked += 1
        assert not reference
    assert checked == len(stored(tmp_path / "out"))


def test_errors_are_measured_and_saved(official, tmp_path):
    errors = {}
    for bits in (3, 4, 8):
        result = convert(official, tmp_path / str(bits), bits=bits)
        errors[bits] = result.errors["decoder.layers.1.feed_forward.w1.weight"]
        saved = json.loads((tmp_path / str(bits) / "quantization_error.json").read_text())
        rows = {row["tensor"]: row for row in saved["tensors"]}
        assert rows.keys() == result.errors.keys()
        assert rows["decoder.layers.1.feed_forward.w1.weight"]["bits"] == bits
        kept = rows["vision_encoder.patch_conv.weight"]
        assert kept["kept"] == "bfloat16" and kept["reason"] == "not a matrix"
        assert kept["relative_error"] == 0
    assert 0.001 < errors[8] < errors[4] / 8 < errors[3] / 15 < 0.02
    weight = checkpoints.official_tensors(checkpoints.official_params())
    exact = mx.array(weight["layers.1.feed_forward.w1.weight"]).astype(mx.bfloat16)
    weight, scales, biases = mx.quantize(exact, 64, 4)
    float32 = (a.astype(mx.float32) for a in (scales, biases))
    near = mx.dequantize(weight, *float32, group_size=64, bits=4)
    difference = (near - exact.astype(mx.float32)).square().sum()
    expected = (difference / exact.astype(mx.float32).square().sum()).sqrt().item()
    assert errors[4] == pytest.approx(expected, rel=1e-4)


def test_a_width_that_does_not_divide_is_kept_named_and_loads(tmp_path):
    source = checkpoints.make_official(tmp_path / "source", text={"hidden_dim": 200})
    result = convert(source, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "quantization_error.json").read_text())
    rows = {row["tensor"]: row for row in saved["tensors"]}
    name = "decoder.layers.0.feed_forward.w2.weight"
    assert rows[name]["reason"] == "width 200 is not a multiple of 64"
    assert rows["decoder.layers.0.feed_forward.w1.weight"]["bits"] == 4
    kept = {tensor.name for tensor in result.plan.tensors if tensor.reason.startswith("width")}
    assert kept == {f"decoder.layers.{n}.feed_forward.w2.weight" for n in range(3)}
    assert px.load(tmp_path / "out").generate("Hi", max_tokens=2).tokens


def test_quantizing_nothing_is_an_error_and_writes_nothing(tmp_path):
    sizes = {"dim": 32, "hidden_dim": 96, "n_heads": 2, "n_kv_heads": 1}
    source = checkpoints.make_official(tmp_path / "source", vision=False, text=sizes)
    with pytest.raises(ConfigError, match="--group-size 32"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert(source, tmp_path / "out", group_size=32)


def test_progress_counts_the_bytes_of_the_source(official, tmp_path, monkeypatch):
    monkeypatch.setattr(rounding, "SLICE_BYTES", 20_000)
    seen = []
    convert(official, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    total = sum(
        2 * a.size for a in checkpoints.official_tensors(checkpoints.official_params()).values()
    )
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) > 60


def test_the_collector_of_rubbish_is_as_it_was(official, tmp_path):
    assert gc.isenabled()
    convert(official, tmp_path / "out")
    assert gc.isenabled()
