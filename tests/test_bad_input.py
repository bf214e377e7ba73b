"""Every mistake that issue trackers know: one clear line on stderr, status 1 or 2, nothing lost.

Folders and tensors have tests of their own beside `checkpoint` and `conversion`; here a sample of
each class goes through the command, as a user meets it. `test_bad_requests.py` has the mistakes
that need a sound model.
"""

import errno
import json
import struct

import checkpoints
import numpy as np
import pytest
from checkpoints import make_official
from commands import ask, listing

from pixtral_mlx import cli

# Folders --------------------------------------------------------------------------------------


def test_missing_and_empty_folders(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in (("inspect",), ("generate", "--prompt", "Hi", "--model")):
        refused(1, "no such folder; give a model folder or a hub id", *command, tmp_path / "none")
        refused(1, "an empty folder; download the model's files", *command, tmp_path / "empty")
        refused(1, "no such folder", *command, "")
    refused(1, "an empty folder", "convert", tmp_path / "empty", tmp_path / "out")
    refused(1, "bad/name/of/hub", "inspect", "bad/name/of/hub")
    assert listing(tmp_path) == ["empty"]


def test_a_file_of_a_folder(refused, victim):
    file = victim / "consolidated.safetensors"
    refused(1, "a file, not a model folder; give the folder it is in", "inspect", file)
    refused(1, "a file, not a model folder", *ask(file))


def spoil_weights(folder, content: bytes) -> None:
    (folder / "consolidated.safetensors").write_bytes(content)


def test_truncated_and_corrupt_weights(refused, victim, tmp_path):
    sound = (victim / "consolidated.safetensors").read_bytes()
    spoiled = {
        "truncated": sound[: len(sound) // 2],
        "empty": b"",
        "zeros": bytes(1000),
        "endless header": struct.pack("<Q", 2**60) + b"{}",
        "no JSON": struct.pack("<Q", 8) + b"no JSON!",
    }
    for content in spoiled.values():
        spoil_weights(victim, content)
        for command in (ask(victim), ("inspect", victim), ("convert", victim, tmp_path / "out")):
            refused(1, "consolidated.safetensors", *command)
    assert listing(tmp_path) == ["official", *(f"official/{name}" for name in listing(victim))]


def test_pickled_weights(refused, victim):
    (victim / "consolidated.safetensors").rename(victim / "consolidated.00.pth")
    refused(1, "pickles can run code and are not read", *ask(victim))


def rewrite(folder, change) -> None:
    """The folder's weights once more, after `change(tensors)`."""
    tensors = checkpoints.official_tensors(json.loads((folder / "params.json").read_text()))
    change(tensors)
    checkpoints.write_checkpoint(folder, "consolidated", tensors)


def test_missing_extra_and_misshapen_tensors(refused, victim):
    name = "layers.0.attention.wq.weight"
    for change in (
        lambda tensors: tensors.pop(name),
        lambda tensors: tensors.update({name: np.zeros((3, 5), np.float32)}),
    ):
        rewrite(victim, change)
        refused(1, name, *ask(victim))
    rewrite(victim, lambda tensors: tensors.update({"layers.7.surprise.weight": np.zeros(3)}))
    refused(1, "layers.7.surprise.weight", *ask(victim))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dim": None}, "dim"),
        ({"n_heads": "many"}, "n_heads"),
        ({"n_layers": -1}, "n_layers"),
        ({"head_dim": 15}, "head_dim"),
        ({"vision_encoder": 5}, "vision_encoder"),
        ({"vocab_size": 10**30}, "vocab_size"),
    ],
)
def test_wrong_and_missing_keys_of_the_parameters(refused, victim, change, said):
    params = json.loads((victim / "params.json").read_text()) | change
    params = {key: value for key, value in params.items() if value is not None}
    (victim / "params.json").write_text(json.dumps(params))
    refused(1, said, *ask(victim))
    refused(1, said, "inspect", victim)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff\xfe", "null"])
def test_parameters_that_are_no_json_object(refused, victim, text):
    (victim / "params.json").write_text(text, encoding="latin-1")
    refused(1, "params.json", *ask(victim))


