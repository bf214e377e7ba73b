"""A JSON schema before anything is computed: what of it a grammar holds while an answer is written.

Three things can become of a keyword. The grammar holds it (types, properties, enums, ranges,
patterns, lengths); or it is checked when the answer is there (formats that the grammar does not
know, counts of properties, `oneOf`); or nobody could mend an answer that breaks it (`not`,
`uniqueItems`), and then it is refused here, with its place.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from ..errors import FormError

MOST_LEVELS = 120
"""Brackets within brackets that llguidance reads; a level of objects takes two."""
MOST_PARTS, MOST_OPTIONAL = 5_000, 1_000
"""Subschemas in all, and properties of one object that may be left out: the time that a grammar
takes grows with their square."""
MOST_SOURCE, MOST_REPEATS = 200_000, 100_000
"""Letters of a schema, a pattern or a grammar; and how often a pattern may repeat something, the
repeats within repeats multiplied."""
MOST_LETTERS = 16_384
"""Of a string for which the schema has no `maxLength`, `pattern` or `format`."""
MOST_WHOLE, MOST_NUMBER, SMALLEST = 10**18 - 1, 10**15, 1e-9
"""Numbers without bounds have at most so many digits, before the point and after it: an answer
could otherwise be digits to its end, or a number that is infinite when it is read."""

REFUSED = (
    "not", "if", "dependentRequired", "dependentSchemas", "dependencies", "uniqueItems",
    "propertyNames", "contains", "minContains", "maxContains", "unevaluatedItems",
    "unevaluatedProperties", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
_HARMLESS = {"uniqueItems": False, "unevaluatedItems": True, "unevaluatedProperties": True}
_WITHOUT_IF = ("then", "else")

_NAMED, _LISTED = ("properties", "patternProperties"), ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "additionalItems")
_FORMATS = {
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
}  # fmt: skip
_COUNTED = re.compile(
    r"\\.|\[\]?(?:\\.|[^\]\\])*\]|[()]|\{(?P<least>\d{1,9})(?:,(?P<most>\d{0,9}))?\}|.", re.DOTALL
)
_LOOK_AROUND = re.compile(r"\(\?(=|!|<=|<!)")
_ANY = "any-json-value"

Node = tuple[str, dict[str, Any]]
"""A subschema and its place: "#/properties/total"."""


def for_grammar(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What a grammar is made of: the schema without what is checked afterwards, its numbers and
    strings bounded, and its objects closed where it lists all that they may have.

    Raises:
        FormError: a keyword that is refused, a `$ref` that leads out of the schema or to no value
            that ends, or more than can be made into a grammar in a moment; the line says where.
    """
    _check_depth(schema)
    _check_length("#", json.dumps(schema, ensure_ascii=False, default=str))
    whole = copy.deepcopy(dict(schema))
    nodes = dict(_reachable(whole))
    for place, node in nodes.items():
        _check_keywords(place, node)
    _check_finite(nodes)
    closable = not any(map(_mixes, nodes.values()))
    for node in nodes.values():
        _narrow(node, closable=closable)
    whole.pop("x-guidance", None)
    whole.setdefault("$defs", {})[_ANY] = _any_value()
    return whole


def check_source(place: str, text: str) -> None:
    """Whether a grammar of it can be made in a moment.

    Arguments:
        place: of it, for the error.
        text: of a regular expression or a grammar.

    Raises:
        FormError: it is too long, or repeats too often.
    """
    if len(text) > MOST_SOURCE:
        raise FormError(
            f"{place}: {len(text):,} letters; allowed: {MOST_SOURCE:,}: make it shorter"
        )
    if (repeats := _repeats(text)) > MOST_REPEATS:
        raise FormError(
            f"{place}: something may be repeated {repeats:,} times; allowed: {MOST_REPEATS:,}"
        )


def _check_length(place: str, text: str) -> None:
    if len(text) > MOST_SOURCE:
        raise FormError(
            f"{place}: {len(text):,} letters; allowed: {MOST_SOURCE:,}: make it shorter"
        )


def _repeats(pattern: str) -> int:
    """How often a regular expression repeats something at most, as far as it counts."""
    most, inner = [1], 1  # of the groups that are open; of what the next count is about
    for found in _COUNTED.finditer(pattern):
        if found[0] == "(":
            most.append(1)
            inner = 1
        elif found[0] == ")" and len(most) > 1:
            inner = most.pop()
            most[-1] = max(most[-1], inner)
        elif found["least"]:
            most[-1] = max(most[-1], inner * int(found["most"] or found["least"]))
            inner = 1
        else:
            inner = 1
    return max(most)


