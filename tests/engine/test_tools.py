"""Tools: what is sent, the calls that come back, and their way into the next question."""

import json
import re

import jsonschema
import numpy as np
import pytest
from checkpoints import HEIR_VISION, make_official
from pydantic import BaseModel

import pixtral_mlx as px
from pixtral_mlx.inputs.tools import CallReader, as_tools

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 5},
        "unit": {"$ref": "#/$defs/unit"},
        "days": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 9},
            "maxItems": 2,
        },
    },
    "required": ["city", "unit"],
    "$defs": {"unit": {"enum": ["C", "F"]}},
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Now", "parameters": CITY},
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A small model with Pixtral Large's SentencePiece."""
    folder = make_official(tmp_path_factory.mktemp("large") / "model", tokenizer="spm")
    return px.load(folder, dtype="float32")


@pytest.fixture(scope="module", params=["v11", "v13"])
def heir(request, tmp_path_factory):
    """A small model with a template that has control tokens between the parts of a call."""
    folder = tmp_path_factory.mktemp("heir") / request.param
    tokenizer = f"tekken-{request.param}"
    return px.load(make_official(folder, tokenizer=tokenizer, vision=HEIR_VISION), dtype="float32")


def check(reply):
    """Calls, and nothing else, whose arguments follow the schema."""
    assert (reply.finish_reason, reply.text, reply.parse_error) == ("tool_calls", "", None)
    assert reply.tool_calls
    for call in reply.tool_calls:
        assert call.keys() == {"id", "type", "function"} and call["type"] == "function"
        assert re.fullmatch("[a-zA-Z0-9]{9}", call["id"])
        arguments = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "clock":
            assert arguments == {}
        else:
            assert call["function"]["name"] == "weather"
            jsonschema.validate(arguments, CITY)


@pytest.mark.parametrize("which", ["model", "large"])
@pytest.mark.parametrize("choice", ["required", "any", NAMED], ids=["required", "any", "named"])
def test_a_required_call_is_made_and_follows_its_schema(request, which, choice, picture):
    model = request.getfixturevalue(which)
    names = set()
    for seed in range(4):
        reply = model.generate(
            "Which?", images=[picture], tools=TOOLS, tool_choice=choice, temperature=1.5, seed=seed,
            max_tokens=2000,
        )  # fmt: skip
        check(reply)
        names |= {call["function"]["name"] for call in reply.tool_calls}
        assert (
            reply.tokens[0] == model.tokenizer.call_marks().begin and reply.stats.forced_tokens > 0
        )
        assert len(reply.allowed_mass) == len(reply.tokens)
    assert names == {"weather"} if choice is NAMED else {"weather", "clock"}


def test_ids_are_drawn_anew_whatever_the_seed(model):
    question = {
        "messages": "Which?",
        "tools": TOOLS,
        "tool_choice": "any",
        "seed": 1,
        "max_tokens": 400,
    }
    first, again = model.generate(**question), model.generate(**question)
    assert first.tokens == again.tokens
    ids = [call["id"] for reply in (first, again) for call in reply.tool_calls]
    assert len({*ids}) == len(ids)


def test_an_answer_may_have_several_calls(model):
    question = {"messages": "Which?", "tools": TOOLS, "tool_choice": "any", "max_tokens": 900}
    counts = set()
    for seed in range(6):
        reply = model.generate(**question, temperature=2.0, seed=seed)
        check(reply)
        counts.add(len(reply.tool_calls))
        one = model.generate(**question, temperature=2.0, seed=seed, parallel_tool_calls=False)
        check(one)
        assert len(one.tool_calls) == 1
    assert max(counts) > 1


def test_a_stream_gives_deltas_that_add_up(model):
    stream = model.stream(
        "Which?", tools=TOOLS, tool_choice="any", temperature=2.0, seed=3, max_tokens=900
    )
    built: list[dict] = []
    for piece in stream:
        assert piece.text == ""
        for delta in piece.tool_calls:
            if "id" in delta:
                assert delta["index"] == len(built)
                built.append({**delta, "function": dict(delta["function"])})
                assert delta["function"]["arguments"] == ""
            else:
                assert delta["index"] == len(built) - 1 and delta.keys() == {"index", "function"}
                built[-1]["function"]["arguments"] += delta["function"]["arguments"]
    check(stream.reply)
    assert [
        {k: v for k, v in call.items() if k != "index"} for call in built
    ] == stream.reply.tool_calls


