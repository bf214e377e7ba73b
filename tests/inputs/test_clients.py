"""Messages as other programs send them: every shape gives the prompt of the plain one."""

import base64
import dataclasses
import io
import json
import re
from typing import Any

import numpy as np
import pydantic
import pytest
from mistral_common.protocol.instruct.messages import (
    AssistantMessage,
    ImageChunk,
    ImageURLChunk,
    SystemMessage,
    TextChunk,
    ToolMessage,
    UserMessage,
)
from mistral_common.protocol.instruct.request import ChatCompletionRequest, ResponseFormat
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool, ToolCall
from pdfs import make_pdf
from PIL import Image

import pixtral_mlx as px


@pytest.fixture(scope="module")
def png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def path(png, tmp_path_factory):
    found = tmp_path_factory.mktemp("clients") / "a.png"
    found.write_bytes(png)
    return found


@pytest.fixture(scope="module")
def same(loaded):
    """Whether two conversations are the same prompt, to the pixel."""

    def check(messages, expected, images=()) -> None:
        found, wanted = loaded.encode(messages, images), loaded.encode(expected)
        assert found.tokens == wanted.tokens
        assert len(found.images) == len(wanted.images)
        for one, other in zip(found.images, wanted.images, strict=True):
            assert np.array_equal(one, other)

    return check


def user(content) -> dict[str, Any]:
    return {"role": "user", "content": content}


ASKED = [user("Why?")]
TALK = [
    {"role": "system", "content": "Be kind."},
    user("Why?"),
    {"role": "assistant", "content": "So."},
    user("And?"),
]
CALL = {"id": "abcdefghi", "function": {"name": "look", "arguments": '{"x": 1}'}}
CALLED = [
    user("Why?"),
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "red", "tool_call_id": "abcdefghi"},
]


# Messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        # openai 3, `ChatCompletionMessage.model_dump()`
        {"content": "So.", "refusal": None, "role": "assistant", "annotations": None,
         "audio": None, "function_call": None, "tool_calls": None},
        {"role": "assistant", "content": None, "refusal": "So."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "So."}]},
        {"role": "assistant", "content": None, "audio": {"id": "a", "transcript": "So."}},
        # `ResponseOutputMessage.model_dump()`
        {"id": "m", "role": "assistant", "status": "completed", "type": "message", "phase": None,
         "content": [{"annotations": [], "text": "So.", "type": "output_text", "logprobs": None}]},
        # DeepSeek's and vLLM's, Mistral's, Anthropic's
        {"role": "assistant", "content": "So.", "reasoning_content": "Hm.", "reasoning": "Hm."},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
            {"type": "text", "text": "So."}]},
        {"role": "assistant", "content": [
            {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "So."}]},
        {"role": "assistant", "content": "So.", "prefix": False, "tool_calls": []},
        {"role": "assistant", "content": "So.", "name": "Bo", "id": 7, "created": 1e9, "weight": 1},
    ],
)  # fmt: skip
def test_an_answer_as_it_was_dumped(same, reply):
    same([TALK[0], TALK[1], reply, TALK[3]], TALK)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        # `response.output` and the input of OpenAI's Responses API
        ([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Why?"}]}],
         ASKED),
        ([{"type": "input_text", "text": "Why?"}], ASKED),
        ([TALK[0], TALK[1], {"type": "output_text", "text": "So.", "annotations": []}, TALK[3]],
         TALK),
        ([TALK[0], TALK[1],
          {"type": "message", "role": "assistant", "id": "m", "status": "completed",
           "content": [{"type": "output_text", "text": "So.", "annotations": []}]}, TALK[3]], TALK),
        ([ASKED[0],
          {"type": "function_call", "id": "fc_1", "call_id": "abcdefghi", "name": "look",
           "arguments": '{"x": 1}', "status": "completed"},
          {"type": "function_call_output", "id": "fco_1", "call_id": "abcdefghi",
           "output": "red"}], CALLED),
        ([ASKED[0],
          {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"x": 1}'},
          {"type": "function_call_output", "call_id": "call_1",
           "output": [{"type": "input_text", "text": "red"}]}],
         [ASKED[0], {"role": "assistant", "tool_calls": [{**CALL, "id": "call_1"}]},
          {"role": "tool", "content": "red", "tool_call_id": "call_1"}]),
        # calls that were made together, as the Vercel AI SDK sends them back
        ([ASKED[0],
          {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"x": 1}'},
          {"type": "function_call", "call_id": "call_2", "name": "look", "arguments": '{"x": 1}'},
          {"type": "function_call_output", "call_id": "call_1", "output": "red"},
          {"type": "function_call_output", "call_id": "call_2", "output": "blue"}],
         [ASKED[0],
          {"role": "assistant", "tool_calls": [{**CALL, "id": n} for n in ("call_1", "call_2")]},
          {"role": "tool", "content": "red", "tool_call_id": "call_1"},
          {"role": "tool", "content": "blue", "tool_call_id": "call_2"}]),
    ],
)  # fmt: skip
def test_items_of_openai_s_responses(same, items, expected):
    same(items, expected)


