"""Rules among values: what they say, what they leave alone, and what is no rule."""

import pytest

import pixtral_mlx as px
from pixtral_mlx.extraction.rules import broken, rules_of

DATA = {
    "total": 30.0, "tax": 0.1, "issued": "2024-05-03", "due": "2024-06-02", "none": None,
    "seller": {"name": "A"},
    "lines": [
        {"number": "1", "quantity": 2, "price": 5.0, "amount": 10.0},
        {"number": "2", "quantity": 1, "price": 20.0, "amount": 20.0},
    ],
    "tags": ["a", "b", "a"],
}  # fmt: skip


def reasons(*rules, data=DATA):
    return [(each.reason, each.pointers) for each in broken(rules_of({"x-checks": [*rules]}), data)]


@pytest.mark.parametrize(
    "rule",
    [
        "total == sum(lines.amount)", "lines.amount == lines.quantity * lines.price",
        "due >= issued", "unique(lines.number)", "total > 0",
        "count(lines.number) == 2", "max(lines.amount) <= total", "total - 10 == 2*(5 + 5)",
        "seller.name == 'A'", "total / 3 == 10", "-total < 0", "total * tax == 3",
        "total == 30.004", "none == total", "missing.path > 1", "total == seller.name",
        "total / 0 == 1", "sum(tags) == 1", "min(lines.quantity) == 1", 'issued != "2024-05-04"',
    ],
)  # fmt: skip
def test_rules_that_hold_or_say_nothing(rule):
    assert reasons(rule) == []


def test_both_numbers_are_in_the_reason_and_the_fields_are_named():
    ((reason, pointers),) = reasons("total + 1 == sum(lines.amount)")
    assert reason == "total + 1 == sum(lines.amount): 31.0 and 30.0"
    assert pointers == ("/total", "/lines/0/amount", "/lines/1/amount")


def test_a_rule_about_rows_names_the_row():
    wrong = {**DATA, "lines": [DATA["lines"][0], {**DATA["lines"][1], "amount": 21.0}]}
    ((reason, pointers),) = reasons("lines.amount == lines.quantity * lines.price", data=wrong)
    assert reason.endswith(", row 2: 21.0 and 20.0")
    assert pointers == ("/lines/1/amount", "/lines/1/quantity", "/lines/1/price")


def test_what_is_there_twice():
    assert reasons("unique(tags)") == [("unique(tags): a is there 2 times", ("/tags/0", "/tags/2"))]
    assert reasons("due < issued")[0][1] == ("/due", "/issued")


def test_numbers_are_compared_as_they_are_written():
    assert reasons("a + b == c", data={"a": 0.1, "b": 0.2, "c": 0.3}) == []
    assert reasons("a != b", data={"a": 10**17, "b": 10**17 + 1}) == []


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("total", "where a comparison is expected"), ("total ==", "where a value is expected"),
        ("total == (1", "')' is missing"), ("total == 1 1", "after the rule"),
        ("total = 1", "is not understood"), ("a..b == 1", "where a name is expected"),
        ("__import__('os') == 1", "where a comparison is expected"), ("(" * 60 + "1", "brackets"),
        ("sum(1) == 1", "where a value is expected"), ("x" * 501, "501 letters"),
        ("- " * 100 + "1 == 1", "brackets"),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_said_in_a_line(rule, said):
    with pytest.raises(px.FormError, match=r"^x-checks: ") as error:
        rules_of({"x-checks": [rule]})
    assert said in str(error.value) and "\n" not in str(error.value)


def test_rules_are_a_list_of_texts():
    for stated in ("a == b", [1], {"a": 1}, ["a == b"] * 101):
        with pytest.raises(px.FormError, match="x-checks"):
            rules_of({"x-checks": stated})
