"""The form that an answer keeps: what `response_format` may be, and an answer read by it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from ..checks import shown
from ..errors import FormError
from ..inputs.clients import fields_of
from ..inputs.tokenizer_file import import_jsonschema
from ..inputs.tools import CallMarks, Tools, calls_schema
from .schema import REFUSED, check_source, for_grammar

KINDS = ("text", "json_object", "json_schema", "regex", "grammar")
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_ANNOTATIONS = {"$schema", "$id", "$defs", "definitions", "title", "description"}
"""What a JSON schema may hold beside the keywords that say what is valid."""
_LONGEST_MESSAGE = 200
MOST_CALLS = 16
"""Of tools, in one answer."""
COMPACT = {
    "whitespace_flexible": False, "item_separator": ",", "key_separator": ":",
    "coerce_one_of": True,  # whether only one of them holds is checked afterwards
}  # fmt: skip
SPACED = {**COMPACT, "item_separator": ", ", "key_separator": ": "}
"""How llguidance writes JSON: without blanks after commas and colons, and with them."""


@dataclass(frozen=True, eq=False)
class Form:
    """What an answer must look like.

    Arguments:
        kind: "json", "regex" or "grammar".
        source: the JSON schema, the regular expression, or the grammar (llguidance's Lark).
        grammar_schema: of "json", the schema as far as it holds while the answer is written.
        model: the pydantic class that the value becomes, or None.
        compact: without blanks after commas and colons.
    """

    kind: str
    source: Any
    grammar_schema: Mapping[str, Any] = field(default_factory=dict)
    model: Any = None
    compact: bool = True

    def read(self, text: str) -> tuple[Any, str | None]:
        """The value of a whole answer, and what is wrong with it, if anything is.

        Returns:
            (value, None), or (None, one sentence). The value of a "regex" or a "grammar" is its
            text.
        """
        if self.kind != "json":
            return text, None
        try:
            value = json.loads(text, parse_float=_finite)
            if problem := _first_problem(_checked(self.source), value):
                return None, problem
            return (value if self.model is None else self.model.model_validate_json(text)), None
        except (ValueError, RecursionError) as error:  # pydantic's is a ValueError too
            return None, _one_sentence(error)


def as_form(given: Any) -> Form | None:
    """What `response_format` says; None is any text.

    Arguments:
        given: OpenAI's {"type": "json_schema", "json_schema": {"schema": ...}}, {"type":
            "json_object"} or {"type": "text"}; {"type": "regex", "regex": ...}; {"type": "grammar",
            "grammar": ...}; a JSON schema; a pydantic class.

    Raises:
        ValueError: none of these.
        FormError: a schema that cannot be enforced.
    """
    if given is None or isinstance(given, Form):
        return given
    if isinstance(given, type) and hasattr(given, "model_json_schema"):
        return _json_form(given.model_json_schema(), given)
    stated = fields_of(given)
    if stated is None:
        raise ValueError(f"response_format must be {_allowed()}, got {shown(given)}")
    kind = stated.get("type")
    if kind not in KINDS:
        if not stated or kind in _TYPES or isinstance(kind, list) or _is_schema(stated):
            return _json_form(stated)
        raise ValueError(f"response_format must be {_allowed()}, got {shown(dict(stated))}")
    if kind == "text":
        return None
    if kind == "json_object":
        return _json_form({"type": "object"})
    if kind == "json_schema":
        return _json_form(_schema_of(stated))
    source = stated.get(kind)
    if not isinstance(source, str) or not source:
        raise ValueError(f'response_format must have the {kind} in "{kind}", got {shown(source)}')
    check_source(f"the {kind}", source)
    return Form(kind, source)


def _is_schema(stated: Mapping[str, Any]) -> bool:
    """Whether there is a keyword of JSON schema, refused or not, beside its type."""
    import_jsonschema()
    from jsonschema import Draft202012Validator

    keywords = {*Draft202012Validator.VALIDATORS, *REFUSED, *_ANNOTATIONS} - {"type"}
    return not keywords.isdisjoint(stated)


def calls_form(tools: Tools, marks: CallMarks) -> Form:
    """The form of what follows `[TOOL_CALLS]`: as the template writes calls that were made.

    Arguments:
        marks: the control tokens of the template.

    Raises:
        FormError: the arguments of a function have a schema that cannot be enforced.
    """
    forms = []
    for name, schema in tools.functions:
        try:
            forms.append((name, _json_form(schema)))
        except FormError as error:
            raise FormError(f"tool {name}: {error}") from error
    most = MOST_CALLS if tools.parallel else 1
    if marks.arguments is not None:
        return Form("grammar", _marked_calls(forms, marks, most))
    return replace(_json_form(calls_schema(tools.functions, most)), compact=False)


def _marked_calls(forms: Sequence[tuple[str, Form]], marks: CallMarks, most: int) -> str:
    """The grammar (llguidance's Lark) of calls with control tokens between their parts."""
    an_id = "" if marks.call_id is None else f"<[{marks.call_id}]> /[a-zA-Z0-9]{{9}}/ "
    calls = [f'"{name}" {an_id}<[{marks.arguments}]> args_{i}' for i, (name, _) in enumerate(forms)]
    more = f" (<[{marks.begin}]> call){{0,{most - 1}}}" if most > 1 else ""
    rules = [f"start: call{more}", f"call: {' | '.join(calls)}"]
    for i, (_, form) in enumerate(forms):
        rules.append(f"args_{i}: %json {json.dumps({**form.grammar_schema, 'x-guidance': SPACED})}")
    return "\n".join(rules)


def problem_of_calls(tools: Tools, calls: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with the arguments of calls that have been made, in one sentence."""
    schemas = dict(tools.functions)
    for i, call in enumerate(calls):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        if problem := Form("json", schemas[name]).read(arguments)[1]:
            return f"tool_calls[{i}].function.arguments: {problem}"
    return None


def _allowed() -> str:
    kinds = ", ".join(f'"{kind}"' for kind in KINDS)
    return f"a dict whose type is one of {kinds}, a JSON schema, or a pydantic class"


def _schema_of(stated: Mapping[str, Any]) -> Any:
    """The schema of OpenAI's {"type": "json_schema", ...}."""
    outer = fields_of(stated.get("json_schema")) or stated
    schema = outer.get("schema", outer.get("schema_definition"))
    if not isinstance(schema, Mapping):
        raise ValueError(
            'response_format of type "json_schema" must have {"json_schema": {"name", "schema"}}, '
            f"got {shown(dict(stated))}"
        )
    return schema


def _json_form(schema: Mapping[str, Any], model: Any = None) -> Form:
    narrowed = for_grammar(schema)
    _check_meaning(schema)
    return Form("json", schema, narrowed, model)


def _check_meaning(schema: Mapping[str, Any]) -> None:
    """Every keyword has a value that JSON Schema knows."""
    kind = _validator_of(schema)
    if problem := _first_problem(kind(kind.META_SCHEMA), schema):
        raise FormError(problem)


def _validator_of(schema: Mapping[str, Any]) -> Any:
    """jsonschema's class for the draft that a schema is written in."""
    import_jsonschema()
    from jsonschema import validators

    return validators.validator_for(schema, default=validators.Draft202012Validator)


def _checked(schema: Mapping[str, Any]) -> Any:
    """What checks values by a schema, formats included."""
    kind = _validator_of(schema)
    return _own(kind)(schema, format_checker=kind.FORMAT_CHECKER)


@lru_cache(maxsize=16)
def _own(kind: Any) -> Any:
    """jsonschema's class with our checks, which takes longer to make than to use."""
    from jsonschema import validators

    return validators.extend(kind, {"multipleOf": _check_multiple, "pattern": _check_pattern})


def _first_problem(validator: Any, value: Any) -> str | None:
    """What is wrong with a value, with its place."""
    from jsonschema.exceptions import best_match

    if (error := best_match(validator.iter_errors(value))) is None:
        return None
    return f"{'/'.join(['#', *map(str, error.absolute_path)])}: {_one_sentence(error.message)}"


def _check_multiple(_: Any, step: Any, value: Any, __: Any) -> Iterator[Exception]:
    """As jsonschema's, and in decimals: for it 0.3 is no multiple of 0.1."""
    from jsonschema import ValidationError

    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    written = Fraction(repr(value)) / Fraction(repr(step))
    stored = Fraction(value) / Fraction(step)
    if 1 not in (written.denominator, stored.denominator):
        yield ValidationError(f"{value} is not a multiple of {step}")


def _check_pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Exception]:
    """As jsonschema's; what Python's `re` does not know, the grammar alone has kept."""
    from jsonschema import ValidationError

    with suppress(re.error):
        if isinstance(value, str) and not re.search(pattern, value):
            yield ValidationError(f"{value!r} does not match {pattern!r}")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {digits} is too large")
    return value


def _one_sentence(error: Any) -> str:
    """What went wrong, in one line that is not too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[: _LONGEST_MESSAGE - 3]}..."
