"""The conversations that teach the adapters `pages` and `charts`: what is told to look where."""

import importlib.util
import sys
from pathlib import Path
from random import Random

import pytest

import pixtral_mlx as px
from pixtral_mlx.mini.recipes import answer, user

FILE = Path(__file__).parents[2] / "scripts" / "shown_lessons.py"
SPEC = importlib.util.spec_from_file_location("shown_lessons", FILE)
shown_lessons = sys.modules["shown_lessons"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(shown_lessons)


@pytest.fixture(scope="module")
def mini():
    return px.load("mini", "float32")


def test_tokens_are_those_of_the_same_conversation(mini):
    writing = shown_lessons.Writing(mini)
    page = shown_lessons.page(Random(3), 12)
    writing.text("Page 12:")
    start = writing.picture(page.picture)
    first = writing.turn("What colour is the star?", "red")
    writing.turn("Is there a code?", "no")
    messages = [
        user("Page 12:", page.picture, "What colour is the star?"), answer("red"),
        user("Is there a code?"), answer("no"),
    ]  # fmt: skip
    (prompt, slices), *more = mini.tokenizer.encode_answers(messages)
    assert not more and writing.tokens == [*prompt.tokens] and writing.answers == slices
    assert start == prompt.spans[0].start
    assert mini.tokenizer.decode([writing.tokens[place + 1] for place in first]) == "red"
    assert mini.tokenizer.decode([writing.tokens[i] for i in writing.digits(0, 12)]) == "12"


@pytest.mark.parametrize("name", ["PageLessons", "ChartLessons"])
def test_patches_and_numbers_are_looked_at(name, mini):
    """Of pages, numbers in the first layers and patches after them; of charts patches alone; and
    nothing that comes after who looks."""
    lessons, random = getattr(shown_lessons, name)(mini, 0, 40), Random(5)
    patch, layers = mini.tokenizer.image_ids[0], set()
    for size in [size for size in lessons.rows for _ in range(6)]:
        told = lessons.told(random, size)
        for hint in told.hints:
            seen = {told.tokens[place] for place in hint.evidence}
            numbers = name == "PageLessons" and hint.layer < shown_lessons.LOOKING_LAYER
            assert mini.tokenizer.decode([*seen]).isdigit() if numbers else seen <= {patch}
            assert 0 <= hint.share <= 1 and max(hint.evidence, default=0) <= hint.place
            layers.add(hint.layer)
    assert layers == ({1, 2, 3, 4} if name == "PageLessons" else {2, 3})


def test_answers_that_count_look_at_their_evidence_and_at_no_other_patch(mini):
    lessons, random = shown_lessons.PageLessons(mini, 0, 40), Random(7)
    patch, shared, empty = mini.tokenizer.image_ids[0], 0, 0
    for _ in range(20):
        each = lessons.told(random, 2)
        patches = {i for i, token in enumerate(each.tokens) if token == patch}
        for place, kind in zip(
            (words.start - 1 for words in each.answers), each.kinds, strict=True
        ):
            hints = [h for h in each.hints if h.place == place and h.head == shown_lessons.BY_NAME]
            if kind not in ("count", "is there"):
                assert [h.share for h in hints] == [1.0] * 2
                continue
            by_share = {h.share: {*h.evidence} for h in hints}
            others = by_share.pop(0.0)
            assert patches - others == ({*next(iter(by_share.values()))} if by_share else set())
            shared, empty = shared + bool(by_share), empty + (not by_share)
    assert shared > 20 and empty > 20
