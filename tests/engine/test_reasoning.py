"""Thoughts of models that think first (Magistral) are not part of the answer."""

import json

import anthropic
import cases
import checkpoints
import pytest
from loops import in_a_loop
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

import pixtral_mlx as px
from pixtral_mlx.cli.question import write_stream
from pixtral_mlx.engine.answer import Answer
from pixtral_mlx.engine.options import GenerationOptions
from pixtral_mlx.engine.reply import Reply
from pixtral_mlx.engine.sampling import Choice
from pixtral_mlx.server.anthropic import MessagesRequest
from pixtral_mlx.server.chat import ChatRequest
from pixtral_mlx.server.ollama import OllamaChat, OllamaGenerate
from pixtral_mlx.server.responses import ResponsesRequest

THINK, END = 22, 23


@pytest.fixture(scope="module")
def magistral(tmp_path_factory):
    """Random weights behind a tokenizer with `[THINK]`."""
    folder = checkpoints.make_official(
        tmp_path_factory.mktemp("heir"), tokenizer="tekken-v13", vision=checkpoints.HEIR_VISION
    )
    return px.load(folder, dtype="float32")


def written(model, tokens, **options):
    """The pieces and the reply of an answer that is these tokens."""
    prompt = model.encode([cases.user(cases.text("Why?"))])
    answer = Answer(model.engine, prompt, GenerationOptions(**options), limit=len(tokens))
    answer.start()
    pieces = []
    for token in tokens:
        if not answer.finished:
            pieces += answer.add(Choice(token, -0.5))
    return pieces, answer.reply


def ids(model, text):
    return model.tokenizer._words.encode(text, bos=False, eos=False)


def test_thoughts_stand_beside_the_answer(magistral):
    assert magistral.tokenizer.thinking_ids == (THINK, END)
    thought, said = ids(magistral, "Hm: 日本."), ids(magistral, "Four")
    pieces, reply = written(magistral, [THINK, *thought, END, *said])
    assert (reply.reasoning, reply.text) == ("Hm: 日本.", "Four")
    assert "".join(piece.reasoning for piece in pieces) == reply.reasoning
    assert "".join(piece.text for piece in pieces) == reply.text
    assert reply.tokens == [THINK, *thought, END, *said]
    assert len(reply.logprobs) == len(reply.tokens)


def test_a_stop_string_in_a_thought_does_not_end_the_answer(magistral):
    thought, said = ids(magistral, "one. two."), ids(magistral, "A. B")
    _, reply = written(magistral, [THINK, *thought, END, *said], stop=["."])
    assert (reply.reasoning, reply.text, reply.finish_reason) == ("one. two.", "A", "stop")


def test_an_answer_that_was_cut_while_it_thought(magistral):
    _, reply = written(magistral, [THINK, *ids(magistral, "Hm")])
    assert (reply.reasoning, reply.text, reply.finish_reason) == ("Hm", "", "length")


def answered(magistral, kind, path, **fields):
    """What a request gets, whole and in chunks, for an answer that was thought about."""
    thought, said = ids(magistral, "Hm."), ids(magistral, "Four")
    pieces, reply = written(magistral, [THINK, *thought, END, *said])

    class Answers:
        replies, model, prompt = (reply,), magistral, magistral.encode("Why?")

        async def pictures(self):
            return None

        async def look(self, number, token):
            return None

        async def events(self):
            for item in (*pieces, reply):
                yield 0, item

    async def chunks():
        return [chunk async for chunk in request.chunks(Answers())]

    request = kind({path: [{"role": "user", "content": "Why?"}], **fields}, "magistral")
    whole = in_a_loop(lambda: request.whole(Answers()))
    sent = request.opening() + b"".join(in_a_loop(chunks))
    lines = [line.removeprefix(b"data: ") for line in sent.splitlines()]
    return whole, [json.loads(line) for line in lines if line.startswith(b"{")]


def test_chat_completions_say_thoughts_apart(magistral):
    whole, chunks = answered(magistral, ChatRequest, "messages")
    message = whole["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Four", "Hm.")
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    for name, text in (("content", "Four"), ("reasoning_content", "Hm.")):
        assert "".join(delta.get(name, "") for delta in deltas) == text
    written = whole["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert written == len(ids(magistral, "Hm.")) + 2


def test_responses_think_in_an_item_of_their_own(magistral):
    """The client's own classes read all events."""
    whole, chunks = answered(magistral, ResponsesRequest, "input")
    thoughts, message = Response.model_validate(whole).output
    assert (thoughts.content[0].text, message.content[0].text) == ("Hm.", "Four")
    events = [TypeAdapter(ResponseStreamEvent).validate_python(chunk) for chunk in chunks]
    assert list(dict.fromkeys(event.type.removeprefix("response.") for event in events)) == [
        *("created", "in_progress", "output_item.added", "reasoning_text.delta"),
        *("reasoning_text.done", "output_item.done", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "incomplete"),
    ]
    places = {"reasoning": 0, "message": 1}
    for event in events:
        if event.type in ("response.output_item.added", "response.output_item.done"):
            assert event.output_index == places[event.item.type]
        if event.type.startswith("response.output_text"):
            assert event.output_index == 1
    assert [event.sequence_number for event in events] == [*range(len(events))]


@pytest.mark.parametrize("wanted", [True, False])
def test_anthropic_hears_thoughts_if_it_wants_them(magistral, wanted):
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}} if wanted else {}
    whole, chunks = answered(magistral, MessagesRequest, "messages", max_tokens=9, **thinking)
    said = [("thinking", "Hm.")] * wanted + [("text", "Four")]
    message = anthropic.types.Message.model_validate(whole)
    assert [(block.type, getattr(block, block.type)) for block in message.content] == said
    started = [c["content_block"]["type"] for c in chunks if c["type"] == "content_block_start"]
    assert started == [kind for kind, _ in said]
    deltas = [chunk["delta"] for chunk in chunks if chunk["type"] == "content_block_delta"]
    for kind, text in said:
        assert "".join(delta.get(kind, "") for delta in deltas) == text
    assert sum(chunk["type"] == "content_block_stop" for chunk in chunks) == len(said)


@pytest.mark.parametrize("kind", [OllamaChat, OllamaGenerate])
def test_ollama_has_a_field_for_thoughts(magistral, kind):
    prompt = {"prompt": "Why?"} if kind is OllamaGenerate else {}
    whole, lines = answered(magistral, kind, "messages", **prompt)
    said = [each.get("message", each) for each in (whole, *lines)]
    name = "response" if prompt else "content"
    assert (said[0][name], said[0]["thinking"]) == ("Four", "Hm.")
    assert "".join(each[name] for each in said[1:]) == "Four"
    assert "".join(each.get("thinking", "") for each in said[1:]) == "Hm."


@pytest.mark.parametrize("shown", [True, False])
def test_a_command_shows_thoughts_on_stderr_if_asked(magistral, capsys, shown):
    pieces, _ = written(magistral, [THINK, *ids(magistral, "Hm."), END, *ids(magistral, "Four")])

    class Stream(list):
        reply = Reply(finish_reason="stop")

    write_stream(Stream(pieces), reasoning=shown)
    assert capsys.readouterr() == ("Four\n", "Hm.\n" if shown else "")


def test_pixtral_has_no_such_words(model):
    assert model.tokenizer.thinking_ids == (None, None)
