"""Folders and repositories that hold no model say what they are and what to do, in one line."""

import json
import shutil

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

import pixtral_mlx as px
from pixtral_mlx.checkpoint import hub, names
from pixtral_mlx.errors import CheckpointError, PixtralError

SMALL = {"text": {"n_layers": 1}, "vision": {"num_hidden_layers": 1}}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HELP = "give a folder of safetensors files, or a hub id such as mistralai/Pixtral-12B-2409"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Not found</title></head></html>\n" * 20
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 25364416392\n"


def refusal(place):
    """The one line that says why it cannot be loaded, without the folder's name."""
    with pytest.raises(PixtralError) as caught:
        px.load(place)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 500
    return line.removeprefix(f"{place}: ")


def put(folder, files):
    """Small files by their paths; dicts as JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(json.dumps(content).encode() if isinstance(content, dict) else content)
    return folder


# GGUF, adapters, unfinished downloads ----------------------------------------------------------


def test_gguf(tmp_path, fake):
    folder = put(tmp_path / "gguf", {"pixtral-Q4_K_M.gguf": b"GGUF", "mmproj.gguf": b"GGUF"})
    only = "only GGUF files (mmproj.gguf, pixtral-Q4_K_M.gguf), which llama.cpp reads; " + HELP
    assert refusal(folder) == only
    file = folder / "mmproj.gguf"
    assert refusal(file) == f"a GGUF file, which llama.cpp reads; {HELP}"
    fake.repositories["made-up/gguf"] = {"mmproj.gguf": b"", "pixtral-Q4_K_M.gguf": b""}
    assert refusal("made-up/gguf") == only
    victim = make_hf(tmp_path / "renamed", **SMALL)
    (victim / "model.safetensors").write_bytes(b"GGUF\x03\0\0\0" + bytes(100))
    assert "model.safetensors: a GGUF file" in refusal(victim)


PEFT = {"base_model_name_or_path": "mistral-community/pixtral-12b", "peft_type": "LORA"}


@pytest.mark.parametrize(
    ("files", "base"),
    [
        ({"adapter_config.json": PEFT, "adapter_model.safetensors": b""}, " of mistral-community/"),
        ({"adapter_config.json": PEFT, "adapter_model.bin": b""}, " of mistral-community/pixtral"),
        ({"adapter_config.json": {"model": "a/b"}, "adapters.safetensors": b""}, " of a/b,"),
        ({"adapter_config.json": {"model": 3}, "adapters.safetensors": b""}, ","),
        ({"adapter_config.json": b"[", "adapters.npz": b""}, ","),
        ({"adapters.safetensors": b""}, ","),
    ],
)
def test_an_adapter_names_its_base(tmp_path, fake, files, base):
    folder = put(tmp_path / "adapter", files)
    line = refusal(folder)
    assert line.startswith(f"a LoRA adapter{base}") and "give the base, or a folder in" in line
    fake.repositories["made-up/adapter"] = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert refusal("made-up/adapter") == line


def test_an_adapter_beside_its_model_changes_nothing(tmp_path):
    folder = make_hf(tmp_path, **SMALL)
    put(folder, {"adapter_config.json": PEFT, "adapter_model.safetensors": b""})
    assert px.load(folder).config.text.n_layers == 1


@pytest.mark.parametrize(
    "name",
    [
        "consolidated.safetensors.crdownload",
        "model.safetensors.part",
        "model.safetensors.aria2",
        ".cache/huggingface/download/model.safetensors.0a1b.incomplete",
        ".cache/huggingface/download/sub/abc.0a1b.incomplete",
    ],
)
def test_an_unfinished_download(tmp_path, name):
    for files in ({name: b""}, {name: b"", "config.json": {}, "params.json": {}}):
        line = refusal(put(tmp_path / str(len(files)), files))
        assert line.startswith(f"an unfinished download ({name.rpartition('/')[2]}); let the")


# Caches and folders of models ------------------------------------------------------------------


def hub_cache(place, model, *, whole=True):
    """A model in the hub's cache as it lies there: links to blobs."""
    repo = place / "models--made-up--pixtral"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for number, path in enumerate(sorted(model.iterdir())):
        blob = repo / "blobs" / f"{number:040x}"
        if whole or not path.name.endswith(".safetensors"):
            shutil.copyfile(path, blob)
            (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    put(repo, {"refs/main": COMMIT.encode()})
    return snapshot


def test_the_hubs_cache(tmp_path):
    snapshot = hub_cache(tmp_path / "home" / "hub", make_hf(tmp_path / "model", **SMALL))
    assert px.load(snapshot).config.text.n_layers == 1
    put(tmp_path / "home" / "hub", {"models--a--b/refs/main": b"", "version.txt": b"1"})
    several = "the hub's cache, not a model; give the id of one of its models: a/b, made-up/pixtral"
    assert refusal(tmp_path / "home") == refusal(tmp_path / "home" / "hub") == several
    one = "a folder of the hub's cache without a model's weights; give the id made-up/pixtral"
    for folder in (snapshot.parent, snapshot.parent.parent, snapshot.parents[1] / "blobs"):
        assert refusal(folder) == one


def test_a_snapshot_whose_blobs_are_still_coming_or_gone(tmp_path):
    model = make_hf(tmp_path / "model", **SMALL)
    snapshot = hub_cache(tmp_path / "half", model, whole=False)
    assert "give the id made-up/pixtral" in refusal(snapshot)
    (snapshot.parents[1] / "blobs" / "0a1b.incomplete").write_bytes(b"")
    assert refusal(snapshot).startswith("an unfinished download (0a1b.incomplete); let")
    snapshot = hub_cache(tmp_path / "gone", model)
    (snapshot / "model.safetensors").resolve().unlink()
    gone = "links to files that are gone (model.safetensors); give the id made-up/pixtral, which"
    assert refusal(snapshot).startswith(gone)


@pytest.mark.parametrize("name", ["consolidated.safetensors", "params.json", "tekken.json"])
def test_dangling_links(tmp_path, name):
    folder = make_official(tmp_path / "model", **SMALL)
    (folder / name).unlink()
    (folder / name).symlink_to("/nowhere/blob")
    assert refusal(folder) == f"links to files that are gone ({name}); download them again"
    (folder / name).unlink()
    (folder / "README.md").symlink_to("/nowhere/readme")  # no model needs it
    assert "links to files" not in refusal_of_any(folder)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    line = refusal(link)
    assert line.startswith(f"a link to {tmp_path / 'nowhere'}, which is not there; correct")


def refusal_of_any(folder):
    try:
        px.load(folder).encode("Hi")
    except PixtralError as error:
        return str(error)
    raise AssertionError("it was loaded")


def test_lm_studios_folder_lists_its_models(tmp_path):
    root = tmp_path / "models"
    model = make_hf(root / "mlx-community" / "pixtral-12b-4bit", **SMALL)
    put(root, {"lmstudio-community/pixtral-GGUF/pixtral.gguf": b"", ".internal/x": b""})
    listed = "a folder of models, not one; give one of them: "
    assert refusal(root) == f"{listed}mlx-community/pixtral-12b-4bit"
    assert refusal(tmp_path) == f"{listed}models/mlx-community/pixtral-12b-4bit"
    assert refusal(model.parent) == f"{listed}pixtral-12b-4bit"
    gguf = refusal(root / "lmstudio-community")
    assert gguf.startswith("a folder of GGUF files (pixtral-GGUF), which llama.cpp reads; give a")
    for number in range(9):
        put(root, {f"a/{number}/config.json": {}, f"a/{number}/model.safetensors": b""})
    assert refusal(root) == f"{listed}a/0, a/1, a/2 and 7 more"


def test_a_folder_of_a_million_folders_is_not_searched(tmp_path, monkeypatch):
    monkeypatch.setattr("pixtral_mlx.checkpoint.diagnosis._MOST_FOLDERS", 5)
    put(tmp_path, {f"{number:02d}/x": b"" for number in range(20)})
    put(tmp_path, {"99/config.json": {}, "99/model.safetensors": b""})
    assert refusal(tmp_path).startswith("no weights (.safetensors)")


# The hub ---------------------------------------------------------------------------------------


def test_half_of_a_repository_in_the_cache_and_no_network(fake, tmp_path, monkeypatch):
    folder = make_hf(tmp_path / "model", shards=3, **SMALL)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    fake.repositories["made-up/pixtral"] = files
    cached = hub.fetch("made-up/pixtral")
    (cached / "model-00002-of-00003.safetensors").unlink()
    fake.repositories.clear()
    fake.odd_gets.clear()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError) as caught:
        hub.fetch("made-up/pixtral")
    assert str(caught.value) == (
        "made-up/pixtral: only part of it is in the cache (1 of 3 weight files in"
        " model.safetensors.index.json missing (model-00002-of-00003.safetensors)), and the hub"
        " cannot be reached; check the network and run it again, it continues where it stopped"
    )


