"""What is asked, in which order, and what is believed of the answers."""

import pytest
from PIL import Image
from scripted import read

import pixtral_mlx as px
from pixtral_mlx.extraction.answers import places_in
from pixtral_mlx.extraction.asking import Ask
from pixtral_mlx.extraction.documents import open_document
from pixtral_mlx.extraction.forms import says_absent
from pixtral_mlx.extraction.leaves import leaves, relaxed, without_extensions
from pixtral_mlx.extraction.passes import Passes
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.model.config import PIXTRAL_12B_VISION

TEXT = {"type": "string", "maxLength": 20}
MAYBE = {"type": ["string", "null"], "x-question": "What?", "x-present": "Is it there?"}
ONE = {"type": "object", "properties": {"a": MAYBE}, "required": ["a"]}


def only(first, present, second="", schema=ONE, **options):
    """The field of a document that has one, and what was asked."""

    def answer(question, pages):
        return {"Is it there?": present, "What?": second}.get(question, {"a": first})

    outcome, asked, _ = read(schema, answer, **options)
    return outcome.data, outcome.fields["/a"], [question for question, _ in asked[1:]]


def test_two_passes_that_agree():
    data, field, asked = only("Red  Star", "yes", "red star")
    assert data == {"a": "Red  Star"} and asked == ["Is it there?", "What?"]
    assert (field.agrees, field.present, [*field.reasons]) == (True, True, [])
    assert (field.first, field.second) == ("Red  Star", "red star")
    assert (field.page, field.box) == (1, pytest.approx((2 / 3, 1 / 2, 1 / 3, 1 / 2)))


def test_two_passes_that_do_not():
    data, field, _ = only("red", "two", "blue")
    assert data == {"a": "red"} and field.agrees is False and field.second == "blue"
    assert [*field.reasons] == ["a second question gave 'blue'"]


def test_what_a_question_does_not_find_is_null_and_the_invention_is_named():
    data, field, asked = only("red", "none")
    assert data == {"a": None} and asked == ["Is it there?"]
    assert (field.present, field.first, field.confidence > 0.99) == (False, "red", True)
    assert [*field.reasons] == ["the first pass wrote 'red', and a question finds nothing there"]


def test_nothing_that_nobody_finds_is_sure():
    data, field, asked = only(None, "No.")
    assert data == {"a": None} and asked == ["Is it there?"]
    assert (field.agrees, field.present, field.page, field.needs_review) == (
        True,
        False,
        None,
        False,
    )


def test_nothing_where_a_question_finds_something():
    _, field, asked = only(None, "yes", "blue")
    assert asked == ["Is it there?", "What?"] and field.value is None and field.agrees is False
    assert "a question finds something: 'blue'" in field.reasons[0]


def test_what_must_be_there_and_is_not_is_marked():
    must = {**ONE, "properties": {"a": {**MAYBE, "type": "string"}}}
    data, field, _ = only("red", "no", schema=must)
    assert data == {"a": "red"} and field.present is False
    assert "the schema does not allow null" in field.reasons[0]


def test_what_may_be_left_out_is_left_out():
    optional = {"type": "object", "properties": {"a": {**MAYBE, "type": "string"}}}
    data, field, _ = only("red", "no", schema=optional)
    assert data == {} and field.value is None
    outcome, _, _ = read(optional, lambda question, _: "no" if question == "Is it there?" else {})
    assert outcome.data == {} and outcome.fields["/a"].agrees is True


def test_nobody_asks_where_nobody_is_to_be_asked():
    data, field, asked = only("red", "no", double_check=False)
    assert (data, asked, field.agrees, field.present) == ({"a": "red"}, [], None, None)
    always = {**ONE, "properties": {"a": {**MAYBE, "x-present": False}}}
    assert only("red", "no", "red", schema=always)[2] == ["What?"]


def test_doubts_about_the_words_themselves():
    def answer(question, _):
        return {"Is it there?": "yes", "What?": "red"}.get(
            question, ('{"a":"red"}', {"logprob": -0.5, "mass": 0.9})
        )

    field = read(ONE, answer)[0].fields["/a"]
    assert field.reasons[0].startswith("confidence 0.") and "below 0.9" in field.reasons[0]
    assert not read(ONE, answer, min_confidence=0.1)[0].fields["/a"].needs_review


