"""`px.extract` with models: pixtral-mini on its scenes, and one of random weights on anything."""

import json

import jsonschema
import numpy as np
import pytest
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.extraction.extract import Reader
from pixtral_mlx.extraction.reading import _once
from pixtral_mlx.mini import scene
from pixtral_mlx.mini.drawing import COLOURS
from pixtral_mlx.mini.recipes import described

SHAPES = ("star", "heart", "ring")
COLOUR = {"enum": [*COLOURS, None]}
THERE = {"x-present": False}


def scene_schema(layout):
    """What the adapter `json` writes, with a question for each field."""
    corner = {"type": "string", "maxLength": 30, **THERE}
    last = f"What is in row {layout.rows}, column {layout.columns}?"
    fields = {
        "outline": {"enum": ["wide", "tall", "square"], "x-question": "Wide, tall or square?"},
        "rows": {"type": "integer", "maximum": 5, "x-question": "How many rows are there?"},
        "columns": {"type": "integer", "maximum": 5, "x-question": "How many columns are there?"},
        "first": {**corner, "x-question": "What is in row 1, column 1?"},
        "last": {**corner, "x-question": last},
        "code": {"type": ["string", "null"], "x-question": "What does it say?"},
    }
    named = {name: {**field, **THERE} for name, field in fields.items()}
    question = "Describe the picture as JSON."
    return {"type": "object", "properties": named, "required": [*named], "x-question": question}


def colours_schema():
    """The colours of shapes, some of which are not there."""
    named = {
        shape: {
            **COLOUR, "x-question": f"What colour is the {shape}?",
            "x-present": f"How many {shape}s are there?",
        }
        for shape in SHAPES
    }  # fmt: skip
    return {"type": "object", "properties": named, "required": [*named]}


@pytest.fixture(scope="module")
def writes_json():
    return px.load("mini", adapter_path="json", dtype="float32")


def touches(box, layout, cell):
    """Whether a box reaches into a cell."""
    (row, column), (x, y, width, height) = layout.place(cell), box
    across = x * layout.columns < column + 1 and (x + width) * layout.columns > column
    return across and y * layout.rows < row + 1 and (y + height) * layout.rows > row


def test_a_scene_in_two_passes(writes_json):
    shown = scene(7, rows=3, columns=4)
    writes_json.clear_cache()
    found = px.extract(writes_json, shown.image, scene_schema(shown.layout))
    assert found.data == described(shown.layout) and not found.one_by_one
    assert not found.needs_review and found.reasons == ()
    fields = found.fields
    assert all(f.agrees for f in fields.values() if f.value is not None)
    assert all(f.confidence > 0.9 and f.allowed_mass > 0.9 for f in fields.values())
    assert all((f.page, f.value is None) in ((1, False), (None, True)) for f in fields.values())
    assert touches(fields["/first"].box, shown.layout, 0)
    row = json.loads(json.dumps(found.row()))
    assert [*row] == [
        "source", "data", "fields", "needs_review", "reasons", "pages", "one_by_one",
    ]  # fmt: skip
    assert row["pages"] == [{"page": 1, "source": "image", "number": None}]


def test_what_is_not_there_is_null_and_what_is_there_is_seen(mini):
    """Asked one by one, since it cannot write JSON, and says so once."""
    for seed in (41, 42):
        layout = scene(seed).layout
        found = px.extract(mini, scene(seed).image, colours_schema())
        assert found.one_by_one
        for shape in SHAPES:
            cells = [i for i, thing in enumerate(layout.cells) if thing.name == shape]
            field = found.fields[f"/{shape}"]
            assert (field.value is not None) == bool(cells) == field.present
            assert field.needs_review is (field.confidence < 0.9)
            if len(cells) == 1:
                assert field.value == layout.cells[cells[0]].colour
                assert touches(field.box, layout, cells[0])


def test_it_says_once_that_questions_make_the_document(mini, caplog):
    _once.cache_clear()
    for _ in range(2):
        px.extract(mini, scene(1).image, colours_schema(), double_check=False)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "does not want to write this JSON" in said and "--one-by-one" in said


def test_questions_about_the_same_pages_begin_alike(writes_json, monkeypatch):
    """The picture is read once: later questions take that over, and say the same as without."""
    shown = scene(9, rows=2, columns=5)
    replies, answer = [], Reader.answer

    def watched(self, ask):
        replies.append(answer(self, ask))
        return replies[-1]

    monkeypatch.setattr(Reader, "answer", watched)
    writes_json.clear_cache()
    schema = scene_schema(shown.layout)
    kept = px.extract(writes_json, shown.image, schema)
    assert len(replies) > 5
    assert all(reply.stats.cached_tokens > reply.stats.image_tokens for reply in replies[1:])
    alone = px.extract(writes_json, shown.image, schema, reuse=False)
    assert alone.data == kept.data
    for pointer, field in kept.fields.items():
        assert field.confidence == pytest.approx(alone.fields[pointer].confidence, abs=1e-4)


ANY = {
    "type": "object",
    "$defs": {"money": {"type": ["number", "null"], "minimum": 0, "maximum": 10**6}},
    "properties": {
        "number": {"type": "string", "minLength": 2, "maxLength": 12},
        "issued": {"type": ["string", "null"], "format": "date"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"},
        "kind": {"enum": ["a", "b", 3]},
        "paid": {"type": "boolean"},
        "lines": {
            "type": "array", "minItems": 1, "maxItems": 2,
            "items": {"type": "object", "properties": {"amount": {"$ref": "#/$defs/money"}},
                      "required": ["amount"]},
        },
        "note": {"type": "string", "maxLength": 5},
        "total": {"type": "integer", "multipleOf": 5, "minimum": -50, "maximum": 50},
    },
    "required": ["number", "issued", "code", "kind", "paid", "lines", "total"],
    "x-checks": ["total == sum(lines.amount)"],
}  # fmt: skip


@pytest.mark.parametrize(("seed", "one_by_one"), [(0, True), (1, None)])
def test_data_is_valid_whatever_a_model_says(model, seed, one_by_one):
    """Random weights, sampled hot; where nothing valid comes out it is an error, and no data."""
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8))
    try:
        found = px.extract(
            model, [picture, picture.rotate(90)], ANY, one_by_one=one_by_one, temperature=3.0,
            seed=seed, pages_at_once=1 + seed % 2, max_tokens=200,
        )  # fmt: skip
    except px.FormError as error:
        assert "what was found is not valid under the schema" in str(error)
        return
    jsonschema.Draft202012Validator(ANY, format_checker=jsonschema.FormatChecker()).validate(
        found.data
    )
    for field in found.fields.values():
        assert (field.value is None) == (field.page is None) == (field.box is None)
        assert 0 <= field.confidence <= 1 and 0 <= field.allowed_mass <= 1
        assert field.needs_review == bool(field.reasons)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_confidence": 2}, "min_confidence must be between 0 and 1, got 2"),
        ({"pages_at_once": 0}, "pages_at_once must be between 1 and 100, got 0"),
        ({"instructions": 5}, "instructions must be a string, got int"),
        ({"one_by_one": "yes"}, "one_by_one must be True, False or None"),
        ({"temperature": -1}, "temperature must be between 0 and 100, got -1"),
    ],
)
def test_options_out_of_range(mini, options, said):
    with pytest.raises(ValueError, match=said):
        px.extract(mini, Image.new("RGB", (8, 8)), colours_schema(), **options)


def test_options_that_are_none(mini):
    with pytest.raises(TypeError, match="extract has no option 'tools'; allowed: double_check"):
        px.extract(mini, Image.new("RGB", (8, 8)), colours_schema(), tools=[])
