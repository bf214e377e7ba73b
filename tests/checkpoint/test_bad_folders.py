"""Bad folders: one line that names what is wrong."""

import json

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import (
    change_json,
    make_hf,
    make_official,
    official_params,
    official_tensors,
    write_safetensors,
)
from mlx_folders import AFFINE, SCHEMES, make_mlx

from pixtral_mlx.checkpoint.checkpoint import find_non_finite, open_checkpoint
from pixtral_mlx.checkpoint.names import resolve
from pixtral_mlx.errors import CheckpointError, ConfigError
from pixtral_mlx.pixtral import load


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    line = str(caught.value)
    assert "\n" not in line
    return line


def rewrite(folder, change, *, seed=0):
    """Write an official checkpoint again after `change(tensors)`."""
    tensors = official_tensors(official_params(), seed=seed)
    change(tensors)
    write_safetensors(folder / "consolidated.safetensors", tensors)


def test_no_folder_empty_folder_and_files(tmp_path):
    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "an empty folder" in refusal(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"")
    assert "a file, not a model folder" in refusal(tmp_path / "weights.safetensors")


def test_mini_is_in_the_package():
    assert open_checkpoint(resolve("mini")).layout == "official"


def test_no_configuration(tmp_path):
    folder = make_official(tmp_path / "official")
    (folder / "params.json").unlink()
    assert "consolidated.safetensors is there without params.json" in refusal(folder)
    folder = make_hf(tmp_path / "hf")
    (folder / "config.json").unlink()
    assert "without params.json (official layout) or config.json" in refusal(folder)


def test_broken_configuration(tmp_path):
    folder = make_official(tmp_path)
    change_json(folder / "params.json", n_layers=None)
    with pytest.raises(ConfigError, match="missing n_layers"):
        load(folder)
    (folder / "params.json").write_text("{")
    with pytest.raises(ConfigError, match="not readable as JSON"):
        load(folder)


def test_pickles_are_refused_by_name(tmp_path):
    folder = make_hf(tmp_path)
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "consolidated.00.pth"):
        (folder / name).write_bytes(b"\x80\x04")
    line = refusal(folder)
    assert "only pickled weights (consolidated.00.pth, pytorch_model.bin)" in line
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04\x00\x00\x08\x08" + bytes(60))
    assert "a pickled PyTorch file" in refusal(folder)
    (folder / "model.safetensors").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    assert "a pickled PyTorch file" in refusal(folder)


def test_no_weights(tmp_path):
    folder = make_hf(tmp_path)
    (folder / "model.safetensors").unlink()
    assert "no weights (.safetensors)" in refusal(folder)


