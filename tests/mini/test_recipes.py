"""What adapters are taught with: the same on every machine, and true of its pictures."""

import json
from random import Random

import numpy as np
import pytest

import pixtral_mlx as px
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.mini.__main__ import main
from pixtral_mlx.mini.drawing import COLOURS
from pixtral_mlx.mini.questions import NUMBERS
from pixtral_mlx.mini.recipes import (
    BAR,
    HIGHEST_BAR,
    RECIPES,
    UNIT,
    chart,
    chart_questions,
    described,
    json_lesson,
    lesson,
)
from pixtral_mlx.mini.scene_layout import Layout, Thing
from pixtral_mlx.tuning.dataset import Rows, read_examples


@pytest.mark.parametrize("name", RECIPES)
def test_rows_are_what_tune_reads(name, tmp_path):
    """Written by the command, and the same ones by the function."""
    assert main(["rows", name, str(tmp_path / "rows"), "--train", "6", "--valid", "2"]) == 0
    tokenizer = px.load("mini").tokenizer
    for file, count in (("train", 6), ("valid", 2)):
        rows = Rows(tmp_path / "rows" / f"{file}.jsonl")
        found = read_examples(rows, tokenizer, ImageOptions(), 2048, lambda *_: None)
        assert len([*found]) == count
    lines = (tmp_path / "rows" / "train.jsonl").read_text().splitlines()
    lessons = [turns for seed in range(12) if (turns := lesson(name, seed))]
    for line, turns in zip(lines, lessons, strict=False):
        answers = [turn["content"] for turn in json.loads(line)["messages"][1::2]]
        assert answers == [turn["content"] for turn in turns[1::2]] and answers


def test_charts_are_as_tall_as_is_said():
    """The top of every bar, and the answers, from the pixels alone."""
    for seed in range(20):
        picture, bars = chart(Random(seed))
        pixels = np.array(picture).astype(int)
        heights = {}
        for i, (letter, (colour, _)) in enumerate(bars.items()):
            column = np.abs(pixels[: HIGHEST_BAR * UNIT, i * BAR + BAR // 2] - COLOURS[colour])
            heights[letter] = int((column.sum(-1) == 0).sum()) / UNIT
        asked = dict(chart_questions(bars))
        assert asked["Which bar is the tallest?"] == f"the letter {max(heights, key=heights.get)}"
        assert asked["Which bar is the smallest?"] == f"the letter {min(heights, key=heights.get)}"
        for letter, height in heights.items():
            assert asked[f"How many rows does {letter} have?"] == NUMBERS[int(height)]
        assert len({*heights.values()}) == len(heights)


def test_scenes_as_json():
    cells = (Thing("star", "red"), Thing("7"), Thing("K"), Thing())
    assert described(Layout(2, 2, cells, 0)) == {
        "outline": "square", "rows": 2, "columns": 2, "first": "a red star", "last": "nothing",
        "code": "7K",
    }  # fmt: skip
    assert described(Layout(1, 2, (cells[0], cells[3]), 0))["code"] is None
    said = [json_lesson(Random(seed))[-1]["content"] for seed in range(30)]
    assert sum(text.startswith('{"outline":') for text in said) > 20
    assert any('"code":null' in text for text in said) and any('"code":"' in text for text in said)


def test_pages_are_numbered_and_the_numbers_asked_for_are_there():
    for seed in range(40):
        turns = lesson("pages", seed)
        if not turns:
            continue
        texts = [part["text"] for part in turns[0]["content"] if part["type"] == "text"]
        pages = [text for text in texts if text.endswith(":")]
        for turn in turns[2::2]:
            (part,) = turn["content"]
            if part["text"].startswith("Page "):
                assert part["text"].partition(":")[0] + ":" in pages
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            if question["content"][-1]["text"].startswith("Is there"):
                assert answer["content"] in ("yes", "no")
            if question["content"][-1]["text"].startswith("Which page"):
                assert f"Page {answer['content']}:" in pages