ID = "mistralai/Pixtral-12B-2409"


@pytest.mark.parametrize(
    ("address", "revision"),
    [
        (ID, None),
        (f"{ID}/", None),
        (f"https://huggingface.co/{ID}", None),
        (f"http://www.huggingface.co/{ID}/", None),
        (f"https://hf.co/{ID}.git", None),
        (f"huggingface.co/{ID}", None),
        (f"https://huggingface.co/{ID}/tree/main", None),
        (f"https://huggingface.co/{ID}/blob/main/params.json?download=true#L3", None),
        (f"https://huggingface.co/{ID}/resolve/v1.0/consolidated.safetensors", "v1.0"),
        (f"https://huggingface.co/{ID}/tree/refs%2Fpr%2F7", "refs/pr/7"),
        (f"https://huggingface.co/{ID}/discussions/22", None),
        (f"https://mirror.example/{ID}/tree/main", None),
        (f"hf://{ID}", None),
        (f"hf://{ID}@v1.0", "v1.0"),
    ],
)
def test_the_id_is_taken_out_of_an_address(monkeypatch, address, revision):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert names.on_the_hub(address) == (ID, revision)


def test_a_page_of_the_hub_is_fetched(fake, tmp_path):
    folder = make_official(tmp_path / "model", **SMALL)
    fake.repositories[ID] = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = names.resolve(f"https://huggingface.co/{ID}/blob/main/params.json")
    assert (found / "params.json").read_bytes() == (folder / "params.json").read_bytes()
    outline = names.resolve(f"https://huggingface.co/{ID}/tree/main", tmp_path)
    assert outline == tmp_path / "Pixtral-12B-2409"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "https://huggingface.co/datasets/a/b",
            "'datasets/a/b': not the page of a model on the hub",
        ),
        ("https://huggingface.co/mistralai", "'mistralai': not the page of a model on the hub"),
        ("https://huggingface.co", "'': not the page of a model on the hub"),
        ("https://me:secret@example.com/a/b", "example.com: models are fetched from the hub alone"),
        ("bad/name/of/hub", "no such folder"),
        ("file:///models/pixtral", "no such folder"),
        ("https://[broken/a/b", "no such folder"),
    ],
)
def test_other_addresses(address, said):
    line = refusal(address)
    assert said in line and "secret" not in line