def test_auto_is_free_until_a_call_begins(model):
    """A bias stands for a model that wants to call, or does not."""
    calls, question = model.tokenizer.call_marks().begin, {"messages": "Which?", "tools": TOOLS}
    quiet = model.generate(**question, max_tokens=9, logit_bias={calls: -1e9})
    assert quiet.tool_calls == [] and quiet.finish_reason == "length" and quiet.parse_error is None
    assert quiet.allowed_mass == [1.0] * 9
    prompt = model.encode("Which?", tools=TOOLS)
    free = model.generate(prompt, max_tokens=9, logit_bias={calls: -1e9})
    assert free.tokens == quiet.tokens
    np.testing.assert_allclose(free.logprobs, quiet.logprobs, atol=1e-5)
    eager = model.generate(**question, max_tokens=400, logit_bias={calls: 1e6})
    check(eager)
    forbidden = model.generate(
        **question, tool_choice="none", max_tokens=9, logit_bias={calls: 1e6}
    )
    assert calls not in forbidden.tokens and forbidden.tool_calls == []
    assert forbidden.stats.prompt_tokens < quiet.stats.prompt_tokens, "nor does it hear of them"


def test_words_may_stand_before_a_call(model, monkeypatch):
    """Whatever was held back for a stop string comes when the call begins."""
    calls, quiet = (
        model.tokenizer.call_marks().begin,
        model.generate("Which?", max_tokens=3, tools=TOOLS),
    )
    said = model.tokenizer.decode(quiet.tokens)
    from pixtral_mlx.engine import grammar

    original = grammar.CallConstraint.allowed

    def allowed(self):
        found = original(self)
        if self._written == 3 and not self.calling:
            found = np.zeros(self._rows, bool)
            found[calls] = True
        return found

    monkeypatch.setattr(grammar.CallConstraint, "allowed", allowed)
    stops = [said[-1] + "never"]
    reply = model.generate("Which?", max_tokens=400, tools=TOOLS, stop=stops)
    assert (reply.text, reply.finish_reason) == (said, "tool_calls") and len(reply.tool_calls) > 0


def test_a_form_and_tools_exclude_one_another_in_an_answer(model):
    calls = model.tokenizer.call_marks().begin
    question = {
        "messages": "Which?", "tools": TOOLS, "max_tokens": 400,
        "response_format": {"type": "regex", "regex": "(yes|no){3}"},
    }  # fmt: skip
    words = model.generate(**question, logit_bias={calls: -1e9})
    assert re.fullmatch("(yes|no){3}", words.parsed) and words.tool_calls == []
    assert words.finish_reason == "stop"
    called = model.generate(**question, logit_bias={calls: 1e6})
    check(called)
    assert called.parsed is None


def test_a_batch_calls_as_single_requests_do(model):
    asked = [("any", TOOLS), ("auto", None), ("auto", [CLOCK]), (NAMED, TOOLS)]
    requests = [
        {"messages": f"{n}?", "seed": n, "max_tokens": 90, "tools": tools, "tool_choice": choice}
        for n, (choice, tools) in enumerate(asked)
    ]
    replies = model.generate_batch(requests, temperature=1.2, reuse=False)
    for reply, request in zip(replies, requests, strict=True):
        single = model.generate(temperature=1.2, reuse=False, **request)
        assert (reply.tokens, reply.finish_reason) == (single.tokens, single.finish_reason)
        assert [call["function"] for call in reply.tool_calls] == [
            call["function"] for call in single.tool_calls
        ]


