"""The clients that people use, as their documentation shows them: address and model changed."""

import json

import mistralai.client as mistral
import openai
import pytest
from documents import blocks
from pydantic import BaseModel

QUESTION = "How many rows are there?"
TOOL = {
    "type": "function",
    "function": {
        "name": "report_rows",
        "description": "Report the number of rows.",
        "parameters": {
            "type": "object",
            "properties": {"rows": {"type": "string", "enum": ["one", "two", "three"]}},
            "required": ["rows"],
        },
    },
}


class Rows(BaseModel):
    rows: int


@pytest.fixture(scope="module")
def gpt(server):
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none") as client:
        yield client


@pytest.fixture(scope="module")
def le_chat(server):
    with mistral.Mistral(server_url=server.address, api_key="none") as client:
        yield client


def test_openai_lists_and_answers(gpt, about):
    assert [model.id for model in gpt.models.list()] == ["pixtral-mini"]
    assert gpt.models.retrieve("pixtral-mini").id == "pixtral-mini"
    found = gpt.chat.completions.create(model="pixtral-12b-2409", messages=about(QUESTION))
    assert found.choices[0].message.content == "two"
    assert found.usage.prompt_tokens_details.cached_tokens >= 0
    stream = gpt.chat.completions.create(
        model="pixtral-12b", messages=about("What do you see?"), stream=True, max_tokens=20,
        stream_options={"include_usage": True}, logprobs=True, top_logprobs=2,
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    whole = gpt.chat.completions.create(
        model="pixtral-12b", messages=about("What do you see?"), max_tokens=20
    )
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    with gpt.chat.completions.stream(model="pixtral-12b", messages=about(QUESTION)) as helper:
        assert helper.get_final_completion().choices[0].message.content == "two"


def test_openai_parses_and_calls(gpt, about):
    found = gpt.chat.completions.parse(
        model="pixtral-12b", messages=about(QUESTION), response_format=Rows
    )
    assert isinstance(found.choices[0].message.parsed, Rows)
    messages = about(QUESTION)
    called = gpt.chat.completions.create(
        model="pixtral-12b",
        messages=messages,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    (call, *_) = called.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["rows"] in ("one", "two", "three")
    messages += [called.choices[0].message]
    messages += [
        {"role": "tool", "tool_call_id": each.id, "content": "done"}
        for each in called.choices[0].message.tool_calls
    ]
    assert gpt.chat.completions.create(
        model="pixtral-12b", messages=messages, tools=[TOOL], max_tokens=5
    ).choices
    with gpt.chat.completions.stream(
        model="pixtral-12b",
        messages=about(QUESTION),
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
    ) as helper:
        again = helper.get_final_completion().choices[0].message.tool_calls[0].function
    assert again.name == "report_rows" and again.arguments == call.function.arguments


def test_openai_s_errors_are_its_own(gpt, server):
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-5'"):
        gpt.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError) as caught:
        gpt.chat.completions.create(
            model="pixtral-12b", messages=[{"role": "user", "content": "x"}], temperature=500
        )
    assert caught.value.param == "temperature"


def test_mistral_lists_and_answers(le_chat, drawing):
    assert le_chat.models.list().data[0].capabilities.vision is True
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": QUESTION},
                {"type": "image_url", "image_url": drawing[0]},
            ],
        }
    ]
    found = le_chat.chat.complete(model="pixtral-12b-2409", messages=messages)
    assert found.choices[0].message.content == "two"
    assert found.choices[0].finish_reason == "stop"
    events = list(le_chat.chat.stream(model="pixtral-12b-2409", messages=messages))
    assert "".join(e.data.choices[0].delta.content or "" for e in events) == "two"
    assert events[-1].data.usage.total_tokens == found.usage.total_tokens
    parsed = le_chat.chat.parse(Rows, model="pixtral-12b", messages=messages)
    assert isinstance(parsed.choices[0].message.parsed, Rows)


def test_mistral_calls_tools_streamed_and_whole(le_chat, about):
    asked = {"model": "pixtral-12b", "messages": about(QUESTION), "tools": [TOOL]}
    found = le_chat.chat.complete(**asked, tool_choice="any").choices[0].message
    (call, *_) = found.tool_calls
    assert call.function.name == "report_rows"
    events = list(le_chat.chat.stream(**asked, tool_choice="any"))
    calls = [c for e in events for c in e.data.choices[0].delta.tool_calls or ()]
    assert calls[0].function.arguments == call.function.arguments
    messages = [
        *asked["messages"], found,
        *(
            {"role": "tool", "name": c.function.name, "content": "done", "tool_call_id": c.id}
            for c in found.tool_calls
        ),
    ]  # fmt: skip
    again = le_chat.chat.complete(
        **{**asked, "messages": messages}, tool_choice="none", max_tokens=5
    )
    assert again.choices[0].message.content is not None


def test_the_curl_of_mistral_s_page_and_the_messages_of_vllm(server, drawing):
    """What is printed there, posted as it stands."""
    curl = {
        "model": "pixtral-12b-2409",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": QUESTION},
                    {"type": "image_url", "image_url": drawing[0]},
                ],
            }
        ],
        "max_tokens": 300,
    }
    key = {"Authorization": "Bearer whatever"}
    assert server.post(curl, headers=key).json()["choices"][0]["message"]["content"] == "two"
    vllm = {
        "model": "mistralai/Pixtral-12B-2409",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": QUESTION},
                    {"type": "image_url", "image_url": {"url": drawing[0]}},
                ],
            }
        ],
    }
    assert server.post(vllm).json()["choices"][0]["message"]["content"] == "two"


@pytest.mark.parametrize("snippet", blocks("server", "py"))
def test_the_snippets_of_the_page_on_the_server(server, drawing, snippet, capsys):
    text = snippet.replace("http://127.0.0.1:8000", server.address)
    text = text.replace("What is this?", QUESTION)
    exec(compile(text, "server.md", "exec"), {"picture": drawing[0]})
    assert capsys.readouterr().out == "two\n"


def test_the_trace_of_the_page_is_what_comes(server, about):
    (stated,) = map(json.loads, blocks("server", "json"))
    found = server.post({"messages": about(QUESTION), "trace": True}).json()
    (look,) = found["choices"][0]["trace"]
    assert look.keys() == stated.keys()
    for name, value in stated.items():
        assert look[name] == (pytest.approx(value, abs=2e-3) if name != "token" else value), name