def _check_depth(schema: Any) -> None:
    stack: list[tuple[Any, int]] = [(schema, 0)]
    while stack:
        value, depth = stack.pop()
        if depth > MOST_LEVELS:
            raise FormError(f"#: the schema is nested too deeply; allowed: {MOST_LEVELS} levels")
        inner = value.values() if isinstance(value, Mapping) else value
        if isinstance(inner, str) or not hasattr(inner, "__iter__"):
            continue
        stack += [(each, depth + 1) for each in inner]


def _reachable(whole: dict[str, Any]) -> Iterator[Node]:
    """Every subschema that the root needs, the root first, each once."""
    seen, waiting = set(), [("#", whole)]
    while waiting:
        place, node = waiting.pop()
        if place in seen or not isinstance(node, dict):
            continue
        seen.add(place)
        if len(seen) > MOST_PARTS:
            raise FormError(
                f"#: the schema has too many parts; allowed: {MOST_PARTS:,} subschemas in all"
            )
        yield place, node
        waiting += _inner(place, node)
        if "$ref" in node:
            target = _target(place, node)
            waiting.append((target, _at(whole, target, place)))


def _inner(place: str, node: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What stands inside a subschema, with its places."""
    found = []
    for key in _NAMED:
        named = node.get(key, {})
        found += [(f"{place}/{key}/{_escaped(name)}", part) for name, part in named.items()]
    for key in (*_LISTED, "items"):
        listed = node.get(key)
        if isinstance(listed, list):
            found += [(f"{place}/{key}/{i}", part) for i, part in enumerate(listed)]
    return found + [(f"{place}/{key}", node[key]) for key in _SINGLE if key in node]


def _target(place: str, node: Mapping[str, Any]) -> str:
    """Where a `$ref` leads."""
    target = node["$ref"]
    if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
        raise FormError(
            f"{place}: $ref {target!r} leads out of the schema; allowed: #/$defs/NAME: put what it "
            "means into the schema"
        )
    return target


def _at(whole: Any, target: str, place: str) -> Any:
    """The subschema at a JSON pointer."""
    found = whole
    try:
        for step in unquote(target).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found[int(name)] if isinstance(found, list) else found[name]
    except (KeyError, IndexError, ValueError, TypeError):
        raise FormError(f"{place}: $ref {target!r} leads nowhere: check its name") from None
    return found


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _check_keywords(place: str, node: dict[str, Any]) -> None:
    for key in REFUSED:
        if key in node and not (key in _HARMLESS and node[key] is _HARMLESS[key]):
            raise FormError(
                f"{place}: {key} cannot be enforced while an answer is being written: leave it "
                "out, and check it afterwards"
            )
    patterns = [*node.get("patternProperties", ())]
    if _LOOK_AROUND.search(str(node.get("pattern", ""))):
        patterns.append(node["pattern"])  # which only Python's own check can keep
    for pattern in [str(node.get("pattern", "")), *node.get("patternProperties", ())]:
        check_source(place, pattern)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise FormError(
                f"{place}: {pattern!r} is not a valid regular expression ({error})"
            ) from error
    optional = node.get("properties", {}).keys() - {*node.get("required", ())}
    if len(optional) > MOST_OPTIONAL:
        raise FormError(
            f"{place}: {len(optional):,} properties may be left out; allowed: {MOST_OPTIONAL:,}: "
            "name those that must be there in required"
        )


def _check_finite(nodes: Mapping[str, dict[str, Any]]) -> None:
    """Every `$ref` leads to something that has a value which ends."""
    finite: set[str] = set()
    while True:
        found = {
            place
            for place, node in reversed([*nodes.items()])
            if place not in finite and _is_finite(place, node, finite, nodes)
        }
        if not found:
            break
        finite |= found
    for place, node in nodes.items():
        if "$ref" in node and node["$ref"] not in finite:
            raise FormError(
                f"{place}: no value that ends satisfies $ref {node['$ref']!r}: let it be null, or "
                "leave it out of required"
            )


def _is_finite(
    place: str, node: Mapping[str, Any], finite: set[str], nodes: Mapping[str, Any]
) -> bool:
    """Whether a subschema has a value that ends, as far as is known of its parts."""

    def ends(part: str) -> bool:
        return part in finite or part not in nodes  # True and False are no nodes

    if "enum" in node or "const" in node:
        return True
    if "$ref" in node and not ends(node["$ref"]):
        return False
    for key, enough in (("allOf", all), ("anyOf", any), ("oneOf", any)):
        if key in node and not enough(ends(f"{place}/{key}/{i}") for i in range(len(node[key]))):
            return False
    kinds = _types(node)
    if kinds == {"object"}:
        required = {*node.get("required", ())} & node.get("properties", {}).keys()
        return all(ends(f"{place}/properties/{_escaped(name)}") for name in required)
    if kinds == {"array"} and (least := node.get("minItems", 0)):
        first = len(node.get("prefixItems", ()))
        return all(ends(f"{place}/prefixItems/{i}") for i in range(min(first, least))) and (
            least <= first or ends(f"{place}/items")
        )
    return True


def _types(node: Mapping[str, Any]) -> set[str]:
    """The types that a subschema names; none: all."""
    stated = node.get("type", ())
    return {stated} if isinstance(stated, str) else {*stated}


def _mixes(node: Mapping[str, Any]) -> bool:
    """Whether an object is described in several places, none of which lists all it may have."""
    combined = [key for key in ("allOf", "anyOf", "oneOf", "$ref") if key in node]
    own = any(key in node for key in (*_NAMED, "required", "additionalProperties"))
    return "allOf" in combined or (bool(combined) and own) or len(combined) > 1


def _narrow(node: dict[str, Any], *, closable: bool) -> None:
    """Take out what is checked afterwards, and bound what has no bounds."""
    for key in (*_HARMLESS, *_WITHOUT_IF):
        node.pop(key, None)
    if node.get("format") not in _FORMATS:
        node.pop("format", None)
    if _LOOK_AROUND.search(str(node.get("pattern", ""))):
        del node["pattern"]
    kinds = _types(node)
    if not kinds or "enum" in node or "const" in node:
        return
    if "object" in kinds:
        _narrow_object(node, closable=closable)
    if "array" in kinds and not isinstance(node.get("items"), list):
        node["items"] = _known(node.get("items", True))
    if "string" in kinds and "format" not in node:
        node.setdefault("maxLength", max(MOST_LETTERS, node.get("minLength", 0)))
    if kinds & {"number", "integer"}:
        most = MOST_NUMBER if "number" in kinds else MOST_WHOLE
        _bound_number(node, most)
        if "number" in kinds:
            node.setdefault("multipleOf", SMALLEST)
    for key in _NAMED:
        node[key] = {name: _known(part) for name, part in node.get(key, {}).items()}


def _narrow_object(node: dict[str, Any], *, closable: bool) -> None:
    listed = node.get("properties", {})
    counted = [key for key in ("minProperties", "maxProperties") if key in node]
    if not {*listed} <= {*node.get("required", ())}:
        for key in counted:  # llguidance counts only what is required
            del node[key]
    if "additionalProperties" in node:
        node["additionalProperties"] = _known(node["additionalProperties"])
    elif "properties" not in node and "patternProperties" not in node:
        if closable:
            node["additionalProperties"] = _known(True)
    elif closable and not counted and {*node.get("required", ())} <= {*listed}:
        node["additionalProperties"] = False


def _bound_number(node: dict[str, Any], most: int) -> None:
    least = node.get("minimum", node.get("exclusiveMinimum", -most))
    if "maximum" not in node and "exclusiveMaximum" not in node and least < most:
        node["maximum"] = most
    greatest = node.get("maximum", node.get("exclusiveMaximum", most))
    if "minimum" not in node and "exclusiveMinimum" not in node and greatest > -most:
        node["minimum"] = -most


def _known(part: Any) -> Any:
    """A subschema; a value of any kind has its bounds too."""
    return {"$ref": f"#/$defs/{_ANY}"} if part is True or part == {} else part


def _any_value() -> dict[str, Any]:
    number = {
        "type": "number", "minimum": -MOST_NUMBER, "maximum": MOST_NUMBER, "multipleOf": SMALLEST,
    }  # fmt: skip
    return {
        "anyOf": [
            {"type": ["null", "boolean"]},
            number,
            {"type": "string", "maxLength": MOST_LETTERS},
            {"type": "array", "items": _known(True)},
            {"type": "object", "additionalProperties": _known(True)},
        ]
    }
