"""`pixtral-mlx explain`: an answer and a picture, nothing overwritten, mistakes in one line."""

import numpy as np
import pytest
from checkpoints import make_official
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_official(tmp_path_factory.mktemp("explain") / "model")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("explain") / "image.png"
    pixels = np.random.RandomState(0).randint(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
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
    assert list(Image.open(output).getdata()) == list(expected.trace.picture().getdata())
    trace = px.open_trace(kept)
    assert np.array_equal(trace.token_attention(3, 1), expected.trace.token_attention(3, 1))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("taken.png", [], "exists already"),
        ("new.txt", [], "allowed endings are"),
        ("no/where.png", [], "there is no folder"),
        ("new.png", ["--save", "taken.png"], "exists already"),
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
    assert "no image to explain" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
