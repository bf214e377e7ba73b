"""Values checked in one wording: "temperature must be between 0 and 100, got 200".

An option is declared once, as a dataclass field: its range, its unit and a sentence of help stand
in the field (`option`). The class checks itself by them (`check_fields`), and the command line
makes its flags of them (`flags`).
"""

import math
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

_MOST_DIGITS = 40


def unboxed(value: Any) -> Any:
    """Python's own number for one of NumPy or MLX, an array without axes included; anything else as
    it is."""
    boxed = hasattr(value, "item") and getattr(value, "shape", None) == ()
    return value.item() if boxed else value


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, Python's or NumPy's; True and False are not."""
    value = unboxed(value)
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a real number, Python's or NumPy's; True and False are not."""
    value = unboxed(value)
    return isinstance(value, Real) and not isinstance(value, bool)


def whole(name: str, value: Any, lowest: int, highest: int | None = None) -> int:
    """The value as an int.

    Raises:
        ValueError: it is no whole number, below `lowest`, or above `highest`.
    """
    value = unboxed(value)
    if not is_whole(value):
        raise ValueError(f"{name} must be a whole number, got {shown(value)}")
    _check_range(name, value, lowest, highest)
    return int(value)


def number(
    name: str, value: Any, lowest: float, highest: float | None = None, *, above: bool = False
) -> Any:
    """The value, as Python has it.

    Arguments:
        above: the lowest itself is not allowed.

    Raises:
        ValueError: it is no number (NaN is none), infinite, below `lowest`, or above `highest`.
    """
    value = unboxed(value)
    if not is_number(value) or value != value:
        raise ValueError(f"{name} must be a number, got {shown(value)}")
    if highest is None and value == math.inf:
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    if above and (value <= lowest or (highest is not None and value > highest)):
        most = "" if highest is None else f" and at most {highest}"
        raise ValueError(f"{name} must be above {lowest}{most}, got {shown(value)}")
    _check_range(name, value, lowest, highest)
    return value


def one_of(name: str, value: Any, allowed: Iterable[Any]) -> Any:
    """The one of `allowed` that equals the value; True is not 1.

    Raises:
        ValueError: none does.
    """
    allowed, value = tuple(allowed), unboxed(value)
    if value is None or isinstance(value, str | Real):
        for item in allowed:
            if item == value and isinstance(item, bool) == isinstance(value, bool):
                return item
    raise ValueError(f"{name} must be {listed(allowed)}, got {shown(value)}")


def check_index(name: str, value: Any, count: int) -> None:
    """Raise IndexError, saying what exists, unless 0 <= value < count."""
    if not is_whole(value) or not 0 <= value < count:
        exist = f"there are {count}, 0 to {count - 1}" if count else "there is none"
        raise IndexError(f"{name} {shown(value)}: {exist}")


def listed(items: Iterable[Any]) -> str:
    """ "4, 8 or None"."""
    *first, last = map(str, items)
    return f"{', '.join(first)} or {last}" if first else last


def shown(value: Any) -> str:
    """A value as an error names it: short."""
    value = unboxed(value)
    if not is_number(value):
        return reprlib.repr(value)
    try:
        text = str(value)
    except ValueError:
        return "a number of thousands of digits"  # which Python does not write
    return text if len(text) <= _MOST_DIGITS else f"{text[:10]}... ({len(text):,} digits)"


def _check_range(name: str, value: Any, lowest: float, highest: float | None) -> None:
    if highest is None:
        if value < lowest:
            raise ValueError(f"{name} must be {lowest} or more, got {shown(value)}")
    elif not lowest <= value <= highest:
        raise ValueError(f"{name} must be between {lowest} and {highest}, got {shown(value)}")


@dataclass(frozen=True)
class Option:
    """What a field of options says of itself.

    Arguments:
        help: one sentence, without a full stop; it stands in the class's docstring too.
        kind: int, float, bool or str; None where the class checks the value by itself.
        range: the lowest and the highest value of a number; None: no highest.
        choices: all values that there are, but for None where that is the default.
        unit: what is counted, as the command line spells it: TOKENS.
        repeated: whether the flag may be given several times.
        optional: whether None is a value though it is not the default.
    """

    help: str
    kind: type | None = None
    range: tuple[Any, Any] = (0, None)
    choices: tuple[Any, ...] = ()
    unit: str = ""
    repeated: bool = False
    optional: bool = False

    def check(self, name: str, value: Any, default: Any) -> Any:
        """The value; None is one if it is the default, or `optional`.

        Raises:
            ValueError: it is not allowed.
        """
        if self.choices:
            return one_of(name, value, (*self.choices, None) if default is None else self.choices)
        if self.kind is bool:
            return one_of(name, value, (True, False))
        if self.kind is None or (value is None and (default is None or self.optional)):
            return value
        return (whole if self.kind is int else number)(name, value, *self.range)


def option(default: Any, **declared: Any) -> Any:
    """A dataclass field that is an option.

    Arguments:
        declared: the arguments of `Option`.
    """
    return field(default=default, metadata={"option": Option(**declared)})


def options_of(kind: Any) -> dict[str, tuple[Option, Any]]:
    """What a class, or an object, declares: {name: (option, default)}."""
    declared = (f for f in fields(kind) if "option" in f.metadata)
    return {f.name: (f.metadata["option"], f.default) for f in declared}


def check_fields(options: Any) -> None:
    """Check every field of a (frozen) object by its own declaration.

    Raises:
        ValueError: a value that is not allowed.
    """
    for name, (declared, default) in options_of(options).items():
        checked = declared.check(name, getattr(options, name), default)
        object.__setattr__(options, name, checked)
