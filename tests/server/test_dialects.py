"""Completions, Anthropic's messages and Ollama's paths, by the clients that speak them."""

import base64
import json
from types import SimpleNamespace
from typing import Literal

import anthropic
import ollama
import openai
import pytest
from documents import blocks
from loops import in_a_loop
from pydantic import BaseModel

from pixtral_mlx.engine.reply import Piece, Reply
from pixtral_mlx.server.anthropic import MessagesRequest

QUESTION = "How many rows are there?"
SCHEMA = {
    "type": "object",
    "properties": {"rows": {"type": "string", "enum": ["one", "two", "three"]}},
    "required": ["rows"],
}


class Rows(BaseModel):
    rows: Literal["one", "two", "three"]


@pytest.fixture(scope="module")
def claude(server):
    with anthropic.Anthropic(base_url=server.address, api_key="none") as client:
        yield client


@pytest.fixture(scope="module")
def llama(server):
    with ollama.Client(host=server.address) as client:
        yield client


def asked(drawing):
    data = drawing[0].partition(",")[2]
    source = {"type": "base64", "media_type": "image/png", "data": data}
    parts = [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": parts}]


def read(message) -> int:
    """Tokens of the prompt, those from before among them."""
    return message.usage.input_tokens + message.usage.cache_read_input_tokens


def test_a_text_goes_on(server):
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none") as client:
        never_ends = {"model": "pixtral-12b", "logit_bias": {"2": -100}}
        given = {**never_ends, "prompt": "How many", "max_tokens": 4}
        found = client.completions.create(**given, logprobs=2, echo=True).choices[0]
        assert found.text.startswith("How many") and len(found.text) > len("How many")
        assert len(found.logprobs.tokens) == len(found.logprobs.token_logprobs) > 0
        assert all(len(top) == 2 for top in found.logprobs.top_logprobs)
        chunks = list(client.completions.create(**given, stream=True))
        assert "How many" + "".join(c.choices[0].text for c in chunks) == found.text
        assert chunks[-1].choices[0].finish_reason == found.finish_reason
        assert chunks[-1].usage.completion_tokens == len(found.logprobs.tokens)
    for prompt in ("", ["a", "b"], [1, 2], 3):
        error = server.post({"prompt": prompt}, "/v1/completions").json()["error"]
        assert error["param"] == "prompt"


def test_anthropic_answers_whole_and_streamed(claude, drawing):
    given = {"model": "pixtral-12b", "max_tokens": 20, "messages": asked(drawing)}
    found = claude.messages.create(**given, system="Be brief.")
    assert [block.text for block in found.content] == ["two"]
    assert found.stop_reason == "end_turn" and found.usage.input_tokens > 0
    with claude.messages.stream(**given) as stream:
        assert "".join(stream.text_stream) == "two"
        last = stream.get_final_message()
    assert last.content[0].text == "two" and last.stop_reason == "end_turn"
    assert read(last) > 20


def test_anthropic_calls_tools_and_hears_of_them(claude, drawing):
    tool = {"name": "report_rows", "description": "Report.", "input_schema": SCHEMA}
    choice = {"type": "tool", "name": "report_rows", "disable_parallel_tool_use": True}
    given = {"model": "pixtral-12b", "max_tokens": 80, "tools": [tool]}
    found = claude.messages.create(**given, tool_choice=choice, messages=asked(drawing))
    (call,) = found.content
    assert (call.type, call.name, found.stop_reason) == ("tool_use", "report_rows", "tool_use")
    assert call.input["rows"] in SCHEMA["properties"]["rows"]["enum"]
    with claude.messages.stream(**given, tool_choice=choice, messages=asked(drawing)) as stream:
        assert stream.get_final_message().content[0].input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "done"}
    messages = [
        *asked(drawing),
        {"role": "assistant", "content": [block.model_dump() for block in found.content]},
        {"role": "user", "content": [result]},
    ]
    after = claude.messages.create(**{**given, "max_tokens": 5}, messages=messages)
    assert read(after) > read(found)  # what it says of it hangs on the call's id, which is drawn


