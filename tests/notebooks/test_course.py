"""What the notebooks share: scenes, accuracy, figures, and checks that explain wrong answers."""

import re

import numpy as np
import pytest

import course
import pixtral_mlx as px
from course import figures
from pixtral_mlx.mini import CHECKPOINT
from pixtral_mlx.mini.evaluation import FIRST_SEED
from pixtral_mlx.model.rope import Rope2D


def test_scenes_are_not_those_of_training_or_evaluation():
    seeds = [one.seed for one in course.scenes(3)]
    assert min(seeds) >= FIRST_SEED + 1_000_000
    assert [one.seed for one in course.scenes(2)] == seeds[:2]
    assert course.scenes(1, 2, 4)[0].layout.columns == 4


def test_accuracy_counts_exact_answers():
    asked = course.questions(course.scenes(1), "rows", "columns")
    assert [q.kind for q in asked] == ["rows", "columns"]
    right = [q.answer for q in asked]
    assert course.accuracy(right, asked) == 1
    assert course.accuracy([right[0], "eleven"], asked) == 0.5
    with pytest.raises(ValueError):
        course.accuracy(right[:1], asked)


def test_relative_error_is_relative():
    assert course.relative_error([3.0, 4.0], [3.0, 4.0]) == 0
    assert course.relative_error([3.3, 4.4], [3.0, 4.0]) == pytest.approx(0.1, rel=1e-5)
    with pytest.raises(ValueError, match="one shape"):
        course.relative_error([1.0], [1.0, 2.0])


def test_figures_draw_what_they_are_given():
    """A bar twice as high is twice as long; cividis' ends are where the numbers are."""
    page = figures.bars({"a": 0.5, "b": 1.0})
    colour = tuple(int(figures.SERIES[0][i : i + 2], 16) for i in (1, 3, 5))
    pixels = [page.getpixel((x, y)) for y in range(page.height) for x in range(page.width)]
    lengths = []
    for y in range(page.height):
        row = pixels[y * page.width : (y + 1) * page.width]
        lengths.append(row.count(colour))
    found = sorted({length for length in lengths if length > 20})
    assert found[-1] == pytest.approx(2 * found[0], abs=3)
    page = figures.heat(np.array([[0.0, 1.0]]))
    assert page.getpixel((figures.PAD + 10, 60)) == (0, 34, 78)
    assert page.getpixel((figures.PAD + 60, 60)) == (254, 232, 56)
    assert figures.table(["a"], ["b"])._repr_markdown_() == "| a |\n| --- |\n| b |"
    series = {"one": [(0, 1), (10, 3)], "two": [(0, 2), (10, 2)]}
    assert figures.lines(series, "title", "x", "y").size == (figures.WIDTH, 400)


def rebuild(answer):
    return course.check_rebuild(answer, (10, 12, 13))


def shift(answer):
    return course.check_shift(answer, Rope2D(px.load_config(CHECKPOINT).vision))


NONSENSE = (None, "four", 4, (), (1,), (1, 2, 3), ("a", "b"), (None, None), {}, [[1], [2]])


@pytest.mark.parametrize("nonsense", NONSENSE, ids=repr)
def test_checks_explain_nonsense(nonsense):
    for check in (course.check_bits, course.check_grids, course.check_mask, rebuild, shift):
        verdict = check(nonsense)
        assert not verdict.right
        assert "give" in verdict.text.lower()


def test_bits():
    assert course.check_bits((4.5, 5)).right
    assert repr(course.check_bits([4.5, 5.0])).startswith("✓ Right.")
    wrong = {course.check_bits(a).text for a in ((4, 4), (4.25, 4.5), (5, 4.5), (6, 6))}
    assert len(wrong) == 4
    assert not any(course.check_bits(a).right for a in ((4, 4), (4.25, 4.5), (5, 4.5), (6, 6)))


GRIDS = {
    (512, 512): (32, 32), (1024, 768): (48, 64), (1920, 1080): (36, 64), (500, 100): (7, 32),
    (2048, 40): (2, 64),
}  # fmt: skip


@pytest.mark.parametrize(
    "size, wrong, why",
    [
        ((1024, 768), (64, 48), "rows come first"),
        ((1920, 1080), (68, 120), "shrunk first"),
        ((1920, 1080), (33, 64), "1024 × 576"),
        ((500, 100), (6, 31), "round up"),
        ((512, 512), (16, 16), "divide each side by 16"),
        ((512, 512), None, "two whole numbers"),
        ((512, 512), (True, "x"), "two whole numbers"),
    ],
)
def test_grids(size, wrong, why):
    assert course.check_grids(GRIDS).right
    verdict = course.check_grids({**GRIDS, size: wrong})
    assert not verdict.right
    assert "4 of 5" in verdict.text
    assert why in verdict.text


def test_rebuild():
    assert rebuild(lambda t: (len(t) - t.count(10), t.count(10) // (len(t) - t.count(10)))).right
    for wrong, why in (
        (lambda t: (t.count(12), 10), "ends too"),
        (lambda t: (t.count(10) // (t.count(12) + 1), t.count(12) + 1), "Rows come first"),
        (lambda t: (t.count(12) + 1, 8), r"For (8, 4) it gives (8, 8)"),
        (lambda t: 1 // 0, "ZeroDivisionError"),
        (lambda t: "4 x 8", "it gives '4 x 8'"),
    ):
        verdict = rebuild(wrong)
        assert not verdict.right
        assert why in verdict.text


@pytest.mark.parametrize(
    "wrong, why",
    [
        ((5, 1), "now -4 and -8"),
        ((7, 12), "now -2 and +3"),
        ((6, 11), "mirror image"),
        ((0, 3), "from 1 to 40"),
        ((99, 3), "from 1 to 40"),
    ],
)
def test_shift(wrong, why):
    assert shift((12, 7)).right
    verdict = shift(wrong)
    assert not verdict.right
    assert why in verdict.text


def test_large_scenes_have_whole_patches():
    for layout, picture in course.large_scenes(2, 7):
        assert picture.size == (7 * 32, 7 * 32)
        assert (layout.rows, layout.columns) == (7, 7)
    assert course.colour_number(layout.cells[0]) in range(9)
    assert len({course.large_scenes(1, 2, first)[0][0] for first in (0, 500)}) == 2


def own(lengths):
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner[:, None] == owner


def test_mask():
    assert course.check_mask(own).right
    assert course.check_mask(lambda lengths: own(lengths).astype(int).tolist()).right
    for wrong, why in (
        (lambda n: np.ones((sum(n), sum(n))), "patch 1 may see patch 3, of another picture"),
        (lambda n: np.tril(own(n)), "patch 1 may not see patch 2, of its own picture"),
        (lambda n: np.eye(3), r"its shape is (3, 3); it should be (5, 5)"),
        (lambda n: n / 2, "TypeError"),
        (lambda n: own([2, 3]) if n == [2, 3] else own([1] * sum(n)), "For [4]"),
    ):
        verdict = course.check_mask(wrong)
        assert not verdict.right
        assert why in verdict.text


def test_quiet(mini):
    here, there = (one.image for one in course.scenes(2, rows=2, columns=2))
    assert course.check_quiet(here, here, mini).right
    assert course.check_quiet(here.copy(), here, mini).right
    loud = course.check_quiet(there, here, mini)
    assert not loud.right
    assert int(re.search(r"change by (\d+)%", loud.text)[1]) > 1
    for nonsense in (None, 3, "no such file.png"):
        assert "Give a picture" in course.check_quiet(nonsense, here, mini).text