def test_a_picture_in_the_place_of_a_message(same, path):
    sent = {"type": "input_image", "image_url": str(path), "detail": "auto"}
    same([sent], [user([{"type": "image", "image": str(path)}])])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"type": "reasoning", "id": "r", "summary": []}, "type 'reasoning'; allowed: a message "),
        ({"type": "item_reference", "id": "m"}, "type 'item_reference'; allowed: a message with"),
        ({"type": "web_search_call"}, "type function_call, function_call_output, text, input_text"),
        ({"type": "message", "content": "Hi"}, "role None; allowed: system, user, assistant, "),
        ({"role": "robot", "type": "message"}, "role 'robot'; allowed: system, user"),
        ({"content": "Hi"}, "role None; allowed"),
    ],
)
def test_items_that_hold_no_message_are_refused_by_kind(loaded, item, said):
    with pytest.raises(px.PromptError, match=re.escape(said)) as caught:
        loaded.encode([*ASKED, item])
    assert str(caught.value).startswith("messages[1]: ")


def test_words_beside_calls_where_the_template_has_no_place(same, caplog):
    """mistral-common's v3 takes either; from v5 on both, as Pixtral Large's v7m1 does."""
    said = {**CALLED[1], "content": "Let me look."}
    before = {"role": "system", "content": "Be brief."}
    same([before, CALLED[0], said, CALLED[2]], [before, *CALLED])
    (note,) = caplog.messages
    assert note == "messages[2]: text beside tool_calls: left out, the template has no place"


@pytest.mark.parametrize("role", ["developer", "system"])
def test_the_developer_is_the_system(same, role):
    same([{"role": role, "content": "Be kind.", "name": None}, *TALK[1:]], TALK)


def langchain(kind: str, content: Any, **more: Any) -> dict[str, Any]:
    """What `model_dump` of langchain-core 1 gives."""
    empty = {"additional_kwargs": {}, "response_metadata": {}, "name": None, "id": None}
    return {"content": content, "type": kind, **empty, **more}


def test_langchain(same):
    kinds = (("system", "Be kind."), ("human", "Why?"), ("ai", "So."), ("human", "And?"))
    same([langchain(*kind) for kind in kinds], TALK)
    same({"messages": [langchain(*kind) for kind in kinds]}, TALK)  # a `ChatPromptValue`
    same(list(kinds), TALK)
    same([{"type": kind, "data": langchain(kind, text)} for kind, text in kinds], TALK)
    written = ("langchain", "schema", "messages", "HumanMessage")
    same([{"lc": 1, "type": "constructor", "id": written, "kwargs": langchain(*kind)}
          for kind in kinds], TALK)  # fmt: skip
    chunk = langchain("AIMessageChunk", "So.", tool_calls=[], tool_call_chunks=[])
    chat = langchain("chat", "And?", role="user")
    same([*TALK[:2], chunk, chat], TALK)
    call = {"name": "look", "args": {"x": 1}, "id": "abcdefghi", "type": "tool_call"}
    result = langchain("tool", "red", tool_call_id="abcdefghi", artifact=None, status="success")
    same([ASKED[0], langchain("ai", "", tool_calls=[call], invalid_tool_calls=[]), result], CALLED)