def test_a_text_and_two_calls_are_three_blocks():
    """Mini never writes them together."""
    calls = [
        {"id": f"call{i:05}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for i in range(2)
    ]
    reply = Reply("I look.", finish_reason="tool_calls", tool_calls=calls)

    class Written:
        prompt, replies = SimpleNamespace(tokens=range(9)), [reply]

        async def events(self):
            yield 0, Piece("I look.", 5, 0.0)
            yield 0, reply

    async def written():
        request = MessagesRequest({"max_tokens": 9, "messages": [{"role": "user"}]}, "m")
        chunks = [chunk async for chunk in request.chunks(Written())]
        return chunks, (await request.whole(Written()))["content"]

    chunks, content = in_a_loop(written)
    events = [json.loads(chunk.partition(b"data: ")[2]) for chunk in chunks]
    opened = [event for event in events if event["type"] == "content_block_start"]
    assert [event["index"] for event in opened] == [0, 1, 2]
    assert [event["content_block"]["type"] for event in opened] == [b["type"] for b in content]
    closed = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert closed == [0, 1, 2]


def test_anthropic_keeps_a_schema(claude, server, drawing):
    given = {"model": "pixtral-12b", "max_tokens": 80, "messages": asked(drawing)}
    found = claude.messages.parse(**given, output_format=Rows)
    assert isinstance(found.parsed_output, Rows)
    for config, said in (("x", "output_config must"), ({"format": {"type": "x"}}, "format must")):
        error = server.post({**given, "output_config": config}, "/v1/messages").json()["error"]
        assert said in error["message"], error


def test_anthropic_hears_of_tools_and_the_user_at_once(claude, drawing):
    """Its results stand in the user's message, beside whatever the user says."""
    messages = [
        *asked(drawing),
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "report_rows", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "done"},
                {"type": "text", "text": QUESTION},
            ],
        },
    ]
    given = {"model": "pixtral-12b", "max_tokens": 5}
    lengths = [read(claude.messages.create(**given, messages=messages[:n])) for n in (1, 3)]
    assert lengths[1] > lengths[0]


def test_anthropic_s_errors_are_its_own(claude, server):
    with pytest.raises(anthropic.NotFoundError, match="there is no model 'opus'"):
        claude.messages.create(
            model="opus", max_tokens=5, messages=[{"role": "user", "content": "x"}]
        )
    found = server.post({"messages": [{"role": "user", "content": "x"}]}, "/v1/messages").json()
    assert found["type"] == "error" and "max_tokens is missing" in found["error"]["message"]
    with pytest.raises(anthropic.BadRequestError) as caught:  # seen only with its messages
        claude.messages.create(
            model="pixtral-12b", max_tokens=5, messages=[{"role": "robot", "content": "x"}]
        )
    assert caught.value.body["type"] == "error" and "robot" in caught.value.message
    refused = server.post({}, "/v1/messages", headers={"origin": "https://example.com"})
    assert refused.json()["error"]["type"] == "permission_error", refused.text
    assert refused.json()["type"] == "error"


def test_ollama_lists_answers_and_streams(llama, drawing):
    assert [model.model for model in llama.list().models] == ["pixtral-mini:latest"]
    assert "vision" in llama.show("pixtral-mini:latest").capabilities
    picture = base64.b64decode(drawing[0].partition(",")[2])
    messages = [{"role": "user", "content": QUESTION, "images": [picture]}]
    found = llama.chat(model="pixtral-mini:latest", messages=messages)
    assert found.message.content == "two" and found.done_reason == "stop"
    assert found.prompt_eval_count > 20 and found.eval_count == 1
    lines = list(llama.chat(model="pixtral-mini", messages=messages, stream=True))
    assert "".join(line.message.content for line in lines) == "two"
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    told = llama.generate(model="pixtral-mini", prompt=QUESTION, images=[picture])
    assert told.response == "two"


def test_ollama_keeps_a_schema_and_calls_tools(llama, drawing):
    picture = drawing[0].partition(",")[2]
    messages = [{"role": "user", "content": QUESTION, "images": [picture]}]
    found = llama.chat(model="pixtral-mini", messages=messages, format=SCHEMA)
    assert set(json.loads(found.message.content)) == {"rows"}
    tool = {
        "type": "function",
        "function": {"name": "report_rows", "description": "Report.", "parameters": SCHEMA},
    }
    options = {"num_predict": 5}
    assert llama.chat(model="pixtral-mini", messages=messages, tools=[tool], options=options).done
    for ask in (llama.show, lambda name: llama.chat(model=name, messages=messages)):
        with pytest.raises(ollama.ResponseError, match=r"^there is no model 'llama3'"):
            ask("llama3")
    with pytest.raises(ollama.ResponseError, match=r"^messages\[0\]"):
        llama.chat(model="pixtral-mini", messages=[{"role": "robot", "content": "x"}])


def test_clients_find_the_server_by_the_variables_of_the_page(server, monkeypatch):
    (listed,) = [text for text in blocks("server", "text") if "BASE_URL" in text]
    for line in listed.replace("http://127.0.0.1:8000", server.address).splitlines():
        monkeypatch.setenv(*line.split("=", 1))
    messages = [{"role": "user", "content": "x"}]
    with openai.OpenAI() as client:
        given = {"model": "pixtral-12b", "messages": messages}
        assert client.chat.completions.create(**given, max_tokens=1).choices
    with anthropic.Anthropic() as client:
        assert client.messages.create(**given, max_tokens=1).type == "message"
    with ollama.Client() as client:
        assert client.chat(**given, options={"num_predict": 1}).done
