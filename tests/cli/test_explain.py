"""`pixtral-mlx explain`: an answer and a picture, nothing overwritten, mistakes in one line."""

import base64
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.cli import main
from pixtral_mlx.mini import scene


@pytest.fixture(scope="module")
def image(picture, tmp_path_factory):
    path = tmp_path_factory.mktemp("explain") / "image.png"
    picture.save(path)
    return path


def explain(folder, image, output, *more):
    words = ["explain", "--model", str(folder), "--dtype", "float32", "--image", str(image)]
    words += ["--prompt", "What is this?", "--max-tokens", "6", "-o", str(output), *more]
    return main(words)


def test_the_answer_is_that_of_generate_and_the_picture_shows_it(folder, image, tmp_path, capsys):
    output, kept = tmp_path / "why.png", tmp_path / "why.safetensors"
    # A random model says bytes that are no text; these two tokens are words.
    bias = ["--logit-bias", f"{ord('a') + 20}=50"]
    assert explain(folder, image, output, "--save", str(kept), *bias) == 0
    said = capsys.readouterr()
    options = {"max_tokens": 6, "logit_bias": {ord("a") + 20: 50.0}}
    model = px.load(folder, dtype="float32")
    expected = model.generate("What is this?", images=[image], trace=True, **options)
    assert said.out == expected.text + "\n" == "aaaaaa\n"
    assert said.err.splitlines()[-1] == f"drawn: {output}"
    whole = expected.trace.picture("What is this?", model.name)
    assert list(Image.open(output).getdata()) == list(whole.getdata())
    assert whole.height > expected.trace.picture().height  # the question has a line of its own
    trace = px.open_trace(kept)
    assert np.array_equal(trace.token_attention(3, 1), expected.trace.token_attention(3, 1))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("taken.png", [], "already exists"),
        ("new.txt", [], "allowed endings are"),
        ("no/where.png", [], "there is no folder"),
        ("new.png", ["--save", "taken.png"], "already exists"),
        ("new.png", ["--knock-out"], "--knock-out is for a page"),
    ],
)
def test_files_are_checked_before_the_model_is_opened(
    image, tmp_path, capsys, monkeypatch, name, more, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.png").write_bytes(b"mine")
    assert explain(tmp_path / "no model", image, name, *more) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (tmp_path / "taken.png").read_bytes() == b"mine"


def test_an_image_is_needed(folder, tmp_path, capsys):
    words = ["explain", "--model", str(folder), "--prompt", "x", "-o", str(tmp_path / "a.png")]
    assert main(words) == 1
    assert "no picture to explain" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_page_holds_every_word_and_nothing_from_elsewhere(mini, image, tmp_path):
    """As a subprocess, as a person calls it."""
    output = tmp_path / "page.html"
    scene(3, 4, 5).image.save(tmp_path / "scene.png")
    words = ["explain", "--image", "scene.png", "--prompt", "Describe the picture.", "-o", output]
    done = subprocess.run(
        [sys.executable, "-m", "pixtral_mlx", *words, "--dtype", "float32"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"drawn: {output}"
    text = output.read_text()
    assert len(text) < 300_000
    assert "<h1>Describe the picture.</h1><p>pixtral-mini</p>" in text
    assert not re.findall(r"(?:https?|wss?)://(?!www\.w3\.org/)", text)
    found = re.search(r'id="state">(.*?)</script>', text, re.DOTALL)
    state = json.loads(found[1])["state"]
    assert " ".join(word["text"] for word in state["words"]) == done.stdout.strip()
    reply = mini.generate("Describe the picture.", images=[tmp_path / "scene.png"], trace=True)
    for token in range(len(reply.tokens)):
        arguments = {"token": token, "layer": None, "head": None, "image": 0}
        key = json.dumps(["look", arguments], sort_keys=True, separators=(",", ":"))
        baked = state["saved"][key]
        attention = reply.trace.image_attention(token)
        assert baked["data"]["top"] == pytest.approx(attention.max(), abs=1e-5)
        row = np.frombuffer(base64.b64decode(baked["buffers"][0]["base64"]), np.uint8)
        expected = attention.ravel() / attention.max() * 255
        assert np.abs(row - expected).max() < 1
        for what in ("token", "lens"):
            assert f'["{what}",{{"token":{token}}}]' in state["saved"]


def test_a_page_with_knock_outs_has_one_for_every_word(mini, tmp_path):
    output = tmp_path / "page.html"
    scene(3, 4, 5).image.save(tmp_path / "scene.png")
    words = ["explain", "--image", str(tmp_path / "scene.png"), "--dtype", "float32"]
    words += ["--prompt", "Describe the picture.", "-o", str(output), "--max-tokens", "5"]
    assert main([*words, "--knock-out"]) == 0
    found = re.search(r'id="state">(.*?)</script>', output.read_text(), re.DOTALL)
    state = json.loads(found[1])["state"]
    assert state["known"] == [f"knock:{token}:0" for token in range(5)]
    reply = mini.generate(
        "Describe the picture.", images=[tmp_path / "scene.png"], trace=True, max_tokens=5
    )
    for token in range(5):
        name = json.dumps(["knocked", {"image": 0, "token": token}], separators=(",", ":"))
        saved = state["saved"][name]["data"]
        (top, bottom), (left, right), _ = reply.trace.evidence(token)
        patches = [(r, c) for r in range(top, bottom) for c in range(left, right)]
        drop = mini.occlusion(reply.trace.prompt, token, patches, tokens=reply.tokens)
        assert (saved["rows"], saved["columns"]) == ([top, bottom], [left, right])
        assert saved["drop"] == pytest.approx(drop, abs=1e-3)


def test_a_page_without_the_widgets_names_what_to_install(image, tmp_path):
    """As where the extra is not installed: its packages cannot be imported."""
    code = (
        "import sys; sys.modules['anywidget'] = None; from pixtral_mlx.cli import main;"
        f"sys.exit(main(['explain', '--image', {str(image)!r}, '--prompt', 'x', '-o', 'a.html']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert 'run pip install ".[lab]"' in done.stderr
    assert list(tmp_path.iterdir()) == []
