"""pixtral-mini's world: scenes are what their questions say, and every word is one token."""

import hashlib
import re
from collections import Counter
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from pixtral_mlx.errors import ConfigError
from pixtral_mlx.inputs.tokenizer import Tokenizer
from pixtral_mlx.mini import CHECKPOINT, scene
from pixtral_mlx.mini.drawing import CHARACTERS, COLOURS, SHAPES
from pixtral_mlx.mini.learning import mini_config
from pixtral_mlx.mini.questions import KINDS, NUMBERS, ORDINALS, PLURALS, SIDES, ask
from pixtral_mlx.mini.scene_layout import Layout, Thing, draw
from pixtral_mlx.mini.words import vocabulary, words, write_tekken
from pixtral_mlx.model.prompt import patch_grid

TEKKEN = CHECKPOINT / "tekken.json"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(TEKKEN, mini_config(1).vision)


# Scenes ---------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_scene():
    first, second = scene(5), scene(5)
    assert first.layout == second.layout
    assert first.image.tobytes() == second.image.tobytes()
    for one, other in zip(first.questions, second.questions, strict=True):
        assert (one.kind, one.text, one.answer) == (other.kind, other.text, other.answer)
        assert one.patches == other.patches
        for image, again in zip(one.images, other.images, strict=True):
            assert image.tobytes() == again.tobytes()
    assert scene(6).image.tobytes() != first.image.tobytes()


def test_a_scene_is_drawn_as_ever():
    """A change here makes another world: the model must then be trained again."""
    digest = hashlib.sha256(scene(1, rows=2, columns=3).image.tobytes()).hexdigest()
    assert digest[:16] == "c87202d47f5a9edb"


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (5, 1), (2, 3), (5, 5)])
def test_cells_are_two_by_two_patches_at_any_size(rows, columns):
    config = mini_config(1).vision
    sizes = set()
    for seed in range(12):
        image = scene(seed, rows, columns).image
        sizes.add(image.size)
        assert patch_grid(image.width, image.height, config) == (2 * rows, 2 * columns)
    assert any(side % 16 for size in sizes for side in size)


def test_a_grid_that_is_not_offered_is_refused():
    with pytest.raises(ConfigError, match="rows is 6"):
        scene(0, rows=6)


def test_things_differ_as_pixels():
    """No two shapes, colours or characters are drawn alike."""
    things = [Thing(shape, "red") for shape in SHAPES] + [Thing("star", c) for c in COLOURS]
    things += [Thing(character) for character in CHARACTERS]
    pictures = [np.asarray(draw(Layout(1, 1, (thing,), 3)), int) for thing in dict.fromkeys(things)]
    for i, one in enumerate(pictures):
        for other in pictures[:i]:
            assert np.abs(one - other).mean() > 2


# Questions: each answer is found again from the text of the question alone ---------------------


def describe_thing(thing):
    if thing.colour:
        return f"a {thing.colour} {thing.name}"
    if thing.name:
        return ("the digit " if thing.name in "0123456789" else "the letter ") + thing.name
    return "nothing"