def header(entries, data=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"1234", "too short for safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page saved under this name"),
        (bytes(16), "header length 0 "),
        ((1 << 62).to_bytes(8, "little") + b"{}", "header length 4611686018427387904"),
        ((1000).to_bytes(8, "little") + b"{}", "truncated inside its header"),
        (header(b"{]"), "the header is not valid JSON"),
        (header(b"\xff\xff\xff"), "the header is not valid JSON"),
        (header(b"[" * 100_000), "the header is not valid JSON"),
        (header(b'{"a": 1, "a": 2}'), "a name appears twice"),
        (header(b"[1]"), "not a JSON object"),
        (header({"a": 3}), "'a' has a malformed header entry"),
        (header({"a": entry(shape=[-2])}), "malformed"),
        (header({"a": entry(shape=[True, 2])}), "malformed"),
        (header({"a": entry(dtype="F33")}, bytes(8)), "dtype 'F33'; allowed: BOOL"),
        (header({"a": entry(shape=[3])}, bytes(8)), "spans 8 bytes, but F32 (3,) takes 12"),
        (header({"a": entry()}, bytes(7)), "truncated"),
        (header({"a": entry()}, bytes(9)), "1 bytes after the last tensor"),
        (header({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "starts at byte"),
        (header({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "starts at byte"),
    ],
)
def test_files_that_are_not_sound(tmp_path, content, said):
    folder = make_official(tmp_path)
    (folder / "consolidated.safetensors").write_bytes(content)
    line = refusal(folder)
    assert said in line
    assert "consolidated.safetensors" in line


def test_a_truncated_download(tmp_path):
    folder = make_official(tmp_path)
    file = folder / "consolidated.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert "truncated (" in refusal(folder)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors"]
)
def test_an_index_that_leads_elsewhere(tmp_path, name):
    folder = make_hf(tmp_path / "hf", shards=2)
    change_json(folder / "model.safetensors.index.json", weight_map={"a": name})
    assert f"names the file {name!r}" in refusal(folder)


def test_missing_shards_and_broken_indexes(tmp_path):
    folder = make_hf(tmp_path, shards=4)
    (folder / "model-00002-of-00004.safetensors").unlink()
    line = refusal(folder)
    assert "1 of 4 weight files" in line and "(model-00002-of-00004.safetensors)" in line
    for file in folder.glob("*.safetensors"):
        file.unlink()
    assert "4 of 4 weight files" in refusal(folder)
    change_json(folder / "model.safetensors.index.json", weight_map=[])
    assert "no weight_map" in refusal(folder)


def test_missing_tensors_are_named(tmp_path):
    folder = make_official(tmp_path)

    def change(tensors):
        for name in [name for name in tensors if ".wq." in name]:
            del tensors[name]

    rewrite(folder, change)
    line = refusal(folder)
    assert (
        "6 of 63 tensors missing (vision_encoder.transformer.layers.0.attention.wq.weight," in line
    )
    assert "and 3 more" in line


def test_extra_tensors_are_named(tmp_path):
    folder = make_official(tmp_path)
    rewrite(folder, lambda t: t.update({"layers.0.lora.weight": np.zeros((2, 2), np.float32)}))
    assert "1 tensor not in a model of this configuration (layers.0.lora.weight)" in refusal(folder)
    rewrite(folder, lambda tensors: None)
    change_json(folder / "params.json", n_layers=2)
    line = refusal(folder)
    assert "9 tensors not in a model" in line and "layers.2.attention" in line


def test_misshapen_tensors_are_named(tmp_path):
    folder = make_official(tmp_path)
    rewrite(folder, lambda t: t.update({"norm.weight": np.zeros((3,), np.float32)}))
    line = refusal(folder)
    assert (
        "1 tensor of another shape or type (norm.weight: F32 [3], not BF16 or F16 or F32 [128])"
        in line
    )


def test_a_tensor_in_two_files(tmp_path):
    folder = make_hf(tmp_path)
    file = folder / "model.safetensors"
    (folder / "model-copy.safetensors").write_bytes(file.read_bytes())
    assert "is in model-copy.safetensors and in model.safetensors" in refusal(folder)


def test_another_architecture(tmp_path):
    folder = make_official(tmp_path)
    write_safetensors(
        folder / "consolidated.safetensors", {"wte.weight": np.zeros((2, 2), np.float32)}
    )
    assert "no tensor has a Pixtral name (wte.weight)" in refusal(folder)
    change_json(make_hf(tmp_path / "hf") / "config.json", model_type="gpt2")
    with pytest.raises(ConfigError, match="model_type is 'gpt2'"):
        load(tmp_path / "hf")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quantization": {**AFFINE, "mode": "magic"}}, "mode 'magic'; allowed: affine, "),
        ({"quantization": {**AFFINE, "bits": 7}}, "bits 7 in groups of 32; affine allows bits"),
        ({"quantization": {"group_size": 64, "bits": 4, "mode": "mxfp4"}}, "mxfp4 allows bits 4"),
        ({"quantization": {**AFFINE, "lm_head": {"bits": 9}}}, "decoder.output has bits 9"),
        ({"quantization": {**AFFINE, "language_model.model.norm": AFFINE}}, "cannot be quantized"),
        ({"quantization": {**AFFINE, "bits": 8}}, "of another shape or type"),
        ({"quantization": None, "quantization_config": {"quant_method": "gptq"}}, "'gptq' is not"),
        ({"quantization": None, "quantization_config": {
            "quant_method": "fp8", "weight_block_size": [128, 128]}}, "a scale for each block of"),
        ({"quantization": "4bit"}, "'4bit' is not known"),
        ({"quantization": None}, "tensors not in a model of this configuration"),
    ],
)  # fmt: skip
def test_unknown_quantization(tmp_path, settings, said):
    folder = make_mlx(tmp_path, quantization=AFFINE)
    change_json(folder / "config.json", **settings)
    assert said in refusal(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_weights_are_found(tmp_path, value):
    folder = make_official(tmp_path)

    def change(tensors):
        tensors["layers.1.attention.wv.weight"][3, 5] = value

    rewrite(folder, change)
    found = [name for name, bad in find_non_finite(open_checkpoint(folder)) if bad]
    assert found == ["layers.1.attention.wv.weight"]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.get('mode', 'affine')}-{s['bits']}")
def test_sound_quantized_weights_are_finite(tmp_path, scheme):
    folder = make_mlx(tmp_path, quantization=scheme)
    assert not any(bad for _, bad in find_non_finite(open_checkpoint(folder)))
    arrays = mx.load(str(folder / "model.safetensors"))
    name = "language_model.lm_head.scales"
    wrong = 0xFF if arrays[name].dtype == mx.uint8 else float("nan")
    arrays[name][0, 0] = wrong
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    assert [n for n, bad in find_non_finite(open_checkpoint(folder)) if bad] == [name]
