"""Checkpoints: the same model from every layout, quantized ones, and lazy reading."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from checkpoints import (
    change_json,
    make_hf,
    make_official,
)
from mlx_folders import AFFINE, SCHEMES, make_mlx

from pixtral_mlx.checkpoint.checkpoint import open_checkpoint
from pixtral_mlx.checkpoint.names import MINI, resolve, shown_name
from pixtral_mlx.errors import CheckpointError
from pixtral_mlx.model.prompt import Prompt
from pixtral_mlx.pixtral import load

IMAGE = np.random.RandomState(0).standard_normal((3, 32, 48)).astype(np.float32)
TOKENS = [1, 3, 10, 10, 10, 12, 10, 10, 10, 13, 300, 301, 4]


def logits(model, *, images=True):
    prompt = Prompt(TOKENS, [IMAGE]) if images else Prompt([1, 3, 300, 301, 4])
    return model.logits(prompt)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("layouts")
    return {
        "official": make_official(root / "official"),
        "official sharded": make_official(root / "official-sharded", shards=3),
        "hf": make_hf(root / "hf"),
        "hf v5 sharded": make_hf(root / "hf-v5", keys="v5", shards=4),
        "hf v5.4": make_hf(root / "hf-v54", keys="v5.4"),
        "mlx": make_mlx(root / "mlx"),
    }


@pytest.fixture(scope="module")
def expected(folders):
    return logits(load(folders["official"]))


# The same model from every layout --------------------------------------------------------------


@pytest.mark.parametrize("name", ["official sharded", "hf", "hf v5 sharded", "hf v5.4", "mlx"])
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


@pytest.mark.parametrize("group", [{"group_size": None}, {}])
def test_a_group_size_of_null_is_one_that_is_not_there(tmp_path, group):
    """mlx-lm writes it into the overrides of its mixed recipes."""
    finer = {"group_size": 64, "bits": 6}
    head, value = "language_model.lm_head", "language_model.model.layers.0.self_attn.v_proj"
    folder = make_mlx(
        tmp_path, quantization={"group_size": 64, "bits": 4}, overrides={head: finer, value: finer}
    )
    before = logits(load(folder))
    null = {**group, "bits": 6, "mode": None}
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] |= {head: null, value: null}
    change_json(folder / "config.json", quantization=config["quantization"])
    assert open_checkpoint(folder).schemes["decoder.output"] == (6, 64, "affine")
    assert mx.array_equal(logits(load(folder)), before)
    del config["quantization"]["group_size"]
    general = {**config["quantization"], **group, "quant_method": None}
    change_json(folder / "config.json", quantization=None, quantization_config=general)
    assert mx.array_equal(logits(load(folder)), before)


def test_bits_of_null_are_those_of_the_mode(tmp_path):
    scheme = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    folder = make_mlx(tmp_path, quantization=scheme)
    null = {"group_size": None, "bits": None, "mode": "mxfp4"}
    change_json(folder / "config.json", quantization=null)
    assert open_checkpoint(folder).schemes["decoder.output"] == (4, 32, "mxfp4")


def test_quantized_plain_nemo(tmp_path):
    folder = make_mlx(tmp_path, quantization=AFFINE, vision=False)
    assert open_checkpoint(folder).layout == "hf"
    assert isinstance(load(folder).decoder.output, nn.QuantizedLinear)


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


# Hub ids ---------------------------------------------------------------------------------------


def test_what_is_a_hub_id(tmp_path, monkeypatch):
    asked = []

    def fetch(name, *, revision):
        asked.append((name, revision))
        return tmp_path

    monkeypatch.setattr("pixtral_mlx.checkpoint.hub.fetch", fetch)
    assert resolve("mistralai/Pixtral-12B-2409") == tmp_path
    assert asked == [("mistralai/Pixtral-12B-2409", None)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert resolve("owner/name") == Path("owner/name")
    for name in ("./owner/other", "nobody", "a/b/c", "/owner/other", "~/other", ""):
        with pytest.raises(CheckpointError, match="no such folder"):
            resolve(name)
    assert len(asked) == 1
    assert resolve(Path("owner/name")) == Path("owner/name")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("models/my-pixtral", "my-pixtral"),
        (
            "hub/models--mistral-community--pixtral-12b/snapshots/0abc",
            "mistral-community/pixtral-12b",
        ),
    ],
)
def test_a_model_is_called_what_its_folder_is_called(tmp_path, monkeypatch, folder, name):
    (tmp_path / folder).mkdir(parents=True)
    assert shown_name(tmp_path / folder) == name
    monkeypatch.chdir(tmp_path / folder)
    assert shown_name(".") == name
    assert shown_name("mini") == shown_name(MINI) == "pixtral-mini"
    assert shown_name("owner/name") == "owner/name"
