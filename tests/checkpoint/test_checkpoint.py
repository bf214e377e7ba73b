"""Checkpoints: the same model from every layout, quantized ones, lazy reading, and bad folders."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from checkpoints import (
    hf_config,
    hf_tensors,
    make_hf,
    make_official,
    official_params,
    official_tensors,
    write_safetensors,
)

from pixtral_mlx.checkpoint.checkpoint import find_non_finite, open_checkpoint
from pixtral_mlx.checkpoint.names import resolve
from pixtral_mlx.errors import CheckpointError, ConfigError
from pixtral_mlx.model.prompt import Prompt
from pixtral_mlx.pixtral import load

IMAGE = np.random.RandomState(0).standard_normal((3, 32, 48)).astype(np.float32)
TOKENS = [1, 3, 10, 10, 10, 12, 10, 10, 10, 13, 300, 301, 4]


def logits(model, *, images=True):
    prompt = Prompt(TOKENS, [IMAGE]) if images else Prompt([1, 3, 300, 301, 4])
    return model.logits(prompt)


def make_mlx(
    folder, *, quantization=None, overrides=None, text=None, vision=None, dtype=mx.float32
):
    """A folder as mlx-vlm writes it, made without the package: MLX names, quantized on request.

    `overrides` are {their module path: dict or False}; every other matrix, embedding included, is
    quantized by `quantization`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    params = official_params(text=text, vision=vision)
    config = hf_config(params)
    if vision is not False:
        config["model_type"] = "pixtral"
    stored = {}
    for name, values in hf_tensors(official_tensors(params), params).items():
        name = name.replace("vision_tower.", "vision_tower.vision_model.")
        array = mx.array(values).astype(dtype)
        array = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
        module = name.rpartition(".")[0]
        how = (overrides or {}).get(module, quantization)
        if array.ndim != 2 or not how:
            stored[name] = array
            continue
        parts = mx.quantize(array, **how)
        stored |= dict(zip((name, f"{module}.scales", f"{module}.biases"), parts, strict=False))
    if quantization:
        config["quantization"] = {**quantization, **(overrides or {})}
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), stored)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("layouts")
    return {
        "official": make_official(root / "official"),
        "official sharded": make_official(root / "official-sharded", shards=3),
        "hf": make_hf(root / "hf"),
        "hf v5 sharded": make_hf(root / "hf-v5", keys="v5", shards=4),
        "mlx": make_mlx(root / "mlx"),
    }


@pytest.fixture(scope="module")
def expected(folders):
    return logits(load(folders["official"]))


# The same model from every layout --------------------------------------------------------------


@pytest.mark.parametrize("name", ["official sharded", "hf", "hf v5 sharded", "mlx"])
def test_every_layout_gives_the_same_logits(folders, expected, name):
    assert open_checkpoint(folders[name]).layout == name.split()[0]
    assert mx.array_equal(logits(load(str(folders[name]))), expected)


@pytest.mark.parametrize("make", [make_official, make_hf, make_mlx])
def test_tied_embeddings(tmp_path, make):
    model = load(make(tmp_path / "tied", text={"tied_embeddings": True}))
    assert "output" not in model.decoder
    official = load(make_official(tmp_path / "official", text={"tied_embeddings": True}))
    assert mx.array_equal(logits(model), logits(official))


def test_a_stored_output_matrix_wins_over_tied(tmp_path, expected):
    folder = make_hf(tmp_path)
    change_json(folder / "config.json", tie_word_embeddings=True)
    config = json.loads((folder / "config.json").read_text())
    change_json(
        folder / "config.json", text_config={**config["text_config"], "tie_word_embeddings": True}
    )
    assert mx.array_equal(logits(load(folder)), expected)


def test_no_adapter_bias(tmp_path):
    model = load(make_official(tmp_path / "official", vision={"adapter_bias": False}))
    other = load(make_hf(tmp_path / "hf", vision={"adapter_bias": False}))
    assert mx.array_equal(logits(model), logits(other))


def test_plain_nemo_folders(tmp_path):
    official = load(make_official(tmp_path / "official", vision=False))
    hf = load(make_hf(tmp_path / "hf", vision=False))
    assert official.vision_encoder is None and official.projector is None
    assert mx.array_equal(logits(hf, images=False), logits(official, images=False))