def test_a_cut_call_is_none(model):
    question = {
        "messages": "Which?", "tools": TOOLS, "tool_choice": NAMED, "parallel_tool_calls": False,
    }  # fmt: skip
    whole = model.generate(**question, max_tokens=400)
    check(whole)
    cut = model.generate(**question, max_tokens=len(whole.tokens) // 3)
    assert (cut.finish_reason, cut.tool_calls) == ("length", [])
    assert cut.parse_error.endswith("before its end")


def test_what_the_schema_says_of_a_whole_value_is_checked(model):
    odd = {
        "type": "object",
        "properties": {"n": {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 0}]}},
        "required": ["n"],
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": odd}}]
    question = {"messages": "Which?", "tools": tools, "tool_choice": "any", "max_tokens": 400}
    found = set()
    for seed in range(8):
        reply = model.generate(**question, parallel_tool_calls=False, temperature=2.0, seed=seed)
        n = json.loads(reply.tool_calls[0]["function"]["arguments"])["n"]
        both = n >= 0 and n == int(n)
        found.add(both)
        assert (reply.parse_error is not None) == both
        if both:
            assert reply.parse_error.startswith("tool_calls[0].function.arguments: #/n: ")
    assert found == {True, False}


# What is sent ----------------------------------------------------------------------------------


def test_tools_are_in_the_prompt_as_mistral_common_writes_them(model):
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    messages = [{"role": "user", "content": "Which?"}]
    request = ChatCompletionRequest.model_validate({"messages": messages, "tools": [WEATHER]})
    expected = model.tokenizer._mistral.encode_chat_completion(request).tokens
    assert model.encode("Which?", tools=[WEATHER]).tokens == expected
    reply = model.generate("Which?", tools=[WEATHER], max_tokens=1)
    assert reply.stats.prompt_tokens == len(expected)


def test_a_pydantic_class_is_a_tool(model):
    class Route(BaseModel):
        """The way between two places."""

        by_car: bool

    (tool,) = as_tools([Route]).request["tools"]
    assert (tool["function"]["name"], tool["function"]["description"]) == (
        "Route", "The way between two places.",
    )  # fmt: skip
    reply = model.generate("Which?", tools=[Route], tool_choice="required", max_tokens=900)
    assert Route.model_validate_json(reply.tool_calls[0]["function"]["arguments"])


def test_results_go_back_with_the_ids_of_any_maker(model):
    reply = model.generate(
        "Which?", tools=TOOLS, tool_choice=NAMED, max_tokens=400, parallel_tool_calls=False
    )
    (call,) = reply.tool_calls
    for name in (call["id"], "call_" + "x" * 24):
        talk = [
            {"role": "user", "content": "Which?"},
            {"role": "assistant", "content": None, "tool_calls": [{**call, "id": name}]},
            {"role": "tool", "tool_call_id": name, "content": '{"degrees": 21}'},
        ]
        prompt = model.encode(talk, tools=TOOLS)
        text = "".join(map(model.tokenizer.label, prompt.tokens))
        said = json.loads(text.partition("[TOOL_CALLS]")[2].partition("</s>")[0])[0]
        result = json.loads(text.partition("[TOOL_RESULTS]")[2].partition("[/TOOL_RESULTS]")[0])
        assert said["id"] == result["call_id"] and re.fullmatch("[a-zA-Z0-9]{9}", said["id"])
        assert (said["id"] == name) == (len(name) == 9)
        assert said["arguments"] == json.loads(call["function"]["arguments"])
        answer = model.generate(talk, tools=TOOLS, max_tokens=3)
        assert answer.stats.prompt_tokens == len(prompt.tokens)