class Words(pydantic.BaseModel):
    type: str = "text"
    text: str


class Said(pydantic.BaseModel):
    """As Mistral's client has them: names by alias, and a value for what was not given."""

    who: str = pydantic.Field("user", alias="role")
    content: Any
    tool_calls: Any = None


class Unset(pydantic.BaseModel):
    def __bool__(self) -> bool:
        return False


@dataclasses.dataclass
class Turn:
    role: str
    content: str
    created: float = 0.0


def test_objects(same, picture):
    same([Said(content="Why?")], ASKED)
    same([Said(content=[Words(text="Why?")])], [user([{"type": "text", "text": "Why?"}])])
    same([Turn(each["role"], each["content"]) for each in TALK], TALK)
    calls = Said(role="assistant", content=Unset(), tool_calls=CALLED[1]["tool_calls"])
    same([CALLED[0], calls, CALLED[2]], CALLED)
    same(
        [user([ImageChunk(image=picture), TextChunk(text="Why?")])],
        [user([{"type": "image", "image": picture}, {"type": "text", "text": "Why?"}])],
    )


def test_mistral_common(same, loaded, picture, path):
    call = ToolCall(id="abcdefghi", function=FunctionCall(name="look", arguments='{"x": 1}'))
    said = [
        UserMessage(content="Why?"),
        AssistantMessage(tool_calls=[call]),
        ToolMessage(content="red", tool_call_id="abcdefghi"),
    ]
    same(said, CALLED)
    same([SystemMessage(content="Be kind."), *TALK[1:]], TALK)
    photo = io.BytesIO()
    picture.save(photo, "JPEG")
    jpeg = Image.open(photo)  # which must not be encoded once more
    asked = [{"type": "image", "image": jpeg}, {"type": "text", "text": "Why?"}]
    chunks = [ImageChunk(image=jpeg), TextChunk(text="Why?")]
    same([UserMessage(content=chunks)], [user(asked)])
    same(ChatCompletionRequest(messages=[UserMessage(content=chunks)]), [user(asked)])
    pictured = [ImageURLChunk(image_url=str(path)), TextChunk(text="Why?")]
    dumped = ChatCompletionRequest(messages=[UserMessage(content=pictured)]).model_dump_json()
    same(json.loads(dumped), [user([{"type": "image", "image": path}, asked[1]])])


def test_a_request_brings_its_tools(loaded):
    look = Function(name="look", description="Looks.", parameters={"type": "object"})
    request = ChatCompletionRequest(
        messages=[UserMessage(content="Why?")], tools=[Tool(function=look)]
    )
    expected = loaded.tokenizer._mistral.encode_chat_completion(request).tokens
    assert loaded.encode(request).tokens == expected
    assert loaded.encode(json.loads(request.model_dump_json())).tokens == expected
    assert len(expected) > len(loaded.encode("Why?").tokens)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"messages": ASKED, "stop": "x", "max_tokens": 5},
         "a request with max_tokens, stop; allowed: messages, tools"),
        (ChatCompletionRequest(messages=[UserMessage(content="x")], temperature=0.5),
         "a request with temperature"),
        (ChatCompletionRequest(messages=[UserMessage(content="x")],
                               response_format=ResponseFormat(type="json_object")),
         "response_format json_object; allowed: text"),
    ],
)  # fmt: skip
def test_a_request_is_no_more_than_a_prompt(loaded, request_, said):
    with pytest.raises(px.PromptError, match=said):
        loaded.encode(request_)


