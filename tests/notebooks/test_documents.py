"""What notebook 10 shares: a line by confidence, what it costs, and answers about it."""

import pytest

from course import documents
from course.documents import Filled

SAID = [
    *(Filled("/star", True, "red", True, 0.91 + n / 100) for n in range(10)),
    Filled("/star", True, "blue", False, 0.999),  # neither right nor invented
    *(Filled("/ring", False, "red", False, n / 40) for n in range(40)),
    Filled("/moon", False, None, True, 0.999),
]
"""Of 40 inventions two may pass: those at 0.95 and 0.975; two right values are less sure."""


def test_what_a_line_lets_pass_and_what_it_costs():
    assert documents.price(SAID, 0) == (0, 1) and documents.price(SAID, 1.1) == (1, 0)
    assert documents.price(SAID, 0.945) == pytest.approx((0.4, 2 / 40))
    assert documents.told(SAID).splitlines() == [
        "there: 11 fields, 10 with the right colour",
        "not there: 41 fields, 1 left empty, 40 invented",
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (0.9, "✗ Not yet. 4 inventions pass, 10%"), (0.5, "✗ Not yet. 20 inventions pass"),
        (0.926, "✓ Right. 5% of the inventions pass, and 2 of 10 right"),
        (0.955, "✗ Not yet. Few inventions pass, but 5 of 10"),
        ("high", "Give a number"), (2, "from 0 to 1"), (None, "Give a number"),
    ],
)  # fmt: skip
def test_where_the_line_is_drawn(answer, said):
    assert said in repr(documents.check_line(answer, SAID))


def test_the_figures_stand_for_any_answers():
    for filled in (SAID, SAID[:10], SAID[11:], SAID[:1]):
        assert documents.confidences(filled).width == documents.trade(filled).width == 720
