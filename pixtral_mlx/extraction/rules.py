"""Rules among the values of a document: `"x-checks": ["total == sum(lines.amount)"]`.

A rule compares two expressions: paths into the data, numbers, texts in quotes, + - * /, and
sum(), count(), min(), max() and unique() of a path. A path through an array stands for the values
of all its rows, and then the rule holds row by row: `lines.amount == lines.quantity * lines.price`.
Dates as the schema writes them (2024-05-03) compare as texts. Where a value is missing the rule
says nothing. Nothing is evaluated by Python.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ..checks import shown
from ..errors import FormError
from .leaves import pointer_of

MOST_LETTERS = 500
MOST_RULES = 100
CLOSE = Decimal("0.005")
"""Half a cent: amounts that are rounded may differ by so much."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<text>\"[^\"]*\"|'[^']*')"
    r"|(?P<name>[^\W\d]\w*)|(?P<mark>==|!=|<=|>=|[<>+\-*/().]))"
)
_COMPARE = ("==", "!=", "<=", ">=", "<", ">")
FUNCTIONS = ("sum", "count", "min", "max", "unique")

Node = tuple[Any, ...]
"""("number", Decimal), ("text", str), ("path", names), (function, names), (mark, left, right)."""


@dataclass(frozen=True)
class Rule:
    """A rule that has been read.

    Arguments:
        text: as the schema has it.
        tree: what it says.
    """

    text: str
    tree: Node


@dataclass(frozen=True)
class Broken:
    """A rule that does not hold.

    Arguments:
        reason: with both values.
        pointers: of the values that it is about.
    """

    reason: str
    pointers: tuple[str, ...]


def rules_of(schema: Mapping[str, Any]) -> list[Rule]:
    """The rules in `x-checks`.

    Raises:
        FormError: one cannot be read; the line shows where.
    """
    stated = schema.get("x-checks", [])
    if not isinstance(stated, list) or not all(isinstance(each, str) for each in stated):
        raise FormError(f"x-checks must be a list of strings, got {shown(stated)}")
    if len(stated) > MOST_RULES:
        raise FormError(f"x-checks has {len(stated):,} rules; allowed: {MOST_RULES}")
    return [Rule(text, _Parser(text).rule()) for text in stated]


def broken(rules: Sequence[Rule], data: Any) -> list[Broken]:
    """The rules that do not hold among some values."""
    return [found for rule in rules for found in _broken(rule, data)]


class _Parser:
    """Reads one rule: comparison, sums, products, and what stands alone."""

    def __init__(self, text: str):
        if len(text) > MOST_LETTERS:
            raise FormError(f"x-checks: a rule of {len(text):,} letters; allowed: {MOST_LETTERS}")
        self._text, self._depth = text, 0
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            if (found := _TOKEN.match(text, at)) is None:
                raise self._error(f"{text[at:].strip()[:20]!r} is not understood")
            self._tokens.append((str(found.lastgroup), found[0].strip()))
            at = found.end()

    def rule(self) -> Node:
        """The whole rule."""
        left = self._sum()
        if left[0] == "unique" and not self._tokens:
            return left
        kind, mark = self._next()
        if mark not in _COMPARE or kind != "mark":
            raise self._error(f"{mark or 'its end'!r} where a comparison is expected")
        right = self._sum()
        if self._tokens:
            raise self._error(f"{self._tokens[0][1]!r} after the rule")
        return mark, left, right

    def _sum(self) -> Node:
        found = self._product()
        while self._peek() in ("+", "-"):
            found = self._next()[1], found, self._product()
        return found

    def _product(self) -> Node:
        found = self._alone()
        while self._peek() in ("*", "/"):
            found = self._next()[1], found, self._alone()
        return found

    def _alone(self) -> Node:
        kind, text = self._next()
        if kind == "number":
            return "number", Decimal(text)
        if kind == "text":
            return "text", text[1:-1]
        if text == "-":
            return "-", ("number", Decimal(0)), self._nested(self._alone)
        if text == "(":
            inner = self._nested(self._sum)
            self._expect(")")
            return inner
        if kind == "name" and text in FUNCTIONS and self._peek() == "(":
            self._expect("(")
            path = self._path(self._next())
            self._expect(")")
            return text, path
        return "path", self._path((kind, text))

    def _nested(self, read: Any) -> Node:
        self._depth += 1
        if self._depth > 50:
            raise self._error("too many brackets within brackets")
        return read()

    def _path(self, first: tuple[str, str]) -> tuple[str, ...]:
        kind, name = first
        if kind != "name":
            raise self._error(f"{name or 'its end'!r} where a value is expected")
        names = [name]
        while self._peek() == ".":
            self._next()
            kind, name = self._next()
            if kind != "name":
                raise self._error(f"{name or 'its end'!r} where a name is expected")
            names.append(name)
        return tuple(names)

    def _peek(self) -> str:
        return self._tokens[0][1] if self._tokens and self._tokens[0][0] == "mark" else ""

    def _next(self) -> tuple[str, str]:
        return self._tokens.pop(0) if self._tokens else ("", "")

    def _expect(self, mark: str) -> None:
        if self._peek() != mark:
            raise self._error(f"{mark!r} is missing")
        self._next()

    def _error(self, why: str) -> FormError:
        return FormError(
            f"x-checks: {self._text[:60]!r}: {why}; allowed: a comparison such as total == "
            "sum(lines.amount), or unique(lines.number)"
        )


