"""What an error says, whatever it saw."""

import pickle

import pytest

from pixtral_mlx.checks import check_index, shown
from pixtral_mlx.errors import (
    MOST_LETTERS,
    CheckpointError,
    ConfigError,
    ImageError,
    PixtralError,
    one_line,
)


@pytest.mark.parametrize("kind", [PixtralError, ConfigError, CheckpointError, ImageError])
def test_every_error_is_one_short_printable_line(kind):
    said = str(kind(f"a  b: \x1b[31m\u202e{'9' * 5000}\n\n\tallowed: c\udce9 \u2028d "))
    assert said.isprintable() and len(said) <= MOST_LETTERS
    assert said.startswith("a  b: ?[31m?999") and said.endswith("999 allowed: c? d")
    assert str(kind("short")) == "short" and not str(kind())
    assert str(pickle.loads(pickle.dumps(kind("x\ny")))) == "x y"


def test_long_texts_take_no_time():
    assert len(one_line(" " * 10**7 + "\n" + "a" * 10**7)) <= MOST_LETTERS


def test_values_are_shown_short():
    for value in (10**50, -(10**4000), 10**6000, "x" * 10**5, ["y" * 99] * 99):
        assert len(shown(value)) < 200
        with pytest.raises(IndexError) as caught:
            check_index("layer", value, 3)
        assert len(str(caught.value)) < 250


def test_numbers_are_shown_as_they_are():
    assert [shown(n) for n in (12, 1e-5, 2**63, 1e300)] == ["12", "1e-05", str(2**63), "1e+300"]
