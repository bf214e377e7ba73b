"""What training drew and what it cannot draw; what is asked about it, and what is counted."""

import re
from dataclasses import replace
from itertools import islice

import mlx.core as mx
import numpy as np
import pytest

from pixtral_mlx.mini import CHECKPOINT, novelty, scene
from pixtral_mlx.mini.__main__ import main
from pixtral_mlx.mini.evaluation import FIRST_SEED, Findings
from pixtral_mlx.mini.learning import Pupil, mini_config
from pixtral_mlx.mini.lessons import _labels
from pixtral_mlx.mini.novelty import apart, ask_new, census, content, novelty_table, one_code
from pixtral_mlx.mini.report import fingerprint
from pixtral_mlx.mini.scene_layout import Layout, Thing
from pixtral_mlx.mini.stages import STAGES, layouts, make_lesson

STAR, A, B, EMPTY = Thing("star", "red"), Thing("A"), Thing("B"), Thing()


@pytest.mark.parametrize("name", ["see", "answer", "average"])
def test_layouts_are_those_of_the_lessons(name):
    stage = next(replace(s, steps=4, budget=300) for s in STAGES if s.name == name)
    drawn = layouts(stage, 7)
    for lesson in range(stage.steps * stage.lessons):
        made = make_lesson(
            stage, mini_config(649).vision, CHECKPOINT / "tekken.json", 7, (0, 1), lesson
        )
        for labels in made.labels:
            np.testing.assert_array_equal(_labels(next(drawn)), labels)
            for _ in made.pixels[1:]:
                next(drawn)
    assert next(drawn, None) is None
    assert len(list(layouts(stage, 7, 1))) < len(list(layouts(stage, 7)))


def test_the_bundled_weights_come_from_the_seed_that_is_counted():
    """Vectors of bytes that no scene has were never moved: they are those of the first step."""
    shipped = mx.load(str(CHECKPOINT / "consolidated.safetensors"))["tok_embeddings.weight"]
    same = {}
    for seed in (novelty.SEED, novelty.SEED + 1):
        mx.random.seed(seed)
        first = Pupil(mini_config(len(shipped))).model.decoder.tok_embeddings.weight
        same[seed] = int((mx.abs(first - shipped).max(axis=1) < 0.01).sum())
    assert same[novelty.SEED] > 200
    assert same[novelty.SEED + 1] == 0


def test_training_draws_one_code_and_no_characters_apart():
    drawn = list(islice(novelty.drawn_by_training(), 20_000))
    assert all(map(one_code, drawn))
    assert any(A in layout.cells for layout in drawn)


@pytest.mark.parametrize(
    ("columns", "cells", "whether"),
    [
        (3, (STAR, A, B), True),
        (3, (A, B, EMPTY), True),
        (3, (STAR, STAR, EMPTY), True),
        (3, (A, STAR, B), False),
        (1, (A, B, STAR), False),
        (3, (STAR, STAR, A, B, STAR, STAR), False),
    ],
)
def test_a_code_stands_in_one_row_without_a_gap(columns, cells, whether):
    assert one_code(Layout(len(cells) // columns, columns, cells, 0)) == whether


def test_characters_apart_are_the_same_things_elsewhere():
    found = 0
    for shown in map(scene, range(60)):
        other = apart(shown)
        if other is None:
            continue
        found += 1
        assert sorted(map(str, other.layout.cells)) == sorted(map(str, shown.layout.cells))
        assert not one_code(other.layout)
        assert apart(shown).layout == other.layout
    assert 5 < found < 40


def test_pictures_of_one_shape_have_as_many_rows_and_columns():
    for shown in map(scene, range(20)):
        pair = novelty.of_one_shape(shown)
        assert (pair.other.rows, pair.other.columns) == (pair.layout.rows, pair.layout.columns)
        assert pair.layout == shown.layout
        assert (shown.other.rows, shown.other.columns) != (shown.layout.rows, shown.layout.columns)


def test_a_census_counts_pictures_contents_and_pairs():
    one, two = Layout(1, 2, (STAR, A), 1), Layout(2, 1, (STAR, A), 1)
    found = census([one, replace(one, look=2), two])
    assert found.pictures == 3
    assert found.contents == {content(one), content(two)}
    assert found.pairs == {(1, 2, 0, STAR): 2, (2, 1, 0, STAR): 1}


def test_old_and_new_are_told_apart_and_each_answer_is_counted(mini):
    seeds = range(FIRST_SEED, FIRST_SEED + 4)
    known = {content(scene(seeds[1]).layout)}
    found, old = ask_new(mini, seeds, known=known)
    assert old == 1
    count = {group: sum(found.asked[key] for key in found.asked if key[1] == group)
             for group in novelty.GROUPS}  # fmt: skip
    assert count["old content"] == len(scene(seeds[1]).questions)
    assert count["old content"] + count["new content"] == sum(
        len(scene(seed).questions) for seed in seeds
    )
    scattered = [one for one in (apart(scene(seed)) for seed in seeds) if one]
    assert count["apart"] == sum(len(one.questions) for one in scattered) > 0
    assert {kind for kind, group in found.asked if group == "one shape"} == {"which"}
    for kind in ("at", "read"):
        asked = [q for one in scattered for q in one.questions if q.kind == kind]
        right = [mini.generate(q.text, images=q.images).text == q.answer for q in asked]
        assert found.right[kind, "apart"] == sum(right)


def test_the_table_says_how_many():
    found = Findings()
    for right in (True, True, False):
        found.count("at", "apart", right)
    found.count("which", "one shape", True)
    rows = [re.split("  +", line.strip()) for line in novelty_table(found)]
    assert rows[0] == ["kind", *novelty.GROUPS]
    assert ["at", "66.7 % of 3"] in rows
    assert rows[-1] == ["all", "66.7 % of 3", "100.0 % of 1"]


def test_the_command_prints_what_training_drew(monkeypatch, capsys):
    few = [scene(FIRST_SEED).layout, scene(5).layout]
    monkeypatch.setattr(novelty, "drawn_by_training", lambda: iter(few))
    assert main(["novelty", "--scenes", "2"]) == 0
    printed = capsys.readouterr().out
    assert "training 2 pictures, 2 contents" in printed
    assert "old      1 of 2 scenes have a content of training" in printed


def test_the_page_holds_what_the_command_prints():
    page = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    section = page.split("novelty: begin -->\n```\n")[1].split("\n```\n<!-- novelty: end")[0]
    above, table = section.split("\n\n")
    assert above.startswith(f"weights  {fingerprint(CHECKPOINT)}\n"), (
        "run novelty, with the weights"
    )
    kinds = [line.split()[0] for line in novelty_table(Findings())]
    assert [line.split()[0] for line in table.splitlines()] == kinds
