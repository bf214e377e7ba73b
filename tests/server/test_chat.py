"""Chat completions: what OpenAI's and Mistral's clients send, and what they get."""

import json

import pytest

QUESTION = "How many rows are there?"


def chunks_of(server, body: dict, path: str = "/v1/chat/completions") -> list[dict]:
    """The chunks of a stream, which ends as it should."""
    with server.http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in events[:-1]]


def text_of(chunks, index: int = 0) -> str:
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_an_answer_about_a_picture(server, about, drawing):
    found = server.post({"model": "pixtral-12b-2409", "messages": about(QUESTION)}).json()
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": "two"}
    assert choice["finish_reason"] == "stop"
    assert found["object"] == "chat.completion" and found["model"] == "pixtral-12b-2409"
    usage = found["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["image_tokens"] > 20


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_says_the_same_with_one_role_and_one_usage(server, about, usage):
    body = {"messages": about("What do you see?"), "max_tokens": 30}
    whole = server.post(body).json()
    chunks = chunks_of(server, {**body, "stream_options": {"include_usage": usage}})
    assert text_of(chunks) == whole["choices"][0]["message"]["content"] != ""
    assert [c["delta"].get("role") for chunk in chunks for c in chunk["choices"]].count(
        "assistant"
    ) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    stated = [chunk for chunk in chunks if chunk.get("usage")]
    assert stated == chunks[-1:]
    assert (stated[0]["choices"] == []) is usage
    same = {**whole["usage"], "prompt_tokens_details": stated[0]["usage"]["prompt_tokens_details"]}
    assert stated[0]["usage"] == same
    ends = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert ends == [whole["choices"][0]["finish_reason"]]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_mistral_s_fields_mean_the_same(server, drawing, about):
    parts = [
        {"type": "image_url", "image_url": drawing[0]},
        {"type": "text", "text": QUESTION},
    ]
    body = {
        "messages": [{"role": "user", "content": parts}],
        "random_seed": 3, "safe_prompt": None, "stop": None, "n": 1, "presence_penalty": None,
        "response_format": {"type": "text"}, "tool_choice": None, "prompt_cache_key": "x",
    }  # fmt: skip
    assert server.post(body).json()["choices"][0]["message"]["content"] == "two"


def test_several_answers_come_with_their_numbers(server, about):
    body = {"messages": about("What do you see?"), "n": 3, "seed": 5, "temperature": 20}
    body["max_tokens"] = 12
    found = server.post(body).json()
    texts = [choice["message"]["content"] for choice in found["choices"]]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert len(set(texts)) > 1
    again = chunks_of(server, body)
    assert [text_of(again, i) for i in range(3)] == texts
    alone = server.post({**body, "n": 1, "seed": 6}).json()["choices"][0]["message"]["content"]
    assert alone == texts[1], "each answer has a seed of its own"


def test_stop_strings_end_an_answer_and_are_no_part_of_it(server, about):
    body = {"messages": about("What do you see?"), "max_tokens": 40}
    text = server.post(body).json()["choices"][0]["message"]["content"]
    stop = text[4:7]
    found = server.post({**body, "stop": [stop]}).json()["choices"][0]
    assert found["message"]["content"] == text[: text.index(stop)]
    assert found["finish_reason"] == "stop"
    assert text_of(chunks_of(server, {**body, "stop": stop})) == found["message"]["content"]


def test_log_probabilities_and_what_else_was_likely(server, about):
    body = {"messages": about(QUESTION), "logprobs": True, "top_logprobs": 3}
    found = server.post(body).json()["choices"][0]["logprobs"]["content"]
    assert len(found) == 1
    first = found[0]
    assert bytes(first["bytes"]).decode() == first["token"] == "two"
    assert len(first["top_logprobs"]) == 3
    assert first["top_logprobs"][0]["logprob"] == pytest.approx(first["logprob"], abs=1e-5)
    values = [top["logprob"] for top in first["top_logprobs"]]
    assert values == sorted(values, reverse=True) and values[0] <= 0
    (streamed,) = [
        token
        for chunk in chunks_of(server, body)
        for choice in chunk["choices"]
        for token in (choice.get("logprobs") or {}).get("content", ())
    ]
    assert streamed["token"] == first["token"]
    plain = server.post({**body, "top_logprobs": 0}).json()["choices"][0]["logprobs"]["content"]
    assert plain[0]["top_logprobs"] == []


SCHEMA = {
    "type": "object",
    "properties": {"rows": {"type": "integer"}},
    "required": ["rows"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "report_rows",
        "parameters": {
            "type": "object",
            "properties": {"rows": {"enum": [1, 2, 3]}},
            "required": ["rows"],
        },
    },
}


def test_a_schema_is_kept(server, about):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    found = server.post({"messages": about(QUESTION), "response_format": form}).json()
    assert set(json.loads(found["choices"][0]["message"]["content"])) == {"rows"}


def test_a_call_comes_whole_in_one_delta(server, about):
    body = {"messages": about(QUESTION), "tools": [TOOL], "tool_choice": "any", "max_tokens": 60}
    body["parallel_tool_calls"] = False
    (choice,) = server.post(body).json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    assert call["function"]["name"] == "report_rows" and len(call["id"]) == 9
    assert json.loads(call["function"]["arguments"])["rows"] in (1, 2, 3)
    deltas = [
        choice["delta"]
        for chunk in chunks_of(server, body)
        for choice in chunk["choices"]
        if "tool_calls" in choice["delta"]
    ]
    ((only,),) = [delta["tool_calls"] for delta in deltas]
    assert only["index"] == 0 and only["type"] == "function"
    assert only["function"] == call["function"]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"temperature": 200}, "temperature", "between 0 and 100, got 200"),
        ({"temperature": "hot"}, "temperature", "must be a number, got 'hot'"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens must be 1"),
        ({"n": 17}, "n", "n must be between 1 and 16, got 17"),
        ({"n": True}, "n", "n must be a whole number"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "between 0 and 20, got 21"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"stream": "yes"}, "stream", "stream must be True or False, got 'yes'"),
        ({"random_seed": -1}, "random_seed", "random_seed must be between 0"),
        ({"stop": [""]}, "stop", "stop must be strings that are not empty"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "logit_bias must name whole numbers"),
        ({"tools": [{}]}, "tools", "tools[0]: no function"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", "tool_choice must be auto"),
        ({"response_format": {"type": "xml"}}, "response_format", "response_format must be"),
        ({"response_format": {"not": {}}}, "response_format", "not"),
        ({"trace": "all"}, "trace", "trace must be"),
        ({"stream_options": 3}, "stream_options", "must be an object"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, None, "messages[0]"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(server, fields, param, said):
    for streamed in (False, True):
        body = {"messages": [{"role": "user", "content": "x"}], "stream": streamed, **fields}
        found = server.post(body)
        error = found.json()["error"]
        assert (found.status_code, error["param"]) == (400, param), error
        assert said in error["message"], error
        assert error["type"] == "invalid_request_error"
        assert "\n" not in error["message"]


def test_unknown_fields_are_no_matter_and_noted_once(server):
    for _ in range(2):
        assert server.ask("Why?", max_tokens=1, metadata={"a": 1}, store=True)["choices"]
    assert server.log.count("'metadata', which means nothing here") == 1


def test_names_of_the_model(server):
    names = ["pixtral-mini", "pixtral-12b", "pixtral-12b-latest", "mistralai/Pixtral-12B-2409"]
    for name in [*names, "pixtral-mini:latest", None]:
        assert server.ask("Why?", model=name, max_tokens=1)["choices"], name
    found = server.post({"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]})
    error = found.json()["error"]
    assert (found.status_code, error["code"]) == (404, "model_not_found")
    assert "'gpt-4o'" in error["message"] and "allowed: pixtral-mini" in error["message"]
    assert all(name in error["message"] for name in names)
    listed = server.http.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["pixtral-mini"]
    one = server.http.get("/v1/models/pixtral-mini").json()
    assert one["capabilities"]["vision"] and one["max_context_length"] == 8192
    assert server.http.get("/v1/models/nobody").json()["error"]["code"] == "model_not_found"


def test_too_long_is_400_with_the_numbers(server):
    found = server.post({"messages": [{"role": "user", "content": "one two " * 9000}]})
    error = found.json()["error"]
    assert (found.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "8,192" in error["message"]


def test_a_follow_up_knows_the_picture(server, about):
    first = about("What do you see?")
    said = server.post({"messages": first}).json()["choices"][0]["message"]
    again = [*first, {**said, "refusal": None}, {"role": "user", "content": QUESTION}]
    usage = server.post({"messages": again}).json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached > usage["prompt_tokens_details"]["image_tokens"]


def test_where_it_looked_comes_with_each_token(server, about, drawing):
    body = {"messages": about("What do you see?"), "trace": True, "max_tokens": 12}
    found = server.post(body).json()
    (choice,) = found["choices"]
    looks = choice["trace"]
    assert "".join(look["token"] for look in looks) == choice["message"]["content"]
    for look in looks:
        left, top, right, bottom = look["box"]
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        assert 0 < look["confidence"] <= 1 and 0 <= look["share"] <= 1 and look["image"] == 0
        assert "map" not in look
    streamed = [
        look
        for chunk in chunks_of(server, {**body, "trace": "maps"})
        for c in chunk["choices"]
        for look in c.get("trace", ())
    ]
    assert [look["box"] for look in streamed] == [look["box"] for look in looks]
    import base64

    rows, columns = streamed[0]["grid"]
    values = base64.b64decode(streamed[0]["map"])
    assert len(values) == rows * columns and max(values) == 255
