"""What an answer to one question may look like, and the value that it says.

A model answers a question in words and not in JSON, so a field's form is its plain text: the
choices of an enum, digits, what a pattern allows. Numbers up to twenty may be written as words.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from ..engine.form import Form, as_form
from .leaves import Leaf, compact, without_extensions

WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
)  # fmt: skip
NUMBERS = {**{word: number for number, word in enumerate(WORDS)}, "none": 0}
MOST_LETTERS = 500
"""Of a text for which the schema has no `maxLength`."""
MOST_KEPT = 20_000
"""Letters of a schema whose form is kept for the next question."""
MOST_ROWS = 100
"""Of an array for which the schema has no `maxItems`, asked for one by one."""

YES_OR_NO = {"type": "regex", "regex": "yes|no"}
A_LINE = {"type": "regex", "regex": r"[^\s][^\n]{0,59}"}

_NOTHING = {"no", "none", "nothing", "0", "zero", "null", "nowhere", "neither"}
_NONE_THERE = re.compile(r"there (is|are|was|were) (no|none|nothing|not)\b")
_PLAIN_PATTERN = re.compile(r"\(\?[=!<]|\\[1-9bBAZ]")
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_FORMATS = {"date": _DATE, "time": r"[0-9]{2}:[0-9]{2}(:[0-9]{2})?"}


def plain_form(leaf: Leaf) -> dict[str, Any] | None:
    """A form for a leaf's value in plain text, as `response_format`; None: only JSON will do."""
    schema = leaf.schema
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if choices is not None:
        return _grammar(map(_as_text, choices)) if choices else None
    kind = schema.get("type")
    if kind == "boolean":
        return {"type": "regex", "regex": "yes|no|true|false"}
    if kind in ("integer", "number"):
        words = [word for word, number in NUMBERS.items() if is_valid(leaf, number)]
        return _grammar(words, schema=_in_json(leaf))
    if kind == "string":
        return _text_form(schema)
    return None


def json_form(leaf: Leaf) -> Form:
    """The form of its value as JSON."""
    return _form(compact(_in_json(leaf)))


def rows_form(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The form of an answer to how many rows there are."""
    most = min(int(schema.get("maxItems", MOST_ROWS)), MOST_ROWS)
    words = [word for word, number in NUMBERS.items() if number <= most]
    return _grammar(words, schema={"type": "integer", "minimum": 0, "maximum": most})


def read_plain(leaf: Leaf, text: str) -> Any:
    """The value that a plain text says; it may break the schema."""
    text, schema = text.strip(), leaf.schema
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if choices is not None:
        return next((each for each in choices if _as_text(each) == text), text)
    kind = schema.get("type")
    if kind == "boolean":
        return text in ("yes", "true")
    return read_number(text) if kind in ("integer", "number") else text


def read_number(text: str) -> Any:
    """A number in digits or in words; the text itself where it is none."""
    if text in NUMBERS:
        return NUMBERS[text]
    try:
        return json.loads(text)
    except ValueError:
        return text


def says_absent(text: str) -> bool:
    """Whether an answer says that there is nothing."""
    said = " ".join(text.lower().split())
    first = re.split(r"[ ,.;:!]", said, maxsplit=1)[0]
    return first in _NOTHING or _NONE_THERE.match(said) is not None


def is_valid(leaf: Leaf, value: Any) -> bool:
    """Whether the schema allows a value there."""
    return _form(compact(_in_json(leaf))).read(compact(value))[1] is None


def schema_form(schema: Mapping[str, Any]) -> Form:
    """The form of a value under a schema, extensions and all."""
    return _form(compact(without_extensions(schema)))


def _form(schema: str) -> Form:
    """The form of a schema, which takes longer to check than an answer takes to read: so they are
    kept, but for those that are long."""
    return (_kept if len(schema) < MOST_KEPT else _kept.__wrapped__)(schema)


@lru_cache(maxsize=256)
def _kept(schema: str) -> Form:
    held = {"schema": json.loads(schema)}
    return cast("Form", as_form({"type": "json_schema", "json_schema": held}))


def same(one: Any, other: Any) -> bool:
    """Whether two answers mean the same: letters count, and not their case or the blanks."""
    if isinstance(one, str) and isinstance(other, str):
        return " ".join(one.lower().split()) == " ".join(other.lower().split())
    return type(one) is type(other) and one == other if isinstance(one, bool) else one == other


def _in_json(leaf: Leaf) -> dict[str, Any]:
    """The schema of a leaf on its own, with the definitions that it refers to."""
    found = without_extensions(dict(leaf.schema))
    defined = {key: leaf.root[key] for key in ("$defs", "definitions") if key in leaf.root}
    return {**without_extensions(defined), **found}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else compact(value)


def _grammar(words: Any, schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    options = [json.dumps(word, ensure_ascii=False) for word in words]
    if schema is not None:
        narrowed = _form(compact(schema)).grammar_schema
        options.insert(0, f"%json {json.dumps(narrowed, ensure_ascii=False)}")
    return {"type": "grammar", "grammar": f"start: {' | '.join(options)}"}


def _text_form(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    if "pattern" in schema:
        return _of_pattern(str(schema["pattern"]))
    if schema.get("format") in _FORMATS:
        return {"type": "regex", "regex": _FORMATS[schema["format"]]}
    most = min(int(schema.get("maxLength", MOST_LETTERS)), MOST_LETTERS)
    if most < 1:
        return None
    rest = rf"([^\n]{{0,{most - 2}}}[^\s])?" if most > 1 else ""
    return {"type": "regex", "regex": rf"[^\s]{rest}"}


def _of_pattern(pattern: str) -> dict[str, Any] | None:
    """A pattern finds its place anywhere in a text, and the form of a text is about all of it."""
    if _PLAIN_PATTERN.search(pattern) or "|" in re.sub(r"\([^()]*\)", "", pattern):
        return None
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith(r"\$")
    inner = pattern[begins : len(pattern) - ends]
    if re.search(r"(?<![\\\[])[$^]", inner):
        return None
    before, after = ("" if begins else r"[^\n]{0,60}"), ("" if ends else r"[^\n]{0,60}")
    return {"type": "regex", "regex": f"{before}{inner}{after}"}
