"""A model and its adapter as one folder: what it computes, how it is stored, what is refused."""

import json

import adapters
import cases
import checkpoints
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_folders import make_mlx

import pixtral_mlx as px
from pixtral_mlx.cli import main
from pixtral_mlx.errors import CheckpointError
from pixtral_mlx.tuning.fuse import fuse

HEIR = {"text": {**checkpoints.MINISTRAL_TEXT}, "vision": checkpoints.HEIR_VISION, "seed": 1}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter for `folder`, and the folder of the same model with it added to the weights."""
    return adapters.adapted(tmp_path_factory.mktemp("adapter"), form="peft", dora=True)


def apart(first, second) -> float:
    return float(mx.abs(first - second).max().item())


def test_it_computes_what_the_adapter_did(folder, adapter, tmp_path, prompt):
    model = px.load(folder, adapter_path=adapter[0])
    fused = px.load(fuse(folder, adapter[0], tmp_path / "fused").folder)
    assert apart(fused.logits(prompt), model.logits(prompt)) < 1e-3
    assert apart(px.load(adapter[1]).logits(prompt), fused.logits(prompt)) < 1e-3
    assert apart(px.load(folder).logits(prompt), fused.logits(prompt)) > 0.1
    assert fused.generate("Hello", max_tokens=2).text is not None
    with pytest.raises(CheckpointError, match="already exists"):
        fuse(folder, adapter[0], tmp_path / "fused")


@pytest.mark.parametrize("tied", [False, True])
def test_of_models_that_merge_patches(tmp_path, tied):
    how = {**HEIR, "text": {**HEIR["text"], "tied_embeddings": tied}}
    official = checkpoints.make_official(tmp_path / "official", tokenizer="tekken-v13", **how)
    adapter, merged = adapters.adapted(tmp_path, form="mlx", tokenizer="tekken-v13", **how)
    fused = px.load(fuse(official, adapter, tmp_path / "fused").folder, "float32")
    prompt = fused.encode(cases.HEIRS["ministral"][2]())
    assert apart(fused.logits(prompt), px.load(merged, "float32").logits(prompt)) < 1e-3


@pytest.mark.parametrize("how", [{"bits": 4}, {}, {"dequantize": True}], ids=str)
def test_quantized_matrices_are_rounded_again_or_not(folder, adapter, tmp_path, prompt, how):
    """In their own groups and at least so many bits; others stay to the last bit."""
    scheme = {"group_size": 32, "bits": 8}
    other = {"language_model.model.layers.1.mlp.up_proj": {"group_size": 64, "bits": 4}}
    source = make_mlx(tmp_path / "source", quantization=scheme, overrides=other)
    (source / "tekken.json").write_bytes((folder / "tekken.json").read_bytes())
    model = px.load(source, adapter_path=adapter[0])
    done = fuse(source, adapter[0], tmp_path / "fused", **how)
    fused, plain = px.load(done.folder), px.load(source)
    most = {4: 2, 8: 0.5}.get(how.get("bits", 8), 2) if "dequantize" not in how else 1e-3
    assert apart(fused.logits(prompt), model.logits(prompt)) < most
    right = np.array(fused.logits(prompt).argmax(-1) == model.logits(prompt).argmax(-1))
    assert right.mean() > 0.8
    kinds = {type(module) for _, module in fused.named_modules()}
    assert (nn.QuantizedLinear in kinds) is ("dequantize" not in how)
    if "dequantize" not in how:
        stays = [each.decoder.tok_embeddings for each in (fused, plain)]
        assert mx.array_equal(stays[0].weight, stays[1].weight)
        matrix, bits = fused.decoder.layers[1].feed_forward, how.get("bits", 8)
        assert (matrix.w3.bits, matrix.w3.group_size, matrix.w1.bits) == (bits, 64, 8)
        said = json.loads((done.folder / "config.json").read_text())["quantization"]
        assert said["bits"] == 8
        assert said[next(iter(other))] == {"group_size": 64, "bits": bits, "mode": "affine"}


def test_formats_of_4_bits_become_8(folder, adapter, tmp_path, prompt):
    """Which mlx-lm's formats with one number of bits have none of: whole steps instead."""
    source = make_mlx(
        tmp_path / "source", quantization={"bits": 4, "mode": "nvfp4", "group_size": 16}
    )
    (source / "tekken.json").write_bytes((folder / "tekken.json").read_bytes())
    model = px.load(source, adapter_path=adapter[0])
    fused = px.load(fuse(source, adapter[0], tmp_path / "fused").folder)
    matrix = fused.decoder.layers[0].attention.wq
    assert (matrix.bits, matrix.group_size, matrix.mode) == (8, 32, "affine")
    assert apart(fused.logits(prompt), model.logits(prompt)) < 1
    with pytest.raises(ValueError, match="bits must be 2, 3, 4, 5, 6 or 8, got 7"):
        fuse(source, adapter[0], tmp_path / "x", bits=7)


def test_the_command(folder, adapter, tmp_path, capsys, refused):
    fused, peft = str(tmp_path / "fused"), str(tmp_path / "peft")
    ask = ["fuse", "-m", str(folder), "--adapter-path", str(adapter[0])]
    assert main([*ask, fused]) == 0 and main([*ask, peft, "--peft"]) == 0
    said = capsys.readouterr().out
    assert "32.00 bits per weight" in said and "matrices of rank 3, for PEFT" in said
    tokens = mx.arange(20, 50)[None]
    wanted = px.load(folder, adapter_path=adapter[0]).decoder(tokens)
    for found in (px.load(fused), px.load(folder, adapter_path=peft)):
        assert apart(found.decoder(tokens), wanted) < 1e-3
    refused(1, "already exists", *ask, fused)
    refused(2, "DST is empty", *ask, "")
    refused(1, "another model", "fuse", "--adapter-path", adapter[0], tmp_path / "x", "-m", "mini")
    assert not (tmp_path / "x").exists()
