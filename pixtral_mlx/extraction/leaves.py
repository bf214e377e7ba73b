"""The leaves of a schema: what is asked for one by one, by what name and in what words.

A schema may say more than JSON Schema does, and nothing of it changes what is valid:

    x-question  the question of a field, word for word; of an array, how many rows there are; of the
                whole schema, what the first pass is asked. "{n}" is the number of a row, from 1 on
    x-present   a question whose answer is no, none, nothing or 0 where the field is absent; False:
                it is always there, and nobody asks
    x-checks    rules that hold among the values, see `rules`
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from ..errors import FormError

MOST_LEAVES = 2_000
"""Fields of one document."""
MOST_DEPTH = 16
MISSING: Any = object()
"""In the place of a value that is left out."""

Path = tuple[str | int, ...]

HINT = "Answer with the value alone, as the document has it."
_SCALARS = {"string", "number", "integer", "boolean"}
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_VALUES = ("enum", "const", "default", "examples")


@dataclass(frozen=True, eq=False)
class Leaf:
    """A place for one value.

    Arguments:
        path: names and numbers of rows that lead there.
        schema: of a value that is there, references resolved at its top.
        root: the whole schema, where its references lead.
        nullable: whether it may be null.
        optional: whether it may be left out.
        title: the names on the way, as the schema titles them.
    """

    path: Path
    schema: Mapping[str, Any]
    root: Mapping[str, Any]
    nullable: bool = False
    optional: bool = False
    title: str = ""

    @property
    def pointer(self) -> str:
        """Its JSON pointer (RFC 6901): "/lines/0/amount"."""
        return pointer_of(self.path)

    @property
    def name(self) -> str:
        """For people and for questions: "amount of number 1 of the lines"."""
        named: list[str] = []
        for part, before in zip(self.path, ("", *self.path[:-1]), strict=True):
            if isinstance(part, int):
                named[-1] = f"number {part + 1} of the {_spaced(str(before))}"
            else:
                named.append(_spaced(part))
        if self.title and isinstance(self.path[-1], str):
            named[-1] = self.title.lower()
        return " of the ".join(reversed(named)).replace("the number", "number")

    @property
    def question(self) -> str:
        """What is asked for its value."""
        own, said = self.schema.get("x-question"), str(self.schema.get("description", "")).strip()
        row = next((part + 1 for part in reversed(self.path) if isinstance(part, int)), None)
        if isinstance(own, str):
            return own if row is None else own.replace("{n}", str(row))
        if said.endswith("?"):
            text = said
        elif said:
            text = f"What is the {self.name}? ({said})"
        elif self.title.endswith("?"):
            text = self.title
        else:
            text = f"What is the {self.name}?"
        if row is not None and text in (said, self.title):
            text = f"Number {row}: {text}"
        return f"{text} {HINT}"

    @property
    def asks_presence(self) -> bool:
        """Whether it is worth asking if it is there at all."""
        return self.schema.get("x-present") is not False

    @property
    def presence_question(self) -> tuple[str, bool]:
        """What is asked to know whether it is there, and whether only yes and no are answers."""
        own = self.schema.get("x-present")
        row = next((part + 1 for part in reversed(self.path) if isinstance(part, int)), None)
        if isinstance(own, str):
            return (own if row is None else own.replace("{n}", str(row))), False
        question = self.question.removesuffix(HINT).strip()
        return f'Does the document answer this: "{question}"? Answer yes or no.', True


def pointer_of(path: Path) -> str:
    """A JSON pointer."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def leaves(root: Mapping[str, Any], value: Any = MISSING) -> Iterator[tuple[Leaf, Any]]:
    """The leaves of a value, and what stands there: `MISSING` where it is left out.

    Arguments:
        root: the schema.
        value: valid under it; without one, the leaves that a value may have, no rows of arrays.

    Raises:
        FormError: they are too many.
    """
    for count, found in enumerate(_walk(root, root, value, ()), 1):
        if count > MOST_LEAVES:
            raise FormError(
                f"the document has more than {MOST_LEAVES:,} fields: bound its arrays by maxItems, "
                "or read fewer pages at once"
            )
        yield found


def arrays(root: Mapping[str, Any], value: Any) -> Iterator[tuple[Path, Mapping[str, Any], list]]:
    """The arrays of a value whose schema has a question for their number, with their schemas."""

    def walk(schema: Any, value: Any, path: Path) -> Iterator[tuple[Path, Mapping[str, Any], list]]:
        schema = described(schema, root, value)[0]
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from walk(_property(schema, name), inner, (*path, name))
        elif isinstance(value, list):
            if isinstance(schema.get("x-question"), str) and path:
                yield path, schema, value
            for i, inner in enumerate(value):
                yield from walk(item_schema(schema, i), inner, (*path, i))

    return walk(root, value, ())


def _walk(
    schema: Any, root: Mapping[str, Any], value: Any, path: Path, optional: bool = False,
    title: str = "",
) -> Iterator[tuple[Leaf, Any]]:  # fmt: skip
    found, nullable = described(schema, root, value)
    title = str(found.get("title", title))
    unknown = value is MISSING and "properties" in found and len(path) < MOST_DEPTH
    if isinstance(value, dict) or (unknown and not optional):
        inner = {} if value is MISSING else value
        named = found.get("properties", {})
        for name in [*named, *(name for name in inner if name not in named)]:
            part = _property(found, name)
            left_out = name not in found.get("required", ())
            yield from _walk(part, root, inner.get(name, MISSING), (*path, name), left_out)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _walk(item_schema(found, i), root, inner, (*path, i))
    elif value is MISSING and "items" in found:
        return  # no row, no field
    elif path:
        yield Leaf(path, found, root, nullable, optional, title), value


