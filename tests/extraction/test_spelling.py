"""A page says a value in its own way: it is found, and what only looks like it is not."""

import pytest

from pixtral_mlx.extraction.spelling import find_value, numbers_of


def found(value, page):
    """The words of each place where a page says a value."""
    words = page.split(" ")
    spans = find_value(value, [(word, (0, 0, 1, 1)) for word in words])
    return [" ".join(words[start:end]) for start, end in spans]


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        (1234.5, "1,234.50"), (1234.5, "1.234,50"), (1234.5, "1234.5"), (1234.5, "1 234,50"),
        (1234.5, "1'234.50"), (1234.5, "€1,234.50"), (1234.5, "1.234,50€"), (1234.5, "$1,234.50."),
        (-12.5, "-12.50"), (-12.5, "(12.50)"), (-12.5, "12.50-"), (-12.5, "\u221212,5"),
        (1234567, "1,234,567"), (1234567, "1.234.567"), (1234567, "12,34,567"), (0.19, "19%"),
        (0.19, "0,19"), (7, "7"), (7, "7.00"), (1_000_000, "1 000 000"), ("1234.50", "1.234,50"),
        ("2024-05-03", "03.05.2024"), ("2024-05-03", "3.5.24"), ("2024-05-03", "5/3/2024"),
        ("2024-05-03", "3/5/2024"), ("2024-05-03", "May 3, 2024"), ("2024-05-03", "3 May 2024"),
        ("2024-05-03", "3rd of May 2024"), ("2024-05-03", "3. Mai 2024"),
        ("2024-05-03", "3 mayo de 2024"), ("2024-12-31", "31 décembre 2024"),
        ("2024-05-03", "2024/05/03"), ("2024-05-03", "20240503"), ("2024-02-29", "29-Feb-2024"),
        ("ACME Ltd.", "Acme LTD"), ("INV-2024/17", "INV-2024/17"), ("a b", "a b"),
        ("Straße 5", "STRASSE 5"), ("ﬁnal", "final"),
    ],
)  # fmt: skip
def test_common_spellings_are_found(value, spelled):
    assert found(value, f"Total 99 {spelled} end") == [spelled]


@pytest.mark.parametrize(
    ("value", "page"),
    [
        (1250, "12.50"), (12.5, "12.05"), (7, "17 70 A7 7B7 0.7"), (1234.5, "1,234.51 11,234.50"),
        (0.19, "19"), ("2024-05-03", "04.05.2024 3.5.2023 May 2024"), (True, "true yes"),
        (None, "null"), ("AB", "ABC CAB A"), ("", "x"), ("...", "..."), (1.5, "1/5 v1.5.2"),
        (-5, "5"), ("2024-13-45", "13.45.2024 x"),
    ],
)  # fmt: skip
def test_what_is_something_else_is_not(value, page):
    assert found(value, page) == []


def test_every_place_is_found_and_most_are_bounded():
    assert found(5, "5 x 5.00 x 5") == ["5", "5.00", "5"]
    assert len(found(5, " ".join(["5"] * 1000))) == 64


def test_a_point_may_group_or_divide():
    assert numbers_of("1.234") == {1234.0, 1.234}
    assert numbers_of("12.50") == {12.5}
    assert numbers_of("abc") == set()
