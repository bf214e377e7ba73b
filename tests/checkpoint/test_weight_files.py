"""Which files of a folder are its weights: with an index, without one, and with a stale one."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import make_hf, make_official
from mlx_folders import AFFINE, make_mlx

from pixtral_mlx.checkpoint import hub
from pixtral_mlx.checkpoint.folder import weight_files
from pixtral_mlx.errors import CheckpointError
from pixtral_mlx.model.prompt import Prompt
from pixtral_mlx.pixtral import load

SMALL = {"text": {"n_layers": 1}, "vision": {"num_hidden_layers": 1}}
TOKENS = [1, 3, 10, 10, 12, 10, 10, 13, 300, 4]
IMAGE = np.random.RandomState(0).standard_normal((3, 32, 32)).astype(np.float32)
INDEX = "model.safetensors.index.json"


def logits(folder):
    return load(folder).logits(Prompt(TOKENS, [IMAGE]))


def put_index(folder, files, index=INDEX):
    """The index of a source that had these files."""
    names = {f"language_model.model.layers.{i}.weight": name for i, name in enumerate(files)}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def shards(count, stem="model"):
    return [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def sharded_mlx(folder):
    """An MLX folder in two files, without an index."""
    arrays = mx.load(str(make_mlx(folder, quantization=AFFINE, **SMALL) / "model.safetensors"))
    names = sorted(arrays)
    for number, file in enumerate(shards(2)):
        part = {name: arrays[name] for name in names[number::2]}
        mx.save_safetensors(str(folder / file), part)
    (folder / "model.safetensors").unlink()
    return folder


FOLDERS = {
    "one file": lambda folder: make_mlx(folder, quantization=AFFINE, **SMALL),
    "two files": sharded_mlx,
    "hf": lambda folder: make_hf(folder, **SMALL),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_an_index_whose_files_never_existed_counts_for_nothing(tmp_path, kind):
    folder = FOLDERS[kind](tmp_path / "model")
    without = logits(folder)
    for files in (shards(5), ["model-of-the-source.safetensors"]):
        put_index(folder, files)
        assert mx.array_equal(logits(folder), without)


def test_an_official_folder_with_a_stale_index(tmp_path):
    folder = make_official(tmp_path, **SMALL)
    without = logits(folder)
    put_index(folder, shards(3, "consolidated"), "consolidated.safetensors.index.json")
    assert mx.array_equal(logits(folder), without)


def test_an_index_some_of_whose_files_are_there_counts(tmp_path):
    folder = make_hf(tmp_path, shards=3)
    (folder / shards(3)[1]).unlink()
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"1 of 3 weight files in .* \(model-00002-of-00003"):
        weight_files(folder)


def test_a_stale_index_beside_half_a_set(tmp_path):
    folder = sharded_mlx(tmp_path)
    put_index(folder, shards(5))
    (folder / shards(2)[0]).unlink()
    with pytest.raises(CheckpointError, match=r"1 weight file missing \(model-00001-of-00002"):
        weight_files(folder)


@pytest.mark.parametrize("make", [make_hf, make_official])
@pytest.mark.parametrize("gone", [[0], [1], [2], [0, 2]])
def test_a_shard_is_missing_and_there_is_no_index(tmp_path, make, gone):
    folder = make(tmp_path, shards=3)
    files = sorted(path.name for path in folder.glob("*-of-*"))
    next(folder.glob("*.index.json")).unlink()
    assert [path.name for path in weight_files(folder)] == files
    for number in gone:
        (folder / files[number]).unlink()
    named = ", ".join(files[number] for number in gone)
    count = f"{len(gone)} weight file{'s' if len(gone) > 1 else ''}"
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert str(caught.value) == f"{folder}: {count} missing ({named}); download them"


def test_a_hub_repository_with_a_stale_index(fake, tmp_path):
    folder = sharded_mlx(tmp_path / "model")
    without = logits(folder)
    put_index(folder, shards(5))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    fake.repositories["made-up/mlx"] = files
    assert mx.array_equal(logits(hub.fetch("made-up/mlx")), without)
    shutil.rmtree(folder)
    fake.requests.clear()
    fake.repositories["made-up/half"] = {n: files[n] for n in (shards(2)[0], "config.json")}
    with pytest.raises(CheckpointError, match="made-up/half: 1 weight file missing"):
        hub.fetch("made-up/half")
    assert fake.downloads() == []


def test_a_name_that_tells_of_a_million_files_is_answered_at_once(tmp_path):
    folder = make_hf(tmp_path, **SMALL)
    (folder / "model.safetensors").rename(folder / "model-1-of-999999999.safetensors")
    with pytest.raises(CheckpointError, match=r"9999 weight files missing \(model-2-of-"):
        weight_files(folder)