def test_an_mlx_folder_without_vision_answers_text(tmp_path, folders):
    folder = make_mlx(tmp_path)
    arrays = mx.load(str(folder / "model.safetensors"))
    kept = {name: array for name, array in arrays.items() if name.startswith("language_model.")}
    mx.save_safetensors(str(folder / "model.safetensors"), kept)
    model = load(folder)
    assert model.vision_encoder is None
    expected = logits(load(folders["official"]), images=False)
    assert mx.array_equal(logits(model, images=False), expected)


def test_harmless_extras_and_a_torch_convolution_in_an_mlx_folder(tmp_path, expected):
    folder = make_mlx(tmp_path)
    arrays = mx.load(str(folder / "model.safetensors"))
    name = "vision_tower.vision_model.patch_conv.weight"
    arrays[name] = arrays[name].transpose(0, 3, 1, 2)
    arrays["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = mx.zeros((8,))
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    assert mx.array_equal(logits(load(folder)), expected)


def test_both_layouts_in_one_folder_read_the_official_one(tmp_path, expected):
    make_hf(tmp_path, seed=5)
    assert open_checkpoint(make_official(tmp_path)).layout == "official"
    assert mx.array_equal(logits(load(tmp_path)), expected)


# Quantized folders -----------------------------------------------------------------------------

AFFINE = {"group_size": 32, "bits": 4}
SCHEMES = [
    AFFINE,
    {"group_size": 64, "bits": 3, "mode": "affine"},
    {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    {"group_size": 16, "bits": 4, "mode": "nvfp4"},
    {"group_size": 32, "bits": 8, "mode": "mxfp8"},
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.get('mode', 'affine')}-{s['bits']}")
def test_quantized_folders(tmp_path, folders, scheme):
    model = load(make_mlx(tmp_path, quantization=scheme))
    official = load(folders["official"])
    nn.quantize(official, **scheme)
    assert isinstance(model.decoder.tok_embeddings, nn.QuantizedEmbedding)
    assert isinstance(model.vision_encoder.layers[0].attention.wq, nn.QuantizedLinear)
    difference = mx.abs(logits(model) - logits(official)).max().item()
    assert difference < 1e-4


def test_overrides_by_every_spelling(tmp_path):
    finer = {"group_size": 32, "bits": 8}
    overrides = {
        "language_model.lm_head": finer,
        "language_model.model.layers.1.self_attn.q_proj": finer,
        "language_model.model.embed_tokens": False,
        "multi_modal_projector.linear_1": False,
    }
    folder = make_mlx(tmp_path, quantization={**AFFINE, "mode": "affine"}, overrides=overrides)
    config = json.loads((folder / "config.json").read_text())
    quantization = config["quantization"]
    before = logits(load(folder))
    for old, new in {
        "language_model.lm_head": "lm_head",
        "language_model.model.layers.1.self_attn.q_proj": "model.layers.1.self_attn.q_proj",
        "language_model.model.embed_tokens": "model.language_model.embed_tokens",
    }.items():
        quantization[new] = quantization.pop(old)
    change_json(folder / "config.json", quantization=quantization)
    opened = open_checkpoint(folder)
    assert opened.schemes["decoder.output"].bits == 8
    assert opened.schemes["decoder.layers.1.attention.wq"].bits == 8
    assert opened.schemes["decoder.layers.0.attention.wq"].bits == 4
    assert not {"decoder.tok_embeddings", "projector.w_in"} & set(opened.schemes)
    assert mx.array_equal(logits(load(folder)), before)


def test_quantized_plain_nemo(tmp_path):
    folder = make_mlx(tmp_path, quantization=AFFINE, vision=False)
    assert open_checkpoint(folder).layout == "hf"
    assert isinstance(load(folder).decoder.output, nn.QuantizedLinear)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quantization": {**AFFINE, "mode": "magic"}}, "mode 'magic'; allowed: affine, "),
        ({"quantization": {**AFFINE, "bits": 7}}, "bits 7 in groups of 32; affine allows bits"),
        ({"quantization": {"group_size": 64, "bits": 4, "mode": "mxfp4"}}, "mxfp4 allows bits 4"),
        ({"quantization": {**AFFINE, "lm_head": {"bits": 9}}}, "decoder.output has bits 9"),
        ({"quantization": {**AFFINE, "language_model.model.norm": AFFINE}}, "cannot be quantized"),
        ({"quantization": {**AFFINE, "bits": 8}}, "of another shape or type"),
        ({"quantization": None, "quantization_config": {"quant_method": "fp8"}}, "'fp8' is not"),
        ({"quantization": "4bit"}, "'4bit' is not known"),
        ({"quantization": None}, "tensors not in a model of this configuration"),
    ],
)  # fmt: skip
def test_unknown_quantization(tmp_path, settings, said):
    folder = make_mlx(tmp_path, quantization=AFFINE)
    change_json(folder / "config.json", **settings)
    assert said in refusal(folder)