def test_calls_of_tools(same, loaded):
    asked, called, answered = CALLED
    openai = {**CALL, "type": "function", "index": 0}
    same([asked, {**called, "content": "", "tool_calls": [openai], "name": None}, answered], CALLED)
    # Template and Mistral take ids of nine letters; others become such, the same for the same.
    long = [
        {**CALL, "id": "call_OpenAIs_are_longer_9af3"},
        {**CALL, "id": "call_OpenAIs_are_longer_9af4"},
    ]
    results = [{"role": "tool", "content": "red", "tool_call_id": call["id"]} for call in long]
    text = loaded.tokenizer.decode(
        loaded.encode([asked, {**called, "tool_calls": long}, *results]).tokens
    )
    ids = re.findall(r'"(?:call_)?id": ?"(\w+)"', text)
    assert len(ids) == 4 and ids[:2] == ids[2:] and ids[0] != ids[1]
    # Hugging Face's and OpenAI's first ones have none, and arguments may be an object.
    bare = {"type": "function", "function": {"name": "look", "arguments": {"x": 1}}}
    old = {"role": "assistant", "content": None, "function_call": bare["function"]}
    first = {"role": "assistant", "content": None, "tool_calls": [bare]}
    result = {"role": "tool", "name": "look", "content": "red"}
    legacy = {"role": "function", "name": "look", "content": "red"}
    same([asked, first, result], [asked, old, legacy])


def test_an_answer_that_is_begun(loaded, same):
    begun = {"role": "assistant", "content": "The sign", "prefix": True}
    asked = loaded.encode(ASKED).tokens
    for shape in (begun, {**begun, "tool_calls": None, "refusal": None}, AssistantMessage(**begun)):
        tokens = loaded.encode([*ASKED, shape]).tokens
        assert tokens[: len(asked)] == asked
        assert tokens[len(asked) :] == loaded.tokenizer._words.encode("The sign", False, False)


# Parts -----------------------------------------------------------------------------------------


def test_texts(same):
    expected = [user([{"type": "text", "text": "Why?"}])]
    for part in (
        "Why?",
        {"type": "input_text", "text": "Why?"},
        {"type": "text", "content": "Why?"},
        {"type": "text", "text": "Why?", "content": None, "image": None, "index": 0},
        {"type": "text-plain", "text": "Why?", "mime_type": "text/plain"},
        {"type": "text", "text": "Why?", "cache_control": {"type": "ephemeral"}},
    ):
        same([user([part])], expected)


