"""Adapters: what a model computes with one, whoever wrote it, and what is refused."""

import json
import logging
import shutil

import adapters
import cases
import checkpoints
import mlx.core as mx
import numpy as np
import pytest
from mlx_folders import AFFINE, make_mlx

import pixtral_mlx as px
from pixtral_mlx.checkpoint.adapter_files import open_adapter, write_adapter, write_peft
from pixtral_mlx.cli import main
from pixtral_mlx.errors import CheckpointError, PixtralError

HEIR = {"seed": 1, "text": checkpoints.MINISTRAL_TEXT, "vision": checkpoints.HEIR_VISION}
MODELS = {
    "pixtral": ({"seed": 11, "text": {"n_layers": 2}}, "tekken", cases.CASES["two_images"]),
    "ministral": (HEIR, "tekken-v13", cases.HEIRS["ministral"][2]),
}


@pytest.fixture
def adapter(tmp_path):
    """An adapter of mlx-lm's for `folder`; of the test's own, to be spoiled."""
    return adapters.adapted(tmp_path, form="mlx")[0]


def close(found, wanted) -> bool:
    return float(np.abs(np.array(found) - np.array(wanted)).max()) < 1e-3


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("form", ["mlx", "peft"])
@pytest.mark.parametrize("which", MODELS)
def test_logits_are_those_of_the_weights_that_it_was_added_to(tmp_path, which, form, dora):
    """Read, and written again in both forms."""
    how, tokenizer, messages = MODELS[which]
    official = checkpoints.make_official(tmp_path / "official", tokenizer=tokenizer, **how)
    adapter, merged = adapters.adapted(tmp_path, form=form, dora=dora, tokenizer=tokenizer, **how)
    model = px.load(official, "float32", adapter_path=adapter)
    prompt = model.encode(messages())
    wanted = px.load(merged, "float32").logits(prompt)
    assert close(model.logits(prompt), wanted)
    assert not close(px.load(official, "float32").logits(prompt), wanted)

    opened = open_adapter(official, adapter, model.config)
    write_adapter(tmp_path / "again", opened, model.config, {"more": "entries"})
    write_peft(tmp_path / "peft", opened, model.config)
    settings = json.loads((tmp_path / "again/adapter_config.json").read_text())
    assert (settings["fine_tune_type"], settings["num_layers"]) == (
        "dora" if dora else "lora",
        model.config.text.n_layers,
    )
    assert settings["more"] == "entries"
    for name in ("again", "peft"):
        again = px.load(official, "float32", tmp_path / name)
        assert mx.array_equal(again.logits(prompt), model.logits(prompt))
    theirs = adapters.stored(adapter)
    ours = adapters.stored(tmp_path / ("again" if form == "mlx" else "peft"))
    moved = {name.replace("language_model.model", "model.language_model") for name in ours}
    assert len(theirs) == len(ours) == len(moved)
    for name, array in theirs.items():
        name = name.replace("language_model.model", "model.language_model")
        name = name.replace("model.multi_modal", "model.model.multi_modal")
        assert mx.array_equal(array, ours[name] if form == "peft" else ours[_mlx(name)])


def _mlx(name: str) -> str:
    return name.replace("model.language_model", "language_model.model")


def test_mlx_lm_opens_the_text_part(tmp_path):
    """Its own loader, on a folder in MLX's layout, computes the same logits."""
    from mlx_lm.utils import load_adapters, load_model

    folder = make_mlx(tmp_path / "model")
    adapter, _ = adapters.adapted(tmp_path, form="mlx", vision=False)
    model = px.load(folder, "float32", adapter)
    write_adapter(tmp_path / "ours", open_adapter(folder, adapter, model.config), model.config)
    theirs = load_adapters(load_model(folder)[0], str(tmp_path / "ours"))
    tokens = mx.arange(30, 60)[None]
    assert close(theirs(tokens), model.decoder(tokens))
    assert not close(theirs(tokens), px.load(folder, "float32").decoder(tokens))


@pytest.mark.parametrize("scheme", [AFFINE, {"bits": 3, "group_size": 64}], ids=["4", "3"])
def test_quantized_weights_stay_and_the_adapter_is_added(tmp_path, scheme):
    """As many numbers apart from the unquantized model with the adapter as without it."""
    folder = make_mlx(tmp_path / "model", quantization=scheme)
    adapter, _ = adapters.adapted(tmp_path, form="mlx", dora=True)
    model = px.load(folder, "float32", adapter)
    layer, plain = model.decoder.layers[1].attention.wq, px.load(folder, "float32")
    inner = plain.decoder.layers[1].attention.wq
    assert mx.array_equal(layer.linear.weight, inner.weight)
    weight = mx.dequantize(inner.weight, inner.scales, inner.biases, inner.group_size, inner.bits)
    changed = weight + layer.scale * (layer.lora_a @ layer.lora_b).T
    changed = changed * (layer.m / mx.linalg.norm(changed, axis=1))[:, None]
    x = mx.random.normal((2, 128), key=mx.random.key(0))
    assert close(layer(x), x @ changed.T)
    with pytest.raises(CheckpointError, match="fuse it"):
        px.quantized_copy(model)


def test_another_model_is_one_line(adapter, tmp_path, refused):
    other = checkpoints.make_official(tmp_path / "other", text={"dim": 64})
    said = "the adapter belongs to another model"
    refused(1, said, "generate", "-m", other, "--adapter-path", adapter, "-p", "Hello")
    refused(1, "no such folder", "chat", "-m", other, "--adapter-path", tmp_path / "nowhere")
    refused(2, "leave out --random", "bench", "--random", "0.1", "--adapter-path", adapter)


