"""What adapters are taught with: the same on every machine, and true of its pictures."""

import json
import re
from collections import Counter
from random import Random

import numpy as np
import pytest

import pixtral_mlx as px
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.mini.__main__ import main
from pixtral_mlx.mini.charts import GAP, HIGHEST_BAR, chart, chart_patches, chart_questions
from pixtral_mlx.mini.drawing import COLOURS
from pixtral_mlx.mini.pages import CELL, PATCH, ask_pages, document, page
from pixtral_mlx.mini.questions import NUMBERS, PLURALS
from pixtral_mlx.mini.recipes import RECIPES, described, json_lesson, lesson
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
    for line, turns in zip(lines, (lesson(name, seed) for seed in range(6)), strict=True):
        answers = [turn["content"] for turn in json.loads(line)["messages"][1::2]]
        assert answers == [turn["content"] for turn in turns[1::2]] and answers


def test_charts_are_as_tall_as_is_said():
    """The highest square of every bar, and the answers, from the pixels alone."""
    for seed in range(20):
        picture, bars = chart(Random(seed))
        pixels = np.array(picture).astype(int)
        values = {}
        for i, (letter, (colour, _)) in enumerate(bars.items()):
            column = np.abs(pixels[: HIGHEST_BAR * CELL, i * CELL + CELL // 2] - COLOURS[colour])
            painted = np.flatnonzero(column.sum(-1) == 0)
            values[letter] = len(painted) // (CELL - 2 * GAP)
            below, top = chart_patches(bars, letter)
            assert min(row for row, _ in top) == painted[0] // PATCH
            assert {column for _, column in [*below, *top]} == {2 * i, 2 * i + 1}
            assert min(row for row, _ in below) * PATCH == HIGHEST_BAR * CELL
        tallest, smallest = (pick(values, key=values.get) for pick in (max, min))
        for asked in chart_questions(bars):
            wanted = {
                "tallest": (f"the letter {tallest}", tallest),
                "smallest": (f"the letter {smallest}", smallest),
                "bars": (NUMBERS[len(values)], None),
            }.get(asked.kind)
            letter = asked.text[-2]
            if asked.kind == "value":
                wanted = NUMBERS[values[letter]], letter
            elif asked.kind == "colour":
                wanted = bars[letter].colour, None
            assert (asked.answer, asked.about) == wanted
        counts = Counter(values.values())
        assert counts[values[tallest]] == counts[values[smallest]] == 1


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


def test_pages_say_what_is_on_them():
    """Every answer from the cells that are named as its evidence, and no other cell says so too;
    pages are often asked about what only another one has."""
    kinds, elsewhere = Counter(), Counter()
    for seed in range(150):
        random = Random(seed)
        pages = document(random)
        numbers = [each.number for each in pages]
        assert numbers == [*range(numbers[0], numbers[0] + len(pages))]
        for asked in ask_pages(random, pages, 6):
            named = re.match(r"Page (\d+): ", asked.text)
            about = [each for each in pages if named is None or each.number == int(named[1])]
            every = [thing for each in about for thing in each.layout.cells]
            seen = [pages[i].layout.cells[cell] for i, cell in asked.cells]
            assert {pages[i].number for i, _ in asked.cells} <= {each.number for each in about}
            kinds[asked.kind, named is None, asked.answer in ("no", "none")] += 1
            if named is not None and asked.answer in ("no", "none"):
                words = set(re.findall(r"\w+", asked.text[len(named[0]) :]))
                others = [each for each in pages if each not in about]
                elsewhere[asked.kind] += any(
                    words & {thing.colour, PLURALS.get(thing.name)} - {""}
                    if asked.kind == "count"
                    else f"a {thing.colour} {thing.name}?" in asked.text
                    for each in others for thing in each.layout.cells
                )  # fmt: skip
            if asked.kind == "is there":
                assert asked.answer == ("yes" if seen else "no")
                what = re.search(r"Is there a (.*)\?", asked.text)[1]
                names = [str(thing)[2:] for thing in every] + [thing.name for thing in every]
                code = any(thing.name and not thing.colour for thing in every)
                assert bool(seen) == (code if what == "code" else what in names)
            elif asked.kind == "page":
                assert {str(pages[i].number) for i, _ in asked.cells} == {asked.answer}
                assert str(seen[0]) in asked.text and sum(t == seen[0] for t in every) == len(seen)
            elif asked.kind == "count":
                assert NUMBERS.index(asked.answer) == len(seen)
            elif asked.kind == "read":
                assert "".join(thing.name for thing in seen) == asked.answer
            else:
                assert [getattr(seen[0], {"shape": "name"}.get(asked.kind, asked.kind))] == [
                    asked.answer
                ]
    assert len(kinds) == 15 and min(kinds.values()) > 3
    for kind in ("count", "is there"):
        assert elsewhere[kind] >= 0.1 * sum(kinds[kind, False, none] for none in (False, True))


def test_a_cell_is_where_its_page_says():
    for seed in range(30):
        shown = page(Random(seed))
        picture = np.array(shown.picture)
        assert not any(side % PATCH for side in picture.shape[:2])
        inside = np.zeros(picture.shape[:2], bool)
        for cell in range(len(shown.layout.cells)):
            for row, column in shown.patches(cell):
                y, x = row * PATCH, column * PATCH
                inside[y : y + PATCH, x : x + PATCH] = True
        assert (picture[~inside] == 255).all() and (picture[inside] < 255).any(-1).mean() > 0.9
