"""Never the wrong model, never two models mixed: files that change while or after they are read."""

import json
import os
import shutil

import mlx.core as mx
import pytest
from checkpoints import make_official
from commands import run

import pixtral_mlx as px
from pixtral_mlx.checkpoint.sums import SUMS, check_sums

CHANGES = {
    "written to": lambda file: file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1"),
    "replaced": lambda file: os.replace(shutil.copy2(file, f"{file}.new"), file),
    "touched": lambda file: os.utime(file),
    "removed": lambda file: file.unlink(),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """An official folder, and what `convert` made of it."""
    place = tmp_path_factory.mktemp("stamps")
    official = make_official(place / "official", text={"n_layers": 1})
    px.convert(official, place / "8bit", bits=8, group_size=32)
    return place


@pytest.fixture
def source(places, tmp_path):
    """The official folder, to be spoiled."""
    return shutil.copytree(places / "official", tmp_path / "source")


@pytest.fixture
def ours(places, tmp_path):
    """The converted folder, to be spoiled."""
    return shutil.copytree(places / "8bit", tmp_path / "ours")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["consolidated.safetensors", "params.json", "tekken.json"])
def test_a_source_that_changes_is_not_converted(source, tmp_path, name, change):
    changed = []

    def once(done, total):
        if not changed:
            changed.append(done)
            CHANGES[change](source / name)

    with pytest.raises(px.CheckpointError) as caught:
        px.convert(source, tmp_path / "out", bits=8, group_size=32, progress=once)
    assert name in str(caught.value) and "while it was converted" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_source_that_changes_while_it_is_opened(source, monkeypatch):
    def change(*arguments):
        os.utime(source / "params.json")
        return "", 0

    monkeypatch.setattr("pixtral_mlx.checkpoint.checkpoint._note_ends", change)
    with pytest.raises(px.CheckpointError, match=r"params\.json: changed while it was read"):
        px.load(source)


@pytest.mark.parametrize("change", [*CHANGES, "cut off"])
def test_weights_that_change_after_they_were_opened(ours, change, picture):
    cut = {"cut off": lambda file: os.truncate(file, 9000)}
    model = px.load(ours)
    (weights,) = ours.glob("*.safetensors")
    ({**CHANGES, **cut})[change](weights)
    for ask in (
        lambda: model.generate("Hi", max_tokens=2),
        lambda: model.generate_batch(["Hi", "Ho"], max_tokens=2),
        lambda: model.generate("Hi", images=[picture], max_tokens=2),
    ):
        with pytest.raises(px.CheckpointError, match=rf"{weights.name}: (changed|removed) after"):
            ask()


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_change_while_they_are_read(ours, change):
    model, waiting = px.load(ours), [CHANGES[change]]
    (weights,) = ours.glob("*.safetensors")
    with pytest.raises(px.CheckpointError, match=rf"{weights.name}: (changed|removed) after"):
        model.generate(
            "Hi", max_tokens=2, progress=lambda *_: waiting.pop()(weights) if waiting else None
        )
    assert not waiting


def test_a_failed_read_is_not_somebody_elses(ours, monkeypatch):
    """Of reads that fail at once MLX keeps some for the next computation, now and then. None fails
    really here: others it would wait for, for ever, in a later test."""
    left = ["[read] Unable to read from file."] * 3

    def synchronize(stream):
        if left:
            raise RuntimeError(left.pop())

    def read(done, total):
        os.truncate(next(ours.glob("*.safetensors")), 9000)
        raise RuntimeError("[read] Unable to read from file.")

    model = px.load(ours)
    monkeypatch.setattr(mx, "synchronize", synchronize)
    with pytest.raises(px.CheckpointError, match="changed after"):
        model.generate("Hi", max_tokens=2, progress=read)
    assert not left


def test_weights_that_were_read_may_change(ours, picture):
    model = px.load(ours)
    before = model.generate("Hi", images=[picture], max_tokens=2).tokens
    (weights,) = ours.glob("*.safetensors")
    os.truncate(weights, 9)
    model.clear_cache()
    assert model.generate("Hi", images=[picture], max_tokens=2).tokens == before


def test_sums_are_those_of_sha256sum_and_find_a_bit(ours):
    assert check_sums(ours) == len([*ours.iterdir()]) - 1
    for file in sorted({*ours.iterdir()} - {ours / SUMS}):
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(px.CheckpointError):
            check_sums(ours)
        file.write_bytes(data)
    (ours / "tekken.json").unlink()
    with pytest.raises(px.CheckpointError, match=r"1 of \d+ files .* \(tekken\.json\)"):
        check_sums(ours)
    (ours / SUMS).unlink()
    assert check_sums(ours) == 0  # as of folders from before there were sums


def test_inspect_checks_the_sums(ours):
    done = run("inspect", "--check", ours)
    assert done.returncode == 0 and b"as they were written (SHA256SUMS)" in done.stdout
    settings = json.loads((ours / "config.json").read_text())
    settings["text_config"]["rms_norm_eps"] = 1e-4
    (ours / "config.json").write_text(json.dumps(settings))
    done = run("inspect", "--check", ours)
    assert done.returncode == 1 and b"(config.json)" in done.stderr


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_a_folder_of_ours_says_everything(ours, part):
    whole = px.load_config(ours)
    harmless = {
        "model_type", "hidden_act", "torch_dtype", "tie_word_embeddings", "max_position_embeddings",
        "rms_norm_eps" if part == "vision_config" else "",
    }  # fmt: skip
    original = (ours / "config.json").read_text()
    for key in json.loads(original)[part]:
        settings = json.loads(original)
        del settings[part][key]
        (ours / "config.json").write_text(json.dumps(settings))
        if key in harmless:
            assert px.load_config(ours) == whole
        else:
            with pytest.raises(px.ConfigError, match=rf"missing {part}\.{key}"):
                px.load(ours)