def test_no_parameters_and_no_tokenizer(refused, victim):
    (victim / "tekken.json").unlink()
    refused(1, "no tekken.json", *ask(victim))
    (victim / "tekken.json").write_text("{")
    refused(1, "tekken.json", *ask(victim))
    (victim / "params.json").unlink()
    refused(1, "without params.json", *ask(victim))


def test_unknown_quantization(refused, tmp_path, capsys):
    source = make_official(tmp_path / "official", text={"n_layers": 1})
    cli.main(["convert", str(source), str(tmp_path / "4bit")])
    capsys.readouterr()
    file = tmp_path / "4bit" / "config.json"
    settings = json.loads(file.read_text())
    for entry in ({"bits": 4, "group_size": 64, "mode": "secret"}, {"bits": 7, "group_size": 64}):
        file.write_text(json.dumps(settings | {"quantization": entry}))
        refused(1, "quantization", *ask(tmp_path / "4bit"))


# Converting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("--bits", "7"), ("--bits", "four"), ("--bits", "0"), ("--group-size", "48"),
        ("--mode", "foo"), ("--dtype", "int8"), ("--recipe", "foo"), ("--vision-bits", "9"),
        ("--mode", "mxfp4", "--group-size", "64"), ("--mode", "nvfp4", "--bits", "8"),
        ("--recipe", "mixed_4_6", "--bits", "4"), ("--no-such\noption",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_that_cannot_be(refused, victim, tmp_path, options):
    refused(2, "", "convert", victim, tmp_path / "out", *options)
    # Before anything is looked at, so that a slip costs no download.
    refused(2, "", "convert", "no/such", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists(refused, victim, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    refused(1, "already exists and is not overwritten", "convert", victim, tmp_path / "out")
    refused(1, "already exists", "convert", victim, victim)
    refused(1, "already exists", "demo", "--keep", tmp_path / "out")
    refused(2, "DST is empty", "convert", victim, "")
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"


class Disk:
    total, used, free = 1000, 900, 100


def test_a_disk_that_is_or_becomes_full(refused, victim, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: Disk)
        refused(1, "bytes free", "convert", victim, tmp_path / "out")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pixtral_mlx.quantization.conversion.SafetensorsWriter.write", full)
    refused(1, "the disk is full", "convert", victim, tmp_path / "out")
    assert listing(tmp_path) == ["official", *(f"official/{name}" for name in listing(victim))]


# Weights and memory ---------------------------------------------------------------------------


def test_weights_that_are_not_numbers(refused, victim, tmp_path):
    def spoil(tensors):
        tensors["norm.weight"][3] = np.nan

    rewrite(victim, spoil)
    refused(1, "1 of 45 tensors hold NaN or infinity: norm.weight", "inspect", victim, "--check")
    refused(1, "the model computes NaN: look for damaged weights", *ask(victim))
    refused(1, "norm.weight holds NaN", "convert", victim, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_not_enough_memory(refused, victim, monkeypatch, capsys):
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: 100_000)
    line = refused(1, "0.1 MB are available", *ask(victim))
    assert "more memory" in line and "--force" in line
    assert cli.main([*map(str, ask(victim, "--force"))]) == 0
    assert capsys.readouterr().err == ""


# What nobody thought of -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (TypeError("odd"), 1, "TypeError: odd (PIXTRAL_MLX_DEBUG=1 shows where)"),
        (MemoryError(), 1, "MemoryError"),
        (PermissionError(13, "Permission denied", "a/b"), 1, "a/b: Permission denied"),
        (RuntimeError("two\nlines \x1b[31m"), 1, "RuntimeError: two lines ?[31m"),
        (ValueError("out of range"), 2, "out of range"),
    ],
)
def test_whatever_happens_is_one_line(refused, victim, monkeypatch, error, status, said):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("pixtral_mlx.cli.generate.load_model", fail)
    monkeypatch.setattr("pixtral_mlx.cli.parser.drop_output", lambda: None)
    refused(status, said, *ask(victim))
    monkeypatch.setenv("PIXTRAL_MLX_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main([*map(str, ask(victim))])