# What was saved in the place of a file ---------------------------------------------------------

SAVED = [
    (PAGE, "a web page saved under this name, not the file; download the model by its hub id"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML saved under this"),
    (POINTER, "a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"),
    (b"Entry not found", "an answer of the server ('Entry not found'), not the file"),
    (b"Invalid username or password.", "an answer of the server ('Invalid username or pass"),
]


@pytest.mark.parametrize(("content", "said"), SAVED, ids=["page", "xml", "lfs", "404", "401"])
@pytest.mark.parametrize(
    "name", ["consolidated.safetensors", "tekken.json", "params.json", "tokenizer.model.v7m1"]
)
def test_what_browsers_and_git_save_under_a_files_name(sound, tmp_path, name, content, said):
    folder = shutil.copytree(sound, tmp_path / "model")
    if ".model." in name:
        (folder / "tekken.json").unlink()
    (folder / name).write_bytes(content)
    line = refusal_of_any(folder)
    assert line.startswith(f"{folder / name}: {said}")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_official(tmp_path_factory.mktemp("sound") / "model", **SMALL)


def test_the_same_under_the_names_of_hf(tmp_path):
    folder = make_hf(tmp_path, shards=2, tokenizer=None, text={"vocab_size": 131_072, "dim": 16})
    (folder / "tokenizer.json").write_bytes(POINTER)
    assert "tokenizer.json is a Git LFS pointer" in refusal_of_any(folder)
    (folder / "model.safetensors.index.json").write_bytes(PAGE)
    assert "index.json: a web page" in refusal(folder)


# Other models ----------------------------------------------------------------------------------


def test_weights_of_other_kinds(tmp_path):
    folder = make_official(tmp_path, **SMALL)
    tensors = official_tensors(official_params(**SMALL))
    lora = {
        f"layers.0.attention.{w}.lora_{ab}.weight": np.ones((2, 2)) for w in "qk" for ab in "AB"
    }
    eye = {name: t for name, t in tensors.items() if "vision" in name}
    for stored, said in (
        (lora, "the weights of a LoRA adapter, which is not a model by itself; give the base"),
        (eye, "a vision encoder alone; give the folder of the whole model"),
    ):
        write_safetensors(folder / "consolidated.safetensors", stored)
        assert refusal(folder).startswith(said)


def test_configurations_of_other_kinds(tmp_path):
    folder = make_hf(tmp_path, **SMALL)
    config = json.loads((folder / "config.json").read_text())
    change_json(folder / "config.json", model_type="mistral4")
    assert "'mistral4', Mistral Small 4, a mixture of experts (mlx-vlm reads it)" in refusal(folder)
    put(folder, {"config.json": config["vision_config"]})
    assert "a vision encoder alone (model_type 'pixtral' without text_config)" in refusal(folder)


def test_a_vision_encoder_as_transformers_saves_it(tmp_path):
    tower = {
        name: np.ones((2, 2), np.float32)
        for name in (
            "patch_conv.weight",
            "ln_pre.weight",
            "transformer.layers.0.attention.q_proj.weight",
        )
    }
    folder = make_hf(tmp_path, **SMALL)
    write_safetensors(folder / "model.safetensors", tower)
    assert refusal(folder).startswith("a vision encoder alone; give the folder of the whole")
