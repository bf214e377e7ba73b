"""Thoughts of models that think first (Magistral) are not part of the answer."""

import json

import cases
import checkpoints
import pytest
from loops import in_a_loop

import pixtral_mlx as px
from pixtral_mlx.engine.answer import Answer
from pixtral_mlx.engine.options import GenerationOptions
from pixtral_mlx.engine.sampling import Choice
from pixtral_mlx.server.chat import ChatRequest

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


def test_the_server_says_them_apart(magistral):
    """As `reasoning_content`, whole and streamed."""
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

    request = ChatRequest({"messages": [{"role": "user", "content": "Why?"}]}, "magistral")
    message = in_a_loop(lambda: request.whole(Answers()))["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Four", "Hm.")
    request.opening()
    deltas = [json.loads(chunk[6:])["choices"][0]["delta"] for chunk in in_a_loop(chunks)[:-1]]
    for name, text in (("content", "Four"), ("reasoning_content", "Hm.")):
        assert "".join(delta.get(name, "") for delta in deltas) == text


def test_pixtral_has_no_such_words(model):
    assert model.tokenizer.thinking_ids == (None, None)