def _property(schema: Mapping[str, Any], name: str) -> Any:
    named = schema.get("properties", {})
    return named[name] if name in named else schema.get("additionalProperties", True)


def item_schema(schema: Mapping[str, Any], number: int) -> Any:
    """Of an item of an array, the first is 0."""
    first = schema.get("prefixItems", ())
    return first[number] if number < len(first) else schema.get("items", True)


def described(
    schema: Any, root: Mapping[str, Any], value: Any = MISSING
) -> tuple[dict[str, Any], bool]:
    """A subschema without null, its references resolved, and whether null was allowed.

    Of several alternatives it is the one that the value is of.
    """
    found = _resolved(schema, root)
    nullable = False
    for _ in range(MOST_DEPTH):
        stated = found.get("type")
        if isinstance(stated, list):
            nullable |= "null" in stated
            rest = [kind for kind in stated if kind != "null"]
            found = {**found, "type": rest[0] if len(rest) == 1 else rest}
        if None in found.get("enum", ()):
            nullable = True
            found = {**found, "enum": [each for each in found["enum"] if each is not None]}
        key = next((key for key in ("anyOf", "oneOf") if key in found), None)
        if key is None:
            break
        options = [_resolved(each, root) for each in found[key]]
        rest = [each for each in options if each.get("type") != "null"]
        nullable |= len(rest) < len(options)
        fitting = [each for each in rest if _may_be(each, value)] or rest
        if not fitting or (value is MISSING and len(rest) > 1):
            break
        outer = {name: said for name, said in found.items() if name != key}
        found = {**fitting[0], **outer}
    return found, nullable


def _may_be(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether a value is of the kind that a subschema describes; its details are not looked at."""
    kinds = schema.get("type", ())
    names = {str: "string", bool: "boolean", dict: "object", list: "array"}
    name = names.get(type(value), "number")
    listed = {kinds} if isinstance(kinds, str) else {*kinds}
    return not listed or name in listed or (name == "number" and "integer" in listed)


def _resolved(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """A subschema whose `$ref` has been followed; what stands beside it counts before it."""
    found: dict[str, Any] = dict(schema) if isinstance(schema, Mapping) else {}
    for _ in range(MOST_DEPTH):
        target = found.pop("$ref", None)
        if not isinstance(target, str):
            break
        at: Any = root
        for step in unquote(target).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            at = at[int(step)] if isinstance(at, list) else at[step]
        found = {**(at if isinstance(at, Mapping) else {}), **found}
    return found


def is_scalar(schema: Mapping[str, Any]) -> bool:
    """Whether a leaf has one word, number or choice for a value."""
    kind = schema.get("type")
    listed = "enum" in schema or "const" in schema
    return listed or (isinstance(kind, str) and kind in _SCALARS)


def without_extensions(schema: Any, named: bool = False) -> Any:
    """A schema as JSON Schema knows it: no keyword that begins with "x-".

    Arguments:
        named: whether its keys are names of properties, and no keywords.
    """
    if isinstance(schema, list):
        return [without_extensions(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {}
    for name, part in schema.items():
        if named or not str(name).startswith("x-"):
            kept = not named and name in _VALUES
            found[name] = part if kept else without_extensions(part, not named and name in _NAMED)
    return found


def relaxed(schema: Any, root: bool = True) -> Any:
    """A schema for some of a document's pages: whatever it wants may be on the others."""
    if not isinstance(schema, Mapping):
        return schema
    found = {name: part for name, part in schema.items() if name != "minItems"}
    for key in ("properties", "$defs", "definitions"):
        if key in found:
            found[key] = {name: relaxed(part, False) for name, part in found[key].items()}
    if "items" in found:
        found["items"] = relaxed(found["items"], False)
    branches = any(key in found for key in ("anyOf", "oneOf", "allOf", "$ref"))
    if root or "properties" in found or "items" in found:
        return found
    if not branches and not is_scalar(found):
        return found
    outer = {name: found.pop(name) for name in [*found] if name.startswith("x-")}
    return {"anyOf": [found, {"type": "null"}], **outer}


def filled(places: Sequence[tuple[Path, Any]]) -> Any:
    """The value that has these values in these places; the root is an object."""
    root: dict[str, Any] = {}
    for path, value in places:
        at: Any = root
        for part, after in zip(path, (*path[1:], None), strict=True):
            fresh = value if after is None else [] if isinstance(after, int) else {}
            if isinstance(part, int):
                at.extend([MISSING] * (part + 1 - len(at)))
                at[part] = fresh if after is None or at[part] is MISSING else at[part]
            elif after is None or part not in at:
                at[part] = fresh
            at = at[part]
    return root


def compact(value: Any) -> str:
    """JSON without blanks."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _spaced(name: str) -> str:
    """ "unit_price" and "unitPrice" as words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-]+", " ", name).lower()