def test_a_presence_answer_that_the_model_did_not_want_to_give_says_nothing():
    schema = {**ONE, "properties": {"a": {"type": ["string", "null"], "x-question": "What?"}}}

    def answer(question, _):
        if question.endswith("Answer yes or no."):
            return "no", {"mass": 0.1}
        return "red" if question == "What?" else {"a": "red"}

    outcome, asked, _ = read(schema, answer)
    assert outcome.data == {"a": "red"} and outcome.fields["/a"].present is None
    assert asked[1][0] == 'Does the document answer this: "What?"? Answer yes or no.'


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (('{"a":"red"}', {"mass": 0.2}), "does not want to write this JSON"),
        (('{"a":"re', {"cut": True}), "the answer was cut"),
    ],
)
def test_questions_make_the_document_where_json_does_not(first, why):
    def answer(question, _):
        return {"Is it there?": "yes", "What?": "red"}.get(question, first)

    outcome, asked, notes = read(ONE, answer)
    assert outcome.data == {"a": "red"} and outcome.one_by_one
    assert [question for question, _ in asked[1:]] == ["Is it there?", "What?"]
    assert len(notes) == 1 and why in notes[0] and "--one-by-one" in notes[0]
    assert outcome.fields["/a"].agrees is None and outcome.fields["/a"].present is True
    if "cut" in why:
        with pytest.raises(px.FormError, match="the answer was cut"):
            read(ONE, answer, one_by_one=False)


def test_absent_fields_are_not_asked_for_when_questions_come_first():
    outcome, asked, _ = read(ONE, lambda question, _: "nothing", one_by_one=True)
    assert outcome.data == {"a": None} and [q for q, _ in asked] == ["Is it there?"]
    assert not outcome.fields["/a"].needs_review and outcome.fields["/a"].confidence > 0.99


ROWS = {
    "type": "object",
    "properties": {
        "lines": {
            "type": "array", "x-question": "How many lines?",
            "items": {
                "type": "object",
                "properties": {
                    "name": {**TEXT, "x-question": "Name of line {n}?", "x-present": False},
                    "amount": {"type": "number", "x-question": "Amount {n}?", "x-present": False},
                },
                "required": ["name", "amount"],
            },
        },
        "total": {"type": "number", "x-question": "Total?", "x-present": False},
    },
    "required": ["lines", "total"],
    "x-checks": ["total == sum(lines.amount)"],
}  # fmt: skip


def test_rows_are_counted_and_asked_for_one_by_one():
    said = {"How many lines?": "two", "Name of line 1?": "a", "Name of line 2?": "b"}
    said |= {"Amount 1?": "1.5", "Amount 2?": "2", "Total?": "four"}
    outcome, _, _ = read(ROWS, lambda question, _: said[question], one_by_one=True)
    rows = [{"name": "a", "amount": 1.5}, {"name": "b", "amount": 2}]
    assert outcome.data == {"lines": rows, "total": 4}
    assert outcome.reasons == ("total == sum(lines.amount): 4 and 3.5",)
    for pointer in ("/total", "/lines/0/amount", "/lines/1/amount"):
        assert outcome.fields[pointer].reasons == outcome.reasons
    assert not outcome.fields["/lines/0/name"].reasons


def test_rows_that_a_question_counts_otherwise():
    first = {"lines": [{"name": "a", "amount": 1}], "total": 1}

    def answer(question, _):
        return {"How many lines?": "3", "Name of line 1?": "a"}.get(question, "1")

    outcome, _, _ = read(ROWS, lambda q, p: first if q.startswith("Extract") else answer(q, p))
    assert outcome.reasons == ("/lines: 1 rows, and a question counts 3",)


def test_rows_that_a_question_counts_otherwise_on_several_pages():
    def answer(question, pages):
        if question.startswith("Extract"):
            return {"lines": [{"name": "a", "amount": 1}], "total": None if pages[0] == 1 else 2}
        counts = {"How many lines?": {1: "one", 3: "two"}[pages[0]], "Name of line 1?": "a"}
        return counts.get(question) or ("2" if question == "Total?" else "1")

    outcome, asked, _ = read(ROWS, answer, pages=4, at_once=2)
    assert outcome.reasons == ("/lines: 2 rows, and a question counts 3",)
    assert [pages for question, pages in asked if question == "How many lines?"] == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("how", "doubt"),
    [
        ({"logprob": -0.5}, "confidence 0.61 is below 0.9"),
        ({"mass": 0.3}, "the schema allowed only 30% of what the model would have said"),
    ],
)
def test_rows_that_were_counted_with_doubts(how, doubt):
    """Also where it is doubted that there are none. Rows of other pages are not in doubt."""

    def answer(question, pages):
        if question == "How many lines?":
            return {1: "one", 3: ("one", how), 5: ("none", how)}[pages[0]]
        return {"Name of line 1?": "a", "Total?": "2"}.get(question, "1")

    outcome, *_ = read(ROWS, answer, pages=5, at_once=2, one_by_one=True)
    rows, none = (f"/lines: {n} rows on page{where}, {doubt}" for n, where in
                  ((1, "s 3 to 4"), (0, " 5")))  # fmt: skip
    assert outcome.reasons == (rows, none) and outcome.data["total"] == 2
    assert [field.reasons for field in outcome.fields.values()] == [(), (), (rows,), (rows,), ()]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_rows_that_are_there_twice(one_by_one):
    """The same values from the same place: the later one is marked. Not on another page, nor where
    one value of them is another one."""
    rows = [{"name": name, "amount": amount} for name, amount in
            (("a", 1), ("a", 2), ("a", 1), ("b", 2))]  # fmt: skip

    def answer(question, pages):
        if question.startswith("Extract"):
            return {"lines": rows, "total": 12}
        if question == "How many lines?":
            return "4"
        row = rows[int(question[-2]) - 1] if question != "Total?" else {}
        return row["name"] if question.startswith("Name") else str(row.get("amount", 12))

    outcome, *_ = read(ROWS, answer, pages=2, at_once=1, one_by_one=one_by_one)
    marked = {pointer: field.reasons for pointer, field in outcome.fields.items() if field.reasons}
    again = "the same as /lines/{}, and from the same place"
    assert marked == {
        f"/lines/{row}/{name}": (again.format(row - 2),) for row in (2, 6)
        for name in ("name", "amount")
    }  # fmt: skip
    assert not outcome.reasons