def image_parts(path, png, picture) -> list[dict[str, Any]]:
    encoded = base64.b64encode(png).decode()
    url = f"data:image/png;base64,{encoded}"
    shapes: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": source} for source in (str(path), url, {"url": url})
    ]
    shapes += [
        {"type": "image_url", "image_url": {"url": str(path), "detail": "high"}},
        {"type": "image_url", "url": url},
        {"type": "input_image", "image_url": url, "detail": "auto", "file_id": None},
        {"type": "input_image", "image_url": {"url": url}},
        {"type": "image", "url": path.as_uri()},
        {"type": "image", "path": str(path)},
        {"type": "image", "base64": encoded, "mime_type": "image/png", "id": "lc_1"},
        {"type": "image", "base64": url},
        {"type": "image", "image": encoded},
        {"type": "image", "image": picture, "text": None},
        {"type": "image", "image": io.BytesIO(png)},
        {"type": "image", "image": np.asarray(picture)},
        {"type": "image", "image": {"url": url}},
        {"type": "image", "source_type": "base64", "data": encoded, "mime_type": "image/png"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": encoded}},
        {"type": "image", "source": {"type": "url", "url": url}},
        {"type": "file", "file": {"filename": "a.png", "file_data": url}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": encoded}},
        {"type": "file", "base64": encoded, "mime_type": "application/pdf"},
        {"type": "input_file", "filename": "a.png", "file_data": url},
        {"type": "input_file", "file_url": url},
        {"type": "document_url", "document_url": str(path), "document_name": "a"},
        {"type": "document_url", "document_url": {"url": url}},
        {"type": "document", "source": {"type": "base64", "data": encoded}},
    ]
    return shapes


def test_pictures(same, path, png, picture):
    text = {"type": "text", "text": "Why?"}
    expected = [user([{"type": "image", "image": picture}, text])]
    for part in image_parts(path, png, picture):
        same([user([part, text])], expected)


def test_a_pdf_is_one_by_its_first_bytes(same):
    pdf = make_pdf(2)
    encoded = base64.b64encode(pdf).decode()
    expected = [user([{"type": "image", "image": pdf}, "Why?"])]
    for part in (
        {"type": "file", "file": {"filename": "a.png", "file_data": encoded}},
        {"type": "image_url", "image_url": f"data:image/png;base64,{encoded}"},
        {"type": "document_url", "document_url": f"data:application/pdf;base64,{encoded}"},
        {"type": "image", "image": io.BytesIO(pdf)},
        {"type": "image", "image": encoded},
    ):
        same([user([part, "Why?"])], expected)


def test_placeholders_are_filled_in_their_order(same, path, picture):
    hole = {"type": "image"}
    other = Image.new("RGB", (33, 20), "red")
    expected = [
        user([{"type": "image", "image": picture}, "Why?", {"type": "image", "image": other}]),
        {"role": "assistant", "content": "So."},
        user([{"type": "image", "image": path}, "And?"]),
    ]
    asked = [user([hole, "Why?", {**hole, "image": None, "text": None}]), expected[1]]
    same([*asked, user([hole, "And?"])], expected, [picture, other, path])
    same([*asked, expected[2]], expected, [picture, other])


# What is wrong says where ----------------------------------------------------------------------


def test_a_mistake_says_which_message(loaded, tmp_path, picture):
    talk = [user("Why?"), {"role": "assistant", "content": "So."}]
    hole = {"type": "image"}

    def said(last, *images, before=talk) -> str:
        with pytest.raises(px.PixtralError) as caught:
            loaded.encode([*before, last], list(images))
        text = str(caught.value)
        assert "\n" not in text
        return text

    none = str(tmp_path / "none.png")
    at = "messages[2].content[1]"
    for source in (none, "data:image/png;base64,!", b"abc", np.zeros(4), {"url": none}):
        for kind in ("image", "image_url"):
            assert said(user(["x", {"type": kind, kind: source}])).startswith(f"{at}: ")
    assert said(user(["x", {"type": "image", "base64": "!"}])).startswith(f"{at}.base64: not valid")
    assert said(user(["x", hole])) == (
        f"{at}.image: missing: give a path, a URL or a picture here, or in images="
    )
    assert said(user([hole, hole]), picture).startswith(f"{at}.image: missing, and images= holds 1")
    assert "images= holds 2 pictures, and the messages have 1 parts" in said(
        user([hole, "x"]), picture, picture
    )
    for part in (
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "input_image", "file_id": "f"},
    ):
        assert "file_id names a file on a server" in said(user(["x", part]))
    for kind in ("input_audio", "video_url", "tool_use", "thinking", None):
        assert said(user(["x", {"type": kind}])) == (
            f"{at}: type {kind!r}; allowed: text, input_text, image, image_url, input_image, file, "
            "input_file, document, document_url"
        )
    float_picture = Image.fromarray(np.zeros((9, 9), np.float32))
    assert said(user(["x", {"type": "image", "image": float_picture}])).startswith(
        "messages[2].content[1]: a picture of 32-bit floats"
    )
    assert said({"role": "robot", "content": "x"}) == (
        "messages[2]: role 'robot'; allowed: system, user, assistant, tool, developer"
    )
    # What mistral-common says of a conversation is about one of its messages too.
    assert said({"role": "assistant", "content": "y"}).startswith("messages[2]: Expected last role")
    assert said({"role": "tool", "content": "y"}).startswith("messages[2]: ")
    first = [{"role": "assistant", "content": "x"}]
    assert said(first[0], before=[]).startswith("messages[0]: ")
    assert said(first[0], before=[*first, user("y")]).startswith("messages[2]: Expected last")
    early = [user("x"), {"role": "assistant", "content": "y", "prefix": True}]
    assert said(user("z"), before=early).startswith("messages[1]: ")
    assert "messages[1].tool_calls[0]: no function with a name" in said(
        user("z"), before=[user("x"), {"role": "assistant", "tool_calls": [{"id": "x"}]}]
    )


def test_one_of_several_images_is_named(loaded, picture):
    for messages in ("Why?", [user([{"type": "image"}, {"type": "image"}])]):
        with pytest.raises(px.ImageError, match=r"^images\[1\]: image bytes: "):
            loaded.encode(messages, [picture, b"abc"])
        with pytest.raises(px.ImageError, match=r"^none.png: no such file"):
            loaded.encode(messages, [picture, "none.png"])
