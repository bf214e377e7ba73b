"""The default model: who chooses it, where it is kept; and the models that are on this machine."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from checkpoints import make_hf, make_official
from pdfs import make_blank

from pixtral_mlx import cli
from pixtral_mlx.checkpoint import local
from pixtral_mlx.cli import settings
from pixtral_mlx.mini import CHECKPOINT

QUESTION = ("generate", "--prompt", "Hi", "--max-tokens", "1")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder without settings, without a hub cache and without LM Studio."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """The names of the models that commands opened."""
    names = []

    def found(choice):
        names.append(choice.model)
        return CHECKPOINT

    monkeypatch.setattr("pixtral_mlx.cli.question.find_model", found)
    return names


def listed(capsys) -> dict[str, dict]:
    """{name: what `models --json` says}."""
    assert cli.main(["models", "--json"]) == 0
    return {model["name"]: model for model in json.loads(capsys.readouterr().out)}


def test_who_chooses_the_model(folder, asked, monkeypatch, capsys):
    """`--model`, the variable, the settings, mini: the first that is there."""
    cli.main([*QUESTION])
    cli.main(["models", "default", str(folder)])
    cli.main([*QUESTION])
    monkeypatch.setenv("PIXTRAL_MLX_MODEL", "~/of-the-variable")
    cli.main([*QUESTION])
    cli.main([*QUESTION, "-m", "given"])
    variable = os.path.expanduser("~/of-the-variable")
    assert asked == ["mini", str(folder), variable, "given"]
    capsys.readouterr()
    assert cli.main(["models", "default"]) == 0
    assert capsys.readouterr().out == f"default: {variable} (from PIXTRAL_MLX_MODEL)\n"
    assert cli.main(["models", "default", "mini"]) == 0
    assert "PIXTRAL_MLX_MODEL is set and comes first" in capsys.readouterr().out
    monkeypatch.setenv("PIXTRAL_MLX_MODEL", "")  # as good as none
    cli.main([*QUESTION])
    assert asked[4:] == ["mini"]


def test_rows_and_reports_name_the_model_that_was_chosen(asked, picture, capsys):
    picture.save("x.png")
    cli.main(["models", "default", "owner/model"])
    cli.main(["batch", "x.png", "-p", "Hi", "-o", "rows.jsonl", "--max-tokens", "1"])
    assert asked == ["owner/model"]
    assert json.loads(Path("rows.jsonl").read_text())["model"] == "owner/model"
    said = capsys.readouterr().err
    assert said.endswith(
        "Read it: python3 -m json.tool --json-lines --no-ensure-ascii rows.jsonl\n"
    )


def test_where_the_choice_is_kept(home, folder, monkeypatch, capsys):
    assert cli.main(["models", "default", os.path.relpath(folder)]) == 0
    kept = home / "settings" / "pixtral-mlx" / "config.json"
    assert json.loads(kept.read_text()) == {"default_model": str(folder)}
    assert capsys.readouterr().out.splitlines() == [
        f"default: {folder} (from {kept})",
        "Ask it: pixtral-mlx generate photo.jpg 'What is this?'",
    ]
    monkeypatch.delenv("XDG_CONFIG_HOME")
    elsewhere = {"darwin": "Library/Application Support", "linux": ".config"}
    for platform, place in elsewhere.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert settings.settings_file() == home / place / "pixtral-mlx" / "config.json"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("mini", "mini"),
        ("owner/model", "owner/model"),
        ("https://huggingface.co/owner/model/tree/fast", "hf://owner/model@fast"),
    ],
)
def test_names_of_the_hub_are_kept_as_they_are(name, kept):
    assert cli.main(["models", "default", name]) == 0
    assert settings.default_model().model == kept


def test_what_is_no_model_is_not_chosen(home, refused):
    (home / "empty").mkdir()
    refused(1, "no params.json", "models", "default", "empty")
    refused(1, "'nothing': no such folder, and not a hub id", "models", "default", "nothing")
    assert settings.default_model() == ("mini", "")


def test_a_default_that_is_gone_says_who_chose_it(folder, home, refused, capsys):
    shutil.copytree(folder, home / "model")
    cli.main(["models", "default", "model"])
    capsys.readouterr()
    shutil.rmtree(home / "model")
    said = refused(1, "no such folder", *QUESTION)
    assert f"(chosen by {settings.settings_file()})" in said
    assert "chosen by" not in refused(1, "no such folder", *QUESTION, "-m", "x y")


@pytest.mark.parametrize("text", ["{", "[]", '{"default_model": 1}', '{"folders": [1]}', "\xff"])
def test_damaged_settings_are_one_line(refused, text):
    file = settings.settings_file()
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode("latin-1"))
    refused(1, f"{file}: ", *QUESTION)
    refused(1, "correct this file or remove it", "models", "default", "mini")
    assert file.read_bytes() == text.encode("latin-1")


def test_a_conversion_is_listed_until_it_is_gone(folder, home, capsys):
    assert cli.main(["convert", str(folder), "small 4bit"]) == 0
    said = capsys.readouterr().out
    assert "pixtral-mlx generate -m 'small 4bit' photo.jpg 'What is this?'\n" in said
    found = listed(capsys)
    made = found[str(home / "small 4bit")]
    assert made["place"] == "converted" and made["storage"].startswith("4 bits")
    assert found["mini"]["default"] and not made["default"]
    assert cli.main(["models"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"pixtral-mlx models default '{home}/small 4bit'")
    assert cli.main(["models", "default", "small 4bit"]) == 0
    capsys.readouterr()
    assert listed(capsys)[str(home / "small 4bit")]["default"]
    shutil.rmtree(home / "small 4bit")
    assert set(listed(capsys)) == {"mini"}


def test_a_conversion_succeeds_where_settings_cannot_be_written(folder, home, capsys):
    (home / "settings").write_text("a file where a folder should be")
    assert cli.main(["convert", str(folder), "4bit"]) == 0
    assert capsys.readouterr().out.startswith("4bit: ")


def test_models_of_the_hub_and_of_lm_studio(home, capsys):
    """Each once; those of other architectures are left out, half ones say what is missing."""
    cached = home / "hub" / "models--owner--name"
    make_official(cached / "snapshots" / "new")
    make_official(cached / "snapshots" / "old")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("new\n")
    half = make_official(home / "hub" / "models--owner--half" / "snapshots" / "1")
    (half / "consolidated.safetensors").write_bytes(b"")
    other = home / "hub" / "models--owner--bert" / "snapshots" / "1"
    other.mkdir(parents=True)
    (other / "config.json").write_text('{"model_type": "bert"}')
    (other / "model.safetensors").write_bytes(b"")
    make_hf(home / ".lmstudio" / "models" / "mlx-community" / "pixtral")
    (home / "moved").mkdir()
    Path(local.LM_STUDIO_POINTER).expanduser().write_text(str(home / "moved"))
    make_hf(home / "moved" / "models" / "me" / "mine")
    found = listed(capsys)
    assert {name: model["place"] for name, model in found.items()} == {
        "mini": "package",
        "owner/half": "hub cache",
        "owner/name": "hub cache",
        str(home / ".lmstudio/models/mlx-community/pixtral"): "LM Studio",
        str(home / "moved/models/me/mine"): "LM Studio",
    }
    assert found["owner/name"]["folder"].endswith("snapshots/new")
    assert found["owner/half"]["problem"] and not found["owner/name"]["problem"]
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("unusable" in line for line in lines) == 1
    assert f"owner/half: {found['owner/half']['problem']}" in lines


@pytest.mark.parametrize("command", [("generate",), ("explain", "-o", "drawn.png"), ("chat",)])
def test_pictures_are_looked_at_before_a_model_is(home, picture, refused, asked, command):
    """Even one that would have to be downloaded first."""
    (home / "broken.png").write_bytes(b"no picture")
    (home / "two.pdf").write_bytes(make_blank((100, 100), (100, 100)))
    picture.save(home / "sound.png")
    question = [] if command == ("chat",) else ["-p", "?"]
    for wrong, said in (
        ("none.png", "none.png: no such file"),
        ("broken.png", "broken.png: not a picture"),
        ("two.pdf#page=3", "page"),
        ("sound.png#page=1", "#page=1 chooses pages, and this has none"),
    ):
        refused(1, said, *command, "-m", "owner/model", *question, "-i", "sound.png", wrong)
    assert asked == []