@pytest.mark.parametrize("one_by_one", [False, True])
def test_arrays_go_on_over_pages_in_order(one_by_one):
    """Seven pages, three at a time: every row once, and asked for where it stands."""
    counts = {(1, 2, 3): 2, (4, 5, 6): 0, (7,): 1}

    def answer(question, pages):
        start = {1: 0, 4: 2, 7: 2}[pages[0]]
        rows = [{"name": f"r{start + i}", "amount": 1.0} for i in range(counts[tuple(pages)])]
        if question.startswith("Extract"):
            return {"lines": rows, "total": 3 if pages == [7] else None}
        if question == "How many lines?":
            return str(len(rows))
        if question.startswith("Name"):
            return rows[int(question[-2]) - 1]["name"]
        return "1" if question.startswith("Amount") else "3"

    outcome, asked, _ = read(ROWS, answer, pages=7, at_once=3, one_by_one=one_by_one)
    assert [row["name"] for row in outcome.data["lines"]] == ["r0", "r1", "r2"]
    assert outcome.data["total"] == 3 and outcome.reasons == ()
    assert {number for _, pages in asked for number in pages} == {*range(1, 8)}
    assert ("Name of line 2?", [1, 2, 3]) in asked and ("Name of line 1?", [7]) in asked
    assert ("Name of line 3?", [7]) not in asked
    assert [*outcome.fields][:2] == ["/lines/0/name", "/lines/0/amount"]
    assert all(not field.reasons for field in outcome.fields.values())


def test_pages_that_say_different_things():
    def answer(question, pages):
        if question.startswith("Extract"):
            return ('{"a":"old"}', {"logprob": -0.2}) if pages == [1] else {"a": "new"}
        return {"Is it there?": "yes"}.get(question, "new")

    outcome, asked, _ = read(ONE, answer, pages=2, at_once=1)
    assert outcome.data == {"a": "new"}
    assert [*outcome.fields["/a"].reasons] == ["other pages say 'old'"]
    assert outcome.fields["/a"].page == 2
    assert ("What?", [2]) in asked and ("What?", [1]) not in asked


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({"second_look": True}, " at a lower resolution"),
        ({"second_seed": 7}, " drawn at random"),
    ],
)
def test_a_further_answer_is_asked_for_where_the_others_agree(options, how):
    _, field, asked = only("red", "yes", "red", **options)
    assert asked == ["Is it there?", "What?", "What?"] and field.agrees
    assert only("red", "yes", "blue", **options)[2] == ["Is it there?", "What?"]

    def other(question, _):
        return {"Is it there?": "yes"}.get(question) or next(answers)

    answers = iter([{"a": "red"}, "red", "blue"])
    field = read(ONE, other, **options)[0].fields["/a"]
    assert [*field.reasons] == [f"a second question{how} gave 'blue'"]
    answers = iter(["red", "red"])
    outcome, asked, _ = read(ONE, other, one_by_one=True, **options)
    assert outcome.fields["/a"].agrees and len(asked) == 3


def test_what_is_drawn_is_drawn_with_its_seed():
    (leaf, _), passes = next(leaves(ONE)), Passes(ONE, [[]])
    plain, drawn = (next(passes.ask_value(leaf, 0, **how)).options() for how in ({}, {"seed": 7}))
    assert plain.keys().isdisjoint({"temperature", "seed"})
    assert (drawn["temperature"], drawn["seed"]) == (1.0, 7)


