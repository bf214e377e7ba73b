"""Forms: what `response_format` may be, what of a schema is promised, and answers read by it."""

import datetime
import json
import time
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, model_validator

import pixtral_mlx as px
from pixtral_mlx.engine.form import as_form
from pixtral_mlx.engine.grammar import constraint_of


def admits(model, form, text) -> bool:
    """Whether a form lets a model write a text, to its end."""
    constraint = constraint_of(form, model.tokenizer, model.config.text.vocab_size)
    for token in model.tokenizer._words.encode(text, bos=False, eos=False):
        if not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return bool(constraint.allowed()[model.tokenizer.eos_id])


def holds(model, form, text) -> bool:
    """Whether a text can be written, and is then found to be right."""
    return admits(model, form, text) and form.read(text)[1] is None


# Shapes ----------------------------------------------------------------------------------------

POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


class Line(BaseModel):
    item: Annotated[str, Field(max_length=20)]
    amount: float


class Invoice(BaseModel):
    kind: Literal["invoice", "receipt"]
    day: datetime.date
    lines: list[Line]
    note: str | None = None

    @model_validator(mode="after")
    def check_lines(self):
        if self.kind == "receipt" and not self.lines:
            raise ValueError("a receipt has lines")
        return self


@pytest.mark.parametrize(
    "given",
    [
        {"type": "json_schema", "json_schema": {"name": "point", "schema": POINT, "strict": True}},
        {"type": "json_schema", "json_schema": {"name": "p", "schema_definition": POINT}},
        {"type": "json_schema", "schema": POINT},
        POINT,
        {"$ref": "#/$defs/p", "$defs": {"p": POINT}},
    ],
    ids=["OpenAI", "Mistral", "flat", "bare", "bare $ref"],
)
def test_a_schema_comes_in_several_shapes(model, given):
    form = as_form(given)
    assert holds(model, form, '{"x":5}') and not holds(model, form, '{"x":1.5}')
    assert form.read('{"x":5}') == ({"x": 5}, None)


def test_any_text_any_json_and_what_is_no_json(model):
    assert as_form(None) is as_form({"type": "text"}) is None
    anything = as_form({"type": "json_object"})
    assert holds(model, anything, '{"a":[1,{"b":null}],"c":"d"}')
    assert not holds(model, anything, "[1]") and not holds(model, anything, '{"a":1e999}')
    assert not holds(model, anything, '{"a": 1}'), "compact"
    colour = as_form({"type": "regex", "regex": "red|blue/green"})
    assert holds(model, colour, "blue/green") and not holds(model, colour, "re")
    assert colour.read("red") == ("red", None)
    sums = as_form({"type": "grammar", "grammar": 'start: N ("+" N)*\nN: /[0-9]+/'})
    assert holds(model, sums, "1+22+3") and not holds(model, sums, "1+")
    assert sums.read("1+2") == ("1+2", None)


def test_a_pydantic_class_gives_its_instance(model):
    form = as_form(Invoice)
    good = '{"kind":"invoice","day":"2024-02-29","lines":[{"item":"tea","amount":2.5}],"note":null}'
    assert holds(model, form, good)
    value, problem = form.read(good)
    assert isinstance(value, Invoice) and problem is None
    assert value.day == datetime.date(2024, 2, 29) and value.lines[0].amount == 2.5
    assert not holds(model, form, good.replace("2024-02-29", "2023-02-29")), "a date that was not"
    own = good.replace("invoice", "receipt").replace('{"item":"tea","amount":2.5}', "")
    assert admits(model, form, own)
    value, problem = form.read(own)
    assert value is None and "a receipt has lines" in problem and "\n" not in problem


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (5, "response_format must be a dict"),
        ("json", "response_format must be a dict"),
        ({"type": "yaml"}, '"json_object", "json_schema", "regex", "grammar"'),
        ({"name": "x"}, "a JSON schema, or a pydantic class"),
        ({"type": "regex"}, 'must have the regex in "regex", got None'),
        ({"type": "grammar", "grammar": ""}, 'must have the grammar in "grammar"'),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, 'must have {"json_schema"'),
    ],
)
def test_what_is_no_form_is_an_error(given, said):
    with pytest.raises(ValueError) as caught:
        px.GenerationOptions(response_format=given)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_form_is_not_for_drafts():
    with pytest.raises(ValueError, match="prompt_lookup_num_tokens and response_format cannot"):
        px.GenerationOptions(response_format=POINT, prompt_lookup_num_tokens=4)


# What is refused, and where --------------------------------------------------------------------