# Types and laziness ----------------------------------------------------------------------------


def test_dtype_of_what_is_not_packed(tmp_path):
    folder = make_mlx(tmp_path, quantization=AFFINE, dtype=mx.bfloat16)
    stored, changed = load(folder), load(folder, "float32")
    for model, dtype in ((stored, mx.bfloat16), (changed, mx.float32)):
        layer = model.decoder.layers[0]
        assert layer.attention.wq.weight.dtype == mx.uint32
        assert layer.attention.wq.scales.dtype == layer.attention_norm.weight.dtype == dtype
        assert logits(model).dtype == dtype
    assert load(folder, dtype=mx.float16).decoder.norm.weight.dtype == mx.float16
    with pytest.raises(CheckpointError, match="dtype is 'int8'; allowed: bfloat16"):
        load(folder, dtype="int8")


def test_one_byte_scales_stay(tmp_path):
    folder = make_mlx(tmp_path, quantization=SCHEMES[2], dtype=mx.bfloat16)
    model = load(folder, "float32")
    assert model.decoder.layers[0].attention.wq.scales.dtype == mx.uint8
    assert model.decoder.norm.weight.dtype == mx.float32


def test_official_weights_stay_bfloat16(tmp_path):
    model = load(make_official(tmp_path, dtype="bfloat16"))
    assert logits(model).dtype == mx.bfloat16


def test_text_requests_never_read_the_vision_weights(tmp_path):
    # 63 tensors in 21 files: the 30 of the decoder are in the first ten.
    folder = make_official(tmp_path, shards=21)
    vision = {r.file for n, r in open_checkpoint(folder).tensors.items() if "decoder" not in n}
    assert vision == {folder / f"consolidated-{n:05d}-of-00021.safetensors" for n in range(11, 22)}
    model = load(folder)
    for file in vision:
        file.write_bytes(b"")
    mx.eval(logits(model, images=False))
    with pytest.raises(RuntimeError, match="read"):
        mx.eval(logits(model))


def test_every_byte_is_accounted_for(folders):
    for folder in folders.values():
        opened = open_checkpoint(folder)
        headers = sum(
            8 + int.from_bytes(ref.read_bytes()[:8], "little")
            for ref in {tensor.file for tensor in opened.tensors.values()}
        )
        files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        assert opened.nbytes == files - headers


# Bad folders: one line that names what is wrong --------------------------------------------------


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    line = str(caught.value)
    assert "\n" not in line
    return line


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


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
        (b"<!DOCTYPE html><html>", "header length"),
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


# Hub ids ---------------------------------------------------------------------------------------


def test_what_is_a_hub_id(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "pixtral_mlx.checkpoint.hub.fetch", lambda name: asked.append(name) or tmp_path
    )
    assert resolve("mistralai/Pixtral-12B-2409") == tmp_path
    assert asked == ["mistralai/Pixtral-12B-2409"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert resolve("owner/name") == Path("owner/name")
    for name in ("./owner/other", "nobody", "a/b/c", "/owner/other", "~/other", ""):
        with pytest.raises(CheckpointError, match="no such folder"):
            resolve(name)
    assert len(asked) == 1
    assert resolve(Path("owner/name")) == Path("owner/name")
