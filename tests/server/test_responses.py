"""OpenAI's responses, by its client."""

import base64
import io
import json

import openai
import pytest
from pydantic import BaseModel

from pixtral_mlx.mini import scene

MODEL = "pixtral-12b"
QUESTION = "How many rows are there?"
TOOL = {
    "type": "function",
    "name": "report_rows",
    "description": "Report the number of rows.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"rows": {"type": "string", "enum": ["one", "two", "three"]}},
        "required": ["rows"],
        "additionalProperties": False,
    },
}


class Rows(BaseModel):
    rows: int


@pytest.fixture(scope="module")
def responses(server):
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none") as client:
        yield client.responses


@pytest.fixture
def asked(drawing):
    def ask(question=QUESTION):
        parts = [
            {"type": "input_image", "image_url": drawing[0]},
            {"type": "input_text", "text": question},
        ]
        return [{"role": "user", "content": parts}]

    return ask


def test_a_text_a_picture_and_a_file(server, responses, asked):
    plain = responses.create(model=MODEL, input="hello", max_output_tokens=3)
    said = server.ask("hello", max_tokens=3)
    assert plain.output_text == said["choices"][0]["message"]["content"]
    assert plain.usage.total_tokens == said["usage"]["total_tokens"]
    found = responses.create(model=MODEL, input=asked(), instructions="Be brief.", store=True)
    assert (found.output_text, found.status) == ("two", "completed")
    assert found.instructions == "Be brief." and found.usage.output_tokens == 1
    pdf = io.BytesIO()
    scene(7, 2, 3).image.save(pdf, "PDF", resolution=72)
    data = "data:application/pdf;base64," + base64.b64encode(pdf.getvalue()).decode()
    parts = [
        {"type": "input_file", "filename": "scene.pdf", "file_data": data, "detail": "low"},
        {"type": "input_text", "text": QUESTION},
    ]
    found = responses.create(model=MODEL, input=[{"role": "user", "content": parts}])
    assert found.output_text and 1000 < found.usage.input_tokens < 1200


def test_a_text_comes_in_pieces_and_in_order(responses, asked):
    given = {"model": MODEL, "input": asked("What do you see?"), "max_output_tokens": 4}
    given |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = responses.create(**given)
    events = list(responses.create(**given, stream=True))
    assert [event.sequence_number for event in events] == [*range(len(events))]
    kinds = [event.type.removeprefix("response.") for event in events]
    assert list(dict.fromkeys(kinds)) == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "incomplete"),
    ]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 1 and "".join(event.delta for event in deltas) == whole.output_text
    assert events[-4].text == events[-3].part.text == whole.output_text
    last = events[-1].response
    assert last.output == [events[-2].item] and last.usage.output_tokens == 4
    assert last.incomplete_details == whole.incomplete_details
    assert last.incomplete_details.reason == "max_output_tokens"
    logprobs = whole.output[0].content[0].logprobs
    assert len(logprobs) == 4 and all(len(each.top_logprobs) == 2 for each in logprobs)
    assert sum(len(event.logprobs) for event in deltas) == 4 == len(events[-4].logprobs)
    with responses.stream(model=MODEL, input=asked()) as stream:
        assert stream.get_final_response().output_text == "two"


def test_a_schema_is_kept(responses, asked):
    found = responses.parse(model=MODEL, input=asked(), text_format=Rows)
    assert isinstance(found.output_parsed, Rows)
    with responses.stream(model=MODEL, input=asked(), text_format=Rows) as stream:
        assert stream.get_final_response().output_parsed == found.output_parsed
    bare = {"format": {"type": "json_object"}}
    found = responses.create(model=MODEL, input=asked(), text=bare, max_output_tokens=200)
    assert found.output_text.startswith("{")
    assert found.text.format.type == "json_object"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "report_rows"}])
def test_a_tool_is_called_and_answers(responses, asked, choice):
    given = {"model": MODEL, "tools": [TOOL], "parallel_tool_calls": False}
    found = responses.create(**given, input=asked(), tool_choice=choice)
    (call,) = found.output
    assert (call.type, call.name, call.status) == ("function_call", "report_rows", "completed")
    assert json.loads(call.arguments)["rows"] in ("one", "two", "three")
    events = list(responses.create(**given, input=asked(), tool_choice=choice, stream=True))
    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added"),
        *("function_call_arguments.delta", "function_call_arguments.done"),
        *("output_item.done", "completed"),
    ]
    assert events[3].delta == events[4].arguments == events[5].item.arguments == call.arguments
    with responses.stream(**given, input=asked(), tool_choice=choice) as stream:
        assert stream.get_final_response().output[0].arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    again = [*asked(), *found.output, result]
    after = responses.create(**given, input=again, max_output_tokens=5)
    assert after.output and after.usage.input_tokens > found.usage.input_tokens


def test_what_is_refused(server, responses):
    for field, value in (
        *(("previous_response_id", "resp_1"), ("conversation", "conv_1"), ("background", True)),
        *(("prompt", {"id": "pmpt_1"}), ("temperature", 500), ("instructions", ["x"])),
        *(("input", []), ("tools", [{"type": "web_search"}]), ("text", "json")),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            responses.create(**{"model": MODEL, "input": "x", field: value})
        assert caught.value.param == field, caught.value
        assert field in caught.value.body["message"] and "\n" not in caught.value.body["message"]
    form = {"format": {"type": "json_schema", "name": "x", "schema": {"uniqueItems": 1, "not": {}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        responses.create(model=MODEL, input="x", text=form)
    assert caught.value.param == "text.format"
    assert server.post({"input": "x", "background": False}, "/v1/responses").is_success