def inside(schema):
    return {"type": "object", "properties": {"a": {"type": "array", "items": schema}}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (inside({"not": {"type": "string"}}), "#/properties/a/items: not cannot be enforced"),
        (inside({"if": {"type": "string"}, "then": {}}), "#/properties/a/items: if cannot"),
        ({"type": "array", "uniqueItems": True}, "#: uniqueItems cannot be enforced"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "#: dependentRequired cannot"),
        ({"anyOf": [{"contains": {"type": "null"}}]}, "#/anyOf/0: contains cannot"),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "#: propertyNames cannot"),
        (inside({"$ref": "https://example.org/s.json"}), "#/properties/a/items: $ref 'https"),
        (inside({"$ref": "#/$defs/b"}), "#/properties/a/items: $ref '#/$defs/b' leads nowhere"),
        ({"$ref": "#"}, "#: no value that ends satisfies $ref '#'"),
        (
            {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]},
            "#/properties/next: no value that ends satisfies $ref '#'",
        ),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
            "no value that ends satisfies $ref",
        ),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "#/items: no value that ends"),
        ({"type": "object", "properties": {"a": 5}}, "#/properties/a: 5 is not of type"),
        ({"type": "strnig"}, "response_format must be a dict"),
        ({"schema": {}}, "response_format must be a dict"),
        ({"not": {}}, "#: not cannot be enforced"),
        ({"if": {}, "then": {}}, "#: if cannot be enforced"),
        ({"dependentRequired": {"a": ["b"]}}, "#: dependentRequired cannot be enforced"),
        ({"dependencies": {}}, "#: dependencies cannot be enforced"),
        (inside({"type": "strnig"}), "#/properties/a/items/type: 'strnig' is not valid"),
        ({"type": "string", "minLength": -1}, "#/minLength: -1 is less than the minimum"),
        ({"type": "object", "patternProperties": {"(": {}}}, "#: '(' is not a valid regular"),
        ({"type": "string", "pattern": "(?=a)("}, "#: '(?=a)(' is not a valid regular expression"),
    ],
)  # fmt: skip
def test_what_cannot_be_promised_is_refused_with_its_place(schema, said):
    with pytest.raises((px.FormError, ValueError)) as caught:
        px.GenerationOptions(response_format=schema)
    assert said in str(caught.value)
    assert isinstance(caught.value, px.FormError) or said.startswith("response_format")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"type": "string", "minLength": 5, "maxLength": 3}, "the schema cannot be made into"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "'a' is unsatisfiable"),
        ({"enum": []}, "anyOf is empty"),
        ({"type": "string", "pattern": "a\\bc"}, "lookaround"),
        ({"type": "regex", "regex": "("}, "the regular expression cannot be made into a grammar"),
        ({"type": "regex", "regex": "(?=a)b"}, "look-around"),
        ({"type": "grammar", "grammar": "start: nothing"}, "the grammar cannot be made into"),
    ],
)
def test_what_no_answer_satisfies_is_refused_before_anything_is_computed(model, given, said):
    steps = []
    with pytest.raises(px.FormError) as caught:
        model.stream("Why?", response_format=given, progress=lambda *step: steps.append(step))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert steps == []


def test_refs_that_end_are_fine(model):
    following = {"anyOf": [{"type": "null"}, {"$ref": "#"}]}
    chain = {
        "type": "object",
        "properties": {"v": {"type": "integer"}, "next": following},
        "required": ["v", "next"],
    }
    form = as_form(chain)
    assert holds(model, form, '{"v":1,"next":{"v":2,"next":null}}')
    assert not holds(model, form, '{"v":1,"next":2}')
    tree = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}}
    assert holds(model, as_form(tree), '{"kids":[{},{"kids":[]}]}')
    unused = {"type": "integer", "$defs": {"a": {"not": {}}}}
    assert holds(model, as_form(unused), "5")


@pytest.mark.parametrize(
    "given",
    [
        {"enum": [f"value {i}" for i in range(10_000)]},
        {"type": "object", "properties": {f"k{i}": {"type": "integer"} for i in range(5_000)}},
        {"type": "object", "properties": {f"k{i}": {} for i in range(900)}},
        {"anyOf": [{"required": [f"k{i}"], "type": "object"} for i in range(6_000)]},
        {"type": "string", "pattern": "^(a|b){1000000}$"},
        {"type": "string", "pattern": "^([a-z]{1,1000}){1,1000}$"},
        {"type": "string", "pattern": "^" + "a?" * 3_000 + "a" * 3_000 + "$"},
        {"type": "array", "minItems": 100_000, "items": {"type": "integer"}},
        {"const": "x" * 1_000_000},
        {"allOf": [{"anyOf": [{"required": [c + d]} for c in "ab"]} for d in "cdefghijklmnop"]},
        {"type": "regex", "regex": "(a{1000}){1000}b"},
    ],
    ids=lambda given: next(iter(given)) if "type" not in given else str(given)[:40],
)  # fmt: skip
def test_hostile_forms_end_in_a_moment(model, given):
    """In a refusal of one line, or in an answer: here 20 tokens of one."""
    model.generate("Why?", max_tokens=1, response_format=POINT)  # what is imported once
    began = time.process_time()
    try:
        reply = model.generate("Why?", max_tokens=20, temperature=1.0, response_format=given)
        assert reply.finish_reason in ("stop", "length")
    except px.FormError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
    assert time.process_time() - began < 2


@pytest.mark.parametrize("levels", [20, 200, 100_000])
def test_depth_is_bounded(model, levels):
    schema: dict = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    began = time.process_time()
    if levels == 20:
        assert holds(model, as_form(schema), '{"a":' * 20 + "5" + "}" * 20)
    else:
        with pytest.raises(px.FormError, match="nested too deeply; allowed: 120 levels"):
            as_form(schema)
    assert time.process_time() - began < 2
    while isinstance(schema, dict) and "properties" in schema:  # by hand: Python's own way recurses
        schema = schema.pop("properties")["a"]


# What is kept, keyword by keyword --------------------------------------------------------------

KEYWORDS = Path(__file__).with_name("keywords.jsonl").read_text(encoding="utf-8").splitlines()
"""Schemas of the kinds that the JSON Schema Test Suite has, each with texts that satisfy it and
texts that do not."""


@pytest.mark.parametrize("line", KEYWORDS, ids=lambda line: line[11:60])
def test_a_keyword_is_kept(model, line):
    case = json.loads(line)
    form = as_form(case["schema"])
    for text in case["good"]:
        assert holds(model, form, text), text
        assert form.read(text)[0] == json.loads(text)
    for text in case["bad"]:
        assert not holds(model, form, text), text
