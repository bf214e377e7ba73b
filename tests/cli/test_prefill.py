"""`--prefill`: an answer that is begun goes on as it would have gone."""

import json

import pytest

from pixtral_mlx.cli import main
from pixtral_mlx.mini.demo_scene import demo_scene


@pytest.fixture(scope="module")
def answered(mini):
    """A question about a scene, and what pixtral-mini answers word by word."""
    _, questions = demo_scene()
    question = questions[-1]
    reply = mini.generate(question.text, images=question.images, max_tokens=24)
    assert len(reply.tokens) > 8
    return question, reply


def test_it_goes_on_as_it_would_have(answered, mini, tmp_path, capsys):
    question, reply = answered
    question.images[0].save(tmp_path / "scene.png")
    start = mini.tokenizer.decode(reply.tokens[:4])
    assert mini.tokenizer._words.encode(start, bos=False, eos=False) == reply.tokens[:4]
    words = ["generate", "--dtype", "float32", "--image", str(tmp_path / "scene.png")]
    words += ["--prompt", question.text, "--max-tokens", "24", "--json"]
    assert main([*words, "--prefill", start]) == 0
    went_on = json.loads(capsys.readouterr().out)
    assert went_on["tokens"] == reply.tokens[4:] and start + went_on["text"] == reply.text
    # Nothing begun is nothing, and a base model goes on with its prompt just so.
    assert main([*words, "--prefill", ""]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == reply.tokens
    assert main([*words, "--raw", "--prefill", start]) == 0
    stats = json.loads(capsys.readouterr().out)["stats"]
    assert stats["prompt_tokens"] == len(
        mini.encode(question.text + start, question.images, raw=True).tokens
    )


def test_rows_remember_what_they_were_begun_with(answered, tmp_path, capsys):
    question, _ = answered
    question.images[0].save(tmp_path / "scene.png")
    words = ["batch", str(tmp_path / "scene.png"), "--prompt", question.text, "--max-tokens", "4"]
    words += ["-o", str(tmp_path / "rows.jsonl")]
    assert main([*words, "--prefill", "a"]) == 0
    (row,) = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert row["error"] is None and row["options"]["prefill"] == "a"
    assert main([*words, "--prefill", "b"]) == 1
    assert "was made with options" in capsys.readouterr().err