FAULTS = {
    "fine_tune_type is 'full'": lambda s, t: s.update(fine_tune_type="full"),
    "has no lora_parameters": lambda s, t: s.pop("lora_parameters"),
    "scale must be a number": lambda s, t: s["lora_parameters"].update(scale="2"),
    "scale must be above 0": lambda s, t: s["lora_parameters"].update(scale=float("-inf")),
    "incomplete": lambda s, t: t.pop(next(n for n in t if n.endswith("lora_b"))),
    "do not fit this model (language_model.model.layers.99": lambda s, t: t.update(
        {"language_model.model.layers.99.self_attn.q_proj.lora_a": mx.zeros((128, 3))}
    ),
    "do not fit this model (vision_tower.patch_conv.lora_a": lambda s, t: t.update(
        {"vision_tower.patch_conv.lora_a": mx.zeros((128, 3))}
    ),
    "beside a matrix [64, 128]": lambda s, t: _replace(t, "q_proj.lora_a", mx.zeros((127, 3))),
    "beside a matrix [32, 128]": lambda s, t: _replace(t, "k_proj.lora_b", mx.zeros((0, 32))),
    "ranks 2, 3": lambda s, t: (
        _replace(t, "q_proj.lora_a", mx.zeros((128, 2))),
        _replace(t, "q_proj.lora_b", mx.zeros((2, 64))),
    ),
    "NaN or infinity": lambda s, t: _replace(t, "q_proj.lora_b", mx.full((3, 64), float("nan"))),
    "tensors do not fit": lambda s, t: _replace(t, "q_proj.lora_a", mx.zeros((128, 3), mx.int32)),
}


def _replace(tensors, ending, array):
    tensors[next(name for name in tensors if name.endswith(ending))] = array


@pytest.mark.parametrize("said", FAULTS)
def test_hostile_folders_of_mlx(adapter, folder, said):
    settings = json.loads((adapter / "adapter_config.json").read_text())
    tensors = adapters.stored(adapter)
    FAULTS[said](settings, tensors)
    mx.eval(tensors)
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    mx.save_safetensors(str(adapter / "adapters.safetensors"), tensors)
    refusal(folder, adapter, said)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern is"),
        ({"r": 0}, "r must be 1 or more"),
        ({"lora_alpha": None}, "lora_alpha must be a number"),
    ],
)
def test_hostile_folders_of_peft(tmp_path, folder, changed, said):
    adapter, _ = adapters.adapted(tmp_path, form="peft")
    checkpoints.change_json(adapter / "adapter_config.json", **changed)
    refusal(folder, adapter, said)


def test_folders_that_hold_no_adapter(adapter, folder, tmp_path):
    file = adapter / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    refusal(folder, adapter, "truncated")
    file.rename(adapter / "adapter_model.bin")
    refusal(folder, adapter, "pickles can run code")
    (adapter / "adapter_model.bin").unlink()
    refusal(folder, adapter, "holds no adapter")
    file.write_bytes(b"x" * 100)
    (adapter / "adapter_config.json").write_text("[]")
    refusal(folder, adapter, "not a JSON object")
    (adapter / "adapter_config.json").unlink()
    refusal(folder, adapter, "adapter_config.json")
    refusal(folder, "", "no such folder")


def refusal(folder, adapter, said):
    with pytest.raises(PixtralError) as caught:
        px.load(folder, adapter_path=adapter)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_rank_stabilised_scale(tmp_path, folder):
    adapter, _ = adapters.adapted(tmp_path, form="peft")
    checkpoints.change_json(adapter / "adapter_config.json", use_rslora=True)
    found = open_adapter(folder, adapter, px.load(folder).config).scale
    assert found == pytest.approx(adapters.SCALE * adapters.RANK / adapters.RANK**0.5)


def test_conversations_in_a_folder_are_of_one_adapter(adapter, folder, tmp_path, caplog):
    """Neither without it nor with another one goes on from what it left."""
    other = shutil.copytree(adapter, tmp_path / "other")
    tensors = adapters.stored(other)
    name = next(iter(tensors))
    tensors[name] = tensors[name] * 1.01
    mx.eval(tensors)
    mx.save_safetensors(str(other / "adapters.safetensors"), tensors)
    text = "A question that is long enough to be kept for the next time"

    def cached(path) -> int:
        model = px.load(folder, "float32", path)
        model.open_prompt_cache(tmp_path / "kept")
        return model.generate(text, max_tokens=1).stats.cached_tokens

    caplog.set_level(logging.ERROR)
    seen = [cached(path) > 0 for path in (adapter, None, other, adapter)]
    assert seen == [False, False, False, True]


def test_the_command_answers_with_it(adapter, folder, capsys):
    ask = ["generate", "-m", str(folder), "-p", "Hello", "--max-tokens", "8", "--dtype", "float32"]
    answers = []
    for more in ([], ["--adapter-path", str(adapter)]):
        assert main([*ask, *more]) == 0
        answers.append(capsys.readouterr().out)
    model = px.load(folder, "float32", adapter)
    assert model.name == f"{folder.name}+adapter"
    assert answers[1] == f"{model.generate('Hello', max_tokens=8).text}\n" != answers[0]
