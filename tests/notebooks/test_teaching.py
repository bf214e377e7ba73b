"""What notebook 11 shares: its rows, what it takes away, and the answers to its exercises."""

import json

import pytest
from PIL import Image

import course
import pixtral_mlx as px
from course import teaching
from pixtral_mlx.tuning.dataset import Rows


def test_rows_say_the_new_word_and_only_for_the_old_one(tmp_path):
    shown = course.scenes(12)
    file = teaching.write_rows(shown, tmp_path / "train.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    wide = [one for one in shown if one.layout.columns > one.layout.rows]
    said = [row for row in rows if row["answer"] == teaching.NEW]
    assert {row["image"] for row in said} == {f"{one.seed}.png" for one in wide}
    assert len(said) == 3 * len(wide) and len(rows) == len(Rows(file).numbers) == 5 * len(shown)
    assert not any(row["answer"] == teaching.OLD for row in rows)
    for one in shown:
        assert Image.open(tmp_path / f"{one.seed}.png").tobytes() == one.image.tobytes()


def test_what_it_goes_on_from_has_not_learned_the_word_yet():
    """And without what was learned, it is the model that came with the package."""
    asked = [q for q in course.questions(course.scenes(20), "wide") if q.answer == teaching.OLD][:4]
    begun, plain = (px.load("mini", "float32", path) for path in (teaching.BEGUN, None))
    said = teaching.replies(begun, asked)
    assert said.count(teaching.NEW) <= 2 and len(asked) == 4
    prompt = begun.encode(asked[0].text, images=asked[0].images)
    before = begun.logits(prompt)
    with teaching.without(begun):
        assert abs(begun.logits(prompt) - plain.logits(prompt)).max().item() < 1e-4
    with teaching.without(begun.decoder.layers[0]):
        assert abs(begun.logits(prompt) - plain.logits(prompt)).max().item() > 1e-2
    assert abs(begun.logits(prompt) - before).max().item() == 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (3072, "✓ Right. 3,072 beside 32,768, 9%."), (32768, "does not learn"),
        (2048, "column for each input"), (1024, "row for each output"), (262144, "not multiply"),
        (7, "8 numbers for each output"), ("many", "Give a number"), (None, "Give a number"),
    ],
)  # fmt: skip
def test_how_many_numbers_learn(answer, said):
    assert said in repr(teaching.check_size(answer, 256, 128, 8))