def mentioned(text):
    """The thing that a question names."""
    shape = re.search(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", text)
    if shape:
        return Thing(shape[2], shape[1])
    return Thing(re.search(r"(?:letter|digit) (\w)", text)[1])


def solve(kind, text, layout, other):
    rows = [
        layout.cells[i : i + layout.columns] for i in range(0, len(layout.cells), layout.columns)
    ]
    cells = {(r, c): thing for r, row in enumerate(rows) for c, thing in enumerate(row)}
    if kind == "colour":
        shape = next(s for s in SHAPES if s in text)
        (found,) = [t.colour for t in layout.cells if t.name == shape]
        return found
    if kind == "shape":
        colour = next(c for c in COLOURS if c in text)
        (found,) = [t.name for t in layout.cells if t.colour == colour]
        return found
    if kind == "at":
        named = re.findall("|".join(ORDINALS), text)
        numbers = [ORDINALS.index(n) + 1 for n in named] or [
            int(n) for n in re.findall(r"\d", text)
        ]
        return describe_thing(cells[numbers[0] - 1, numbers[1] - 1])
    if kind == "where":
        ((row, column),) = [place for place, thing in cells.items() if thing == mentioned(text)]
        return f"row {NUMBERS[row + 1]}, column {NUMBERS[column + 1]}"
    if kind == "read":
        return "".join(t.name for row in rows for t in row if t.name and not t.colour)
    if kind in ("rows", "columns"):
        return NUMBERS[len(rows) if kind == "rows" else len(rows[0])]
    if kind == "wide":
        high, wide = len(rows), len(rows[0])
        return "square" if high == wide else "wide" if wide > high else "tall"
    if kind == "next":
        step = SIDES[max((side for side in SIDES if f" {side} " in text), key=len)]
        ((row, column),) = [place for place, thing in cells.items() if thing == mentioned(text)]
        return describe_thing(cells[row + step[0], column + step[1]])
    if kind == "count":
        colour = next((c for c in COLOURS if f"{c} things" in text), None)
        shape = next((s for s in SHAPES if PLURALS[s] in text), None)
        return NUMBERS[sum(t.colour == colour if colour else t.name == shape for t in layout.cells)]
    if kind == "which":
        return "the first" if mentioned(text) in layout.cells else "the second"
    return None


def test_answers_are_right_and_every_kind_is_asked():
    seen = Counter()
    for seed in range(300):
        s = scene(seed)
        for question in s.questions:
            expected = solve(question.kind, question.text, s.layout, s.other)
            if expected is not None:
                assert question.answer == expected, (seed, question.text)
            seen[question.kind] += 1
    assert set(seen) == set(KINDS)
    assert min(seen.values()) > 50


def test_a_thing_that_is_asked_for_is_in_one_picture_only():
    for seed in range(100):
        s = scene(seed)
        for question in (q for q in s.questions if q.kind == "which"):
            holders = [mentioned(question.text) in x.cells for x in (s.layout, s.other)]
            assert sum(holders) == 1
            assert holders.index(True) == question.evidence_image
            assert question.images[0].size != question.images[1].size or s.layout != s.other


def test_descriptions_are_sentences_about_the_scene():
    s = scene(3, rows=2, columns=3)
    (found,) = [q.answer for q in s.questions if q.kind == "describe"]
    first, last = describe_thing(s.layout.cells[0]), describe_thing(s.layout.cells[-1])
    assert found == f"A wide picture, two rows and three columns, from {first} to {last}."
    alone = scene(3, rows=1, columns=1)
    (found,) = [q.answer for q in alone.questions if q.kind == "describe"]
    assert found == f"A square picture of {describe_thing(alone.layout.cells[0])}."


def test_evidence_lies_in_the_picture_that_holds_it():
    for seed in range(60):
        for question in scene(seed).questions:
            image = question.images[question.evidence_image]
            grid = patch_grid(image.width, image.height, mini_config(1).vision)
            assert all(r < grid.rows and c < grid.columns for r, c in question.patches)
            assert len(set(question.patches)) == len(question.patches)
            assert bool(question.patches) == (
                question.kind not in ("rows", "columns", "wide") and question.answer != "none"
            )


def test_each_kind_is_worded_in_several_ways():
    for kind in KINDS:
        texts = set()
        for seed in range(200):
            s = scene(seed)
            asked = ask(kind, s.layout, Random(seed), s.other)
            if asked:
                texts.add(asked.text)
        assert len(texts) >= 3, kind


# Words ----------------------------------------------------------------------------------------


def test_the_shipped_tokenizer_is_the_built_one(tmp_path):
    write_tekken(tmp_path / "tekken.json")
    assert (tmp_path / "tekken.json").read_bytes() == TEKKEN.read_bytes()
    assert TEKKEN.stat().st_size < 40_000


def test_every_word_of_the_scenes_is_one_token(tokenizer):
    known = {word.encode() for word in words()}
    for seed in range(200):
        for question in scene(seed).questions:
            for text in (question.text, question.answer):
                ids = tokenizer._words.encode(text, bos=False, eos=False)
                for piece in map(tokenizer._words.id_to_byte_piece, ids):
                    assert piece in known or re.fullmatch(rb"[\d ,.?]", piece), (text, piece)


def test_merging_pairs_by_rank_reaches_every_word():
    """What tokenizers without whole-word lookup do (transformers' conversion of the file)."""
    ranks = {piece: rank for rank, piece in enumerate(vocabulary())}
    for word in words():
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            pairs = [(ranks.get(a + b, 10**9), i) for i, (a, b) in enumerate(pairwise(parts))]
            rank, i = min(pairs)
            assert rank < 10**9, word
            parts[i : i + 2] = [parts[i] + parts[i + 1]]


def test_any_text_can_be_encoded_and_image_ids_are_the_official_ones(tokenizer):
    for text in ("naïve café, 東京 ☂", "[IMG] [INST]", "\n\t x"):
        ids = tokenizer._words.encode(text, bos=False, eos=False)
        assert tokenizer.decode(ids) == text
        assert min(ids) >= 20
    assert tokenizer.image_ids == (10, 12, 13)
