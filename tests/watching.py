"""A batch that is watched step by step."""

import pytest

import pixtral_mlx as px
from pixtral_mlx.engine.batch import Batch


class Watched:
    """A batch, and what came of it."""

    def __init__(self, model, **options):
        self.batch, self.pieces, self.ended = Batch(model.engine, **options), {}, {}

    def add(self, messages, **options):
        number = self.batch.add({"messages": messages, **options})
        self.pieces[number] = []
        return number

    def step(self):
        events = self.batch.step()
        for number, event in events:
            assert number not in self.ended
            if isinstance(event, px.Piece):
                self.pieces[number].append(event)
            else:
                self.ended[number] = event
        return events

    def until(self, condition, most=2000):
        for _ in range(most):
            if condition():
                return
            self.step()
        raise AssertionError("it never came to that")

    def finish(self):
        self.until(lambda: not self.batch.busy)
        for number, reply in self.ended.items():
            if isinstance(reply, px.Reply):
                assert "".join(piece.text for piece in self.pieces[number]) == reply.text
                assert [piece.token for piece in self.pieces[number]] == reply.tokens
        return self.ended


def same(reply, alone):
    assert (reply.tokens, reply.text) == (alone.tokens, alone.text)
    assert reply.finish_reason == alone.finish_reason
    assert reply.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