def test_an_answer_that_breaks_the_schema_is_asked_for_in_json():
    schema = {**ONE, "properties": {"a": {**MAYBE, "type": "string", "minLength": 3}}}
    answers = iter(["yes", "no", '"yes"'])
    outcome, asked, _ = read(schema, lambda *_: next(answers), one_by_one=True)
    assert outcome.data == {"a": "yes"} and len(asked) == 3


@pytest.mark.parametrize("schema", [[1], "x", {"type": "string"}, {"type": "object"}, {"not": {}}])
def test_what_is_no_schema(schema):
    with pytest.raises(px.FormError):
        read(schema, lambda *_: "")


# Small parts -----------------------------------------------------------------------------------


def test_questions_and_names_are_made_from_what_the_schema_says():
    schema = {
        "type": "object", "$defs": {"money": {"type": "number", "description": "in EUR"}},
        "properties": {
            "invoiceNumber": {"type": "string"},
            "seller": {"type": "object", "properties": {"vat_id": {"type": ["string", "null"]}}},
            "total": {"$ref": "#/$defs/money"},
            "paid": {"type": "boolean", "title": "Is it paid?"},
            "note": {"anyOf": [{"type": "string", "description": "What note is there?"},
                               {"type": "null"}]},
            "lines": {"type": "array", "items": {"type": "object",
                                                 "properties": {"unit_price": {"type": "number"}}}},
        },
        "required": ["invoiceNumber", "seller"],
    }  # fmt: skip
    data = {"seller": {}, "lines": [{"unit_price": 1}], "note": "x"}
    found = {leaf.pointer: leaf for leaf, _ in leaves(schema, data)}
    hint = "Answer with the value alone, as the document has it."
    assert [*found] == [
        "/invoiceNumber", "/seller/vat_id", "/total", "/paid", "/note", "/lines/0/unit_price",
    ]  # fmt: skip
    asked = {pointer: leaf.question.removesuffix(hint).strip() for pointer, leaf in found.items()}
    assert asked == {
        "/invoiceNumber": "What is the invoice number?",
        "/seller/vat_id": "What is the vat id of the seller?",
        "/total": "What is the total? (in EUR)",
        "/paid": "Is it paid?",
        "/note": "What note is there?",
        "/lines/0/unit_price": "What is the unit price of number 1 of the lines?",
    }
    nullable = {pointer for pointer, leaf in found.items() if leaf.nullable}
    optional = {pointer for pointer, leaf in found.items() if leaf.optional}
    assert nullable == {"/seller/vat_id", "/note"} and "/invoiceNumber" not in optional
    assert [leaf.pointer for leaf, _ in leaves(schema)][:2] == ["/invoiceNumber", "/seller/vat_id"]


def test_extensions_are_no_part_of_the_schema_but_names_may_look_like_them():
    schema = {
        "x-question": "?", "properties": {"x-ray": {"type": "string", "x-present": "?"}},
        "required": ["x-ray"], "enum": [{"x-a": 1}],
    }  # fmt: skip
    assert without_extensions(schema) == {
        "properties": {"x-ray": {"type": "string"}}, "required": ["x-ray"], "enum": [{"x-a": 1}],
    }  # fmt: skip


def test_a_part_of_a_document_may_lack_everything():
    found = without_extensions(relaxed(ROWS))
    inner = found["properties"]["lines"]["items"]["properties"]["amount"]
    assert inner == {"anyOf": [{"type": "number"}, {"type": "null"}]}
    assert found["properties"]["total"] == inner


def test_places_of_values_in_json():
    text = '{"a": "x\\"y", "b":[1.5,-2,{"c":null}], "d":{},"e":[],"f":true}'
    found = [(path, text[start:end], value) for path, start, end, value in places_in(text)]
    assert found == [
        (("a",), '"x\\"y"', 'x"y'), (("b", 0), "1.5", 1.5), (("b", 1), "-2", -2),
        (("b", 2, "c"), "null", None), (("f",), "true", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["no", "None.", "nothing", "0", "No, it is not", "There is no date"]
)
def test_answers_that_say_no(text):
    assert says_absent(text)


@pytest.mark.parametrize("text", ["yes", "1", "two", "a note", "Nora", "10", "there is one"])
def test_answers_that_do_not(text):
    assert not says_absent(text)


def test_pages_are_announced_where_there_are_several_in_a_question():
    """And one alone is not: models that were taught single pictures read it as one."""
    pages = open_document([Image.new("RGB", (8, 8))] * 3, ImageOptions(), PIXTRAL_12B_VISION)
    alone, both = (Ask("What?", part).messages("In francs.") for part in (pages[2:], pages[1:]))
    assert [part.get("text") for part in alone[0]["content"]] == [None, "In francs.\n\nWhat?"]
    assert [part.get("text") for part in both[0]["content"]] == [
        "Page 2:", None, "Page 3:", None, "In francs.\n\nWhat?",
    ]  # fmt: skip
