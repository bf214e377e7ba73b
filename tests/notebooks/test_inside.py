"""What notebooks 5 to 9 share: figures, measures, and the answers to their exercises."""

import numpy as np
import pytest
from PIL import Image

import course
from course import figures, inside, pictures

NONSENSE = (None, "four", (), {}, ("a", "b"), ((0, 0),), (None, None), (True, False), [[1], [2]])


def test_some_numbers_are_evenly_spread():
    assert inside.some(5, 9) == [0, 1, 2, 3, 4]
    assert inside.some(40, 4) == [0, 13, 26, 39]
    assert inside.some(1, 4) == [0]


def test_a_sheet_shows_each_map_by_its_own_greatest_value():
    maps = {"one": np.array([[0.0, 0.5]]), "two": np.array([[8.0, 0.0]])}
    page = pictures.sheet(maps, 2, ring=(0, 1))
    cell = (page.height - 2 * figures.PAD - 24) // 1
    left, top = figures.PAD + cell // 2, figures.PAD + 20 + cell // 2
    step = (page.width - figures.PAD) // 2
    lit = [page.getpixel((left + x, top)) for x in (0, cell, step, step + cell)]
    assert lit == [(0, 34, 78), (254, 232, 56), (254, 232, 56), (0, 34, 78)]
    assert page.getpixel((left + cell // 2, figures.PAD + 20)) == (255, 255, 255)


def test_points_lie_where_their_numbers_say():
    page = pictures.points({"a": [(0, 0), (4, 8)], "b": [(2, -4)]}, "title", "x", "y")
    colours = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in figures.SERIES[:2]]
    pixels = np.array(page)[56:]  # below the legend

    def centres(colour):
        rows, columns = np.nonzero((pixels == colour).all(axis=-1))
        return rows.min(), rows.max(), columns.min(), columns.max()

    top, bottom, left, right = centres(colours[0])
    high, low, at, to = centres(colours[1])
    assert (at + to) / 2 == pytest.approx((left + right) / 2, abs=1)
    # -4 is as far below 0 as 4 is above it: half of the way from 0 to 8.
    zero, eight, four_below = bottom - 4, top + 4, (high + low) / 2
    assert four_below - zero == pytest.approx((zero - eight) / 2, abs=2)


def test_an_axis_has_round_marks():
    assert figures.axis([2, 3, 8]).marks == list(range(9))  # few whole numbers
    assert figures.axis([0.5, 3.1]).marks == pytest.approx([0, 0.8, 1.6, 2.4, 3.2])
    assert figures.axis([-0.4, 7]).marks == pytest.approx([0, 2, 4, 6, 8])
    assert figures.axis([0, 0]).share(0) == 0
    powers = figures.axis([0.02, 3, 0], log=True)
    assert [powers.label(mark) for mark in powers.marks] == ["0.01", "0.1", "1", "10"]
    assert powers.share(0.1) == pytest.approx(1 / 3)
    assert powers.share(0) == 0
    assert figures.axis([0.0], log=True).high > figures.axis([0.0], log=True).low


def test_points_of_one_value_can_be_drawn():
    assert pictures.points({"a": [(0, 0)]}, "title", "x", "y").size[0] == figures.WIDTH


def test_words_are_written_on_their_patches():
    plain = Image.new("RGB", (40, 20), "white")
    words = np.array([["", "red"]], object)
    page = np.array(pictures.words_on(plain, words, np.array([[False, True]])))
    half = page.shape[1] // 2
    inner = page[2:-2]
    assert (inner[:, 2 : half - 2] == 255).all()
    assert (inner[:, half + 2 : -2] < 100).any()


def test_contents_name_the_cell_of_every_patch():
    shown = course.scenes(1, rows=2, columns=3)[0]
    things = inside.contents(shown)
    assert len(things) == 24
    cell = shown.layout.cell(1, 2)
    assert things[-1] == things[-2] == things[-7] == (cell.name, cell.colour)
    assert things[0] == (shown.layout.cell(0, 0).name, shown.layout.cell(0, 0).colour)


@pytest.mark.parametrize(
    ("word", "named"),
    [(" star", True), ("blu", True), ("blue", True), ("b", False), ("tar", False), ("", False)],
)
def test_a_word_names_a_thing(word, named):
    assert inside.says(word, ("star", "blue")) is named
    assert not inside.says(word, ("", ""))


def test_a_character_is_named_by_itself():
    assert inside.says("K", ("K", ""))
    assert not inside.says("one", ("1", ""))


@pytest.mark.parametrize("width", [4, 200])
def test_a_probe_reads_what_is_there_and_nothing_else(width):
    """Both ways to solve: fewer numbers than vectors, and more."""
    random = np.random.default_rng(0)
    x = random.normal(size=(120, width))
    x[:, : width // 4] = x[:, :1]
    there = ["low" if value < 0 else "high" for value in x[:, 0]]
    chance = [str(n) for n in random.integers(0, 4, 120)]
    parts = [slice(0, 80), slice(80, 120)]
    read, guess = (
        inside.probe(*((x[part], labels[part]) for part in parts)) for labels in (there, chance)
    )
    assert read > 0.75
    assert guess < 0.5


def test_labels_go_with_their_vectors():
    shown = course.scenes(2)
    sizes = [4 * len(one.layout.cells) for one in shown]
    vectors = [np.arange(n)[:, None] + 1000 * i for i, n in enumerate(sizes)]
    found, labels = inside.labelled(shown, vectors, 1)
    assert len(found) == len(labels) and "" not in labels
    things = inside.contents(shown[1])
    last = [n for n in range(sizes[1]) if things[n][1]][-1]
    assert found[-1, 0] == 1000 + last and labels[-1] == things[last][1]


def _seen(attention, drops):
    return inside.Seen("at", np.array(attention, float), np.array(drops), np.zeros(4, bool))


def test_agreement_is_that_of_the_chosen_layers():
    drops = [0.0, 1.0, 2.0, 3.0]
    attention = [[[1, 2, 3, 4]], [[4, 3, 2, 1]]]  # layer 0 agrees, layer 1 disagrees
    seen = [_seen(attention, drops)] * 3
    assert inside.agreement(seen, [0]) == pytest.approx((1, 0, 1, 0.25))
    assert inside.agreement(seen, [1]) == pytest.approx((-1, 0, 0, 0.25))
    flat = _seen([[[1, 1, 1, 1]]] * 2, drops)
    assert inside.agreement([*seen, flat], [0])[0] == pytest.approx(1)


# Exercises ----------------------------------------------------------------------------------------

DISTANCES = np.array([[1.0, 3.0], [0.5, 2.0]])
DROPS = np.array([[0.1, 0.2, 4.0]])
LENS = ["the", "a", "red", "red"]
WORDS = [(" star", 0.7), ("two", 0.2), ("b", 0.1)]

PLACES = lambda x: np.argsort(np.argsort(x))  # noqa: E731
RANKS = {
    "right": (lambda a, b: np.corrcoef(PLACES(a), PLACES(b))[0, 1], "Only the order"),
    "numbers": (lambda a, b: np.corrcoef(a, b)[0, 1], "one large loss decides"),
    "argsort once": (lambda a, b: np.corrcoef(np.argsort(a), np.argsort(b))[0, 1], "twice"),
    "turned": (lambda a, b: np.corrcoef(PLACES(a), -PLACES(b))[0, 1], "wrong way round"),
    "other": (lambda a, b: 0.123, "Put the place"),
    "nothing": (lambda a, b: None, "Give a number"),
    "not a number": (lambda a, b: np.nan, "Put the place"),
}


@pytest.mark.parametrize("name", RANKS)
def test_a_wrong_rank_correlation_is_explained(name):
    answer, why = RANKS[name]
    verdict = inside.check_rank(answer)
    assert verdict.right == (name == "right")
    assert why in verdict.text


CHECKS = {
    "rank": inside.check_rank,
    "heads": lambda answer: inside.check_heads(answer, DISTANCES),
    "settled": lambda answer: inside.check_settled(answer, LENS),
    "says": lambda answer: inside.check_says(answer, WORDS),
    "block": lambda answer: inside.check_block(answer, DROPS),
}


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("heads", ((1, 0), (0, 1)), [((0, 0), (0, 1)), ((1, 0), (1, 1)), ((5, 0), (0, 1))]),
        ("settled", 2, [0, 1, 3, 4, -1]),
        ("says", "star", ["two", "moon"]),
        ("block", (1, 3), [(1, 1), (1, 2), (2, 1), (0, 3), (1, 4)]),
    ],
)
def test_checks_know_right_from_wrong_and_say_why(name, right, wrong):
    assert CHECKS[name](right).right
    found = [CHECKS[name](answer) for answer in wrong]
    assert not any(verdict.right for verdict in found)
    assert all(verdict.text for verdict in found)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("nonsense", NONSENSE, ids=repr)
def test_checks_explain_nonsense(name, nonsense):
    if name == "says" and nonsense == "four":
        return  # a word like any other
    verdict = CHECKS[name](nonsense)
    assert not verdict.right
    assert "give" in verdict.text.lower() or "there is no" in verdict.text.lower()