def test_a_picture_in_a_result_is_an_error_that_says_so(model, picture):
    talk = [
        {"role": "user", "content": "Which?"},
        {"role": "assistant", "tool_calls": [{"id": "a" * 9, "function": {"name": "clock"}}]},
        {"role": "tool", "tool_call_id": "a" * 9, "content": [{"type": "image", "image": picture}]},
    ]  # fmt: skip
    with pytest.raises(px.PromptError, match="a picture in a tool message; only users send"):
        model.generate(talk, tools=TOOLS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tools": WEATHER}, "tools must be a list"),
        ({"tools": [{"name": "weather"}]}, "tools[0]: no function with a name"),
        ({"tools": [{"function": {"name": "a b"}}]}, "of letters, digits, _ and -"),
        ({"tools": [{"function": {"name": "a", "parameters": 5}}]}, "parameters must be a JSON"),
        ({"tools": [CLOCK, CLOCK]}, "two have the same"),
        ({"tools": TOOLS, "tool_choice": "perhaps"}, "must be auto, none, any, required"),
        ({"tools": TOOLS, "tool_choice": {"function": {"name": "sun"}}}, "allowed: weather, clock"),
        ({"tools": TOOLS, "prompt_lookup_num_tokens": 4}, "prompt_lookup_num_tokens and tools"),
    ],
)  # fmt: skip
def test_what_is_no_tool_is_an_error(options, said):
    with pytest.raises(ValueError) as caught:
        px.GenerationOptions(**options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_arguments_that_cannot_be_promised_are_refused_with_their_place(model):
    wrong = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tools = [CLOCK, {"type": "function", "function": {"name": "f", "parameters": wrong}}]
    with pytest.raises(px.FormError, match=r"^tool f: #/properties/a: uniqueItems cannot be"):
        model.stream("Which?", tools=tools)


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_heirs_call_in_their_own_template(heir, choice):
    names, most = set(), 0
    for seed in range(4):
        stream = heir.stream(
            "Which?", tools=TOOLS, tool_choice=choice, temperature=1.5, seed=seed, max_tokens=2000
        )
        deltas = [delta for piece in stream for delta in piece.tool_calls]
        reply = stream.reply
        check(reply)
        for index, call in enumerate(reply.tool_calls):
            first, *rest = (delta for delta in deltas if delta["index"] == index)
            assert first["id"] == call["id"] and first["function"]["name"]
            joined = "".join(delta["function"]["arguments"] for delta in rest)
            assert joined == call["function"]["arguments"]
        names |= {call["function"]["name"] for call in reply.tool_calls}
        most = max(most, len(reply.tool_calls))
    assert names == {"weather"} if choice is NAMED else {"weather", "clock"}
    assert most > 1
    one = heir.generate(
        "Which?", tools=TOOLS, tool_choice=choice, temperature=1.5, seed=0, max_tokens=2000,
        parallel_tool_calls=False,
    )  # fmt: skip
    check(one)
    assert len(one.tool_calls) == 1


def test_calls_of_heirs_go_back_as_they_were_written(heir):
    """What an answer wrote is what the template makes of its calls, but for their ids."""
    asked = [{"role": "user", "content": "Which?"}]
    reply = heir.generate(
        asked, tools=TOOLS, tool_choice="required", temperature=1.5, seed=2, max_tokens=2000
    )
    calls = [{"role": "assistant", "tool_calls": reply.tool_calls}]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "5"} for call in reply.tool_calls
    ]
    prompt = heir.encode([*asked, *calls, *results], tools=TOOLS)
    marks = heir.tokenizer.call_marks()

    def without_ids(tokens):
        kept, inside = [], False
        for token in tokens:
            inside = (inside or token == marks.call_id) and token != marks.arguments
            kept += [] if inside else [token]
        return heir.tokenizer._words.decode(kept, special_token_policy="keep")

    start = prompt.tokens.index(marks.begin)
    assert without_ids(prompt.tokens[start:]).startswith(without_ids(reply.tokens))


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_calls_are_read_however_they_are_cut(step):
    arguments = ['{"a": "}]\\"{[", "b": [{"c": {}}, "\\\\"]}', "{}", '{"é": 1}']
    names = ["f", "g-1", "h"]
    text = (
        "["
        + ", ".join(
            f'{{"name": "{n}", "arguments": {a}}}' for n, a in zip(names, arguments, strict=True)
        )
        + "]"
    )
    reader, deltas = CallReader(), []
    for start in range(0, len(text), step):
        deltas += reader.add(text[start : start + step])
    assert [call["function"] for call in reader.calls] == [
        {"name": n, "arguments": a} for n, a in zip(names, arguments, strict=True)
    ]
    for index, call in enumerate(reader.calls):
        first, *rest = (delta for delta in deltas if delta["index"] == index)
        assert first["id"] == call["id"] and first["function"]["arguments"] == ""
        assert (
            "".join(delta["function"]["arguments"] for delta in rest)
            == call["function"]["arguments"]
        )