# Evaluating ------------------------------------------------------------------------------------


class _SkipError(Exception):
    """A value is missing, or cannot be compared."""


def _broken(rule: Rule, data: Any) -> list[Broken]:
    try:
        if rule.tree[0] == "unique":
            return _repeated(rule, data)
        mark, left, right = rule.tree
        pairs = _pairs(_value(left, data), _value(right, data))
        wrong = [(row, a, b) for row, a, b in pairs if not _holds(mark, a, b)]
    except _SkipError:
        return []
    paths = [path for side in (left, right) for path in _paths(side)]
    found = []
    for row, a, b in wrong:
        at = "" if row is None else f", row {row + 1}"
        pointers = [
            pointer
            for path in paths
            for number, pointer in _pointers(data, path, ())
            if row is None or number in (None, row)
        ]
        reason = f"{rule.text}{at}: {_written(a)} and {_written(b)}"
        found.append(Broken(reason, tuple(dict.fromkeys(pointers))))
    return found


def _repeated(rule: Rule, data: Any) -> list[Broken]:
    values = _value(("path", rule.tree[1]), data)
    places = [pointer for _, pointer in _pointers(data, rule.tree[1], ())]
    found = []
    for value in dict.fromkeys(values if isinstance(values, list) else []):
        same = [place for place, other in zip(places, values, strict=True) if other == value]
        if len(same) > 1:
            reason = f"{rule.text}: {_written(value)} is there {len(same)} times"
            found.append(Broken(reason, tuple(same)))
    return found


def _value(node: Node, data: Any) -> Any:
    """A Decimal or a text, or a list of them."""
    kind = node[0]
    if kind in ("number", "text"):
        return node[1]
    if kind == "path":
        values, many = _look_up(data, node[1])
        return values if many else values[0]
    if kind in FUNCTIONS:
        values, _ = _look_up(data, node[1], may_lack=kind == "count")
        return _function(kind, values)
    left, right = (_value(side, data) for side in node[1:])
    pairs = _pairs(left, right)
    found = [_computed(kind, a, b) for _, a, b in pairs]
    return found if isinstance(left, list) or isinstance(right, list) else found[0]


def _function(kind: str, values: list[Any]) -> Any:
    if kind == "count":
        return Decimal(len(values))
    if kind == "sum":
        if not all(isinstance(value, Decimal) for value in values):
            raise _SkipError
        return sum(values, Decimal(0))
    if not values or len({type(value) for value in values}) > 1:
        raise _SkipError
    return min(values) if kind == "min" else max(values)


def _pairs(left: Any, right: Any) -> list[tuple[int | None, Any, Any]]:
    """Row by row where one is a list: (number of the row, left, right)."""
    if not isinstance(left, list) and not isinstance(right, list):
        return [(None, left, right)]
    count = len(left if isinstance(left, list) else right)
    sides = [side if isinstance(side, list) else [side] * count for side in (left, right)]
    if len(sides[0]) != len(sides[1]):
        raise _SkipError
    return [(row, a, b) for row, (a, b) in enumerate(zip(*sides, strict=True))]


def _computed(mark: str, a: Any, b: Any) -> Decimal:
    if not isinstance(a, Decimal) or not isinstance(b, Decimal) or (mark == "/" and not b):
        raise _SkipError
    return {"+": a + b, "-": a - b, "*": a * b}[mark] if mark != "/" else a / b


def _holds(mark: str, a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        raise _SkipError
    equal = abs(a - b) <= CLOSE if isinstance(a, Decimal) else a == b
    return {
        "==": equal, "!=": not equal, "<=": equal or a < b, ">=": equal or a > b,
        "<": a < b and not equal, ">": a > b and not equal,
    }[mark]  # fmt: skip


def _look_up(data: Any, names: Sequence[str], *, may_lack: bool = False) -> tuple[list[Any], bool]:
    """The values at a path, and whether it leads through an array.

    Raises:
        _SkipError: one is missing or null.
    """
    values, many = [data], False
    for name in names:
        inner = []
        for value in values:
            rows = value if isinstance(value, list) else [value]
            many |= isinstance(value, list)
            inner += [row.get(name) if isinstance(row, Mapping) else None for row in rows]
        values = inner
    if any(isinstance(value, list) for value in values):
        values, many = [v for value in values if isinstance(value, list) for v in value], True
    if not may_lack and any(value is None for value in values):
        raise _SkipError
    return [_exact(value) for value in values], many


def _exact(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(repr(value))
    return value if value is None or isinstance(value, str | Decimal) else str(value)


def _paths(node: Node) -> list[tuple[str, ...]]:
    if node[0] == "path" or node[0] in FUNCTIONS:
        return [node[1]]
    return [path for side in node[1:] if isinstance(side, tuple) for path in _paths(side)]


def _pointers(
    data: Any, names: Sequence[str], path: tuple[str | int, ...], row: int | None = None
) -> list[tuple[int | None, str]]:
    """Pointers of the values at a path, each with the number of its row, if it has one."""
    if isinstance(data, list):
        numbered = enumerate(data)
        return [p for i, inner in numbered for p in _pointers(inner, names, (*path, i), i)]
    if not names:
        return [(row, pointer_of(path))]
    inner = data.get(names[0]) if isinstance(data, Mapping) else None
    return _pointers(inner, names[1:], (*path, names[0]), row)


def _written(value: Any) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
