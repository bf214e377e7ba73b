"""A reply while it is being written: its text grows, and others read along."""

import copy
import pickle
import threading
from dataclasses import asdict, replace

import pytest

from pixtral_mlx.engine.reply import Piece, Reply


def grown(*texts, begun=""):
    """A reply to which pieces were added, and nobody has read it."""
    reply = Reply(begun)
    for number, text in enumerate(texts):
        reply.add(Piece(text, number, -0.5))
    return reply


def test_text_grows_by_pieces_and_can_be_read_at_any_time():
    reply = grown("Two ", "", "st", begun="So: ")
    assert reply.text == "So: Two st"
    reply.add(Piece("ars", 7, -0.5, reasoning="Hm"))
    assert (reply.text, reply.reasoning, reply.tokens) == ("So: Two stars", "Hm", [0, 1, 2, 7])
    reply.text = "Three"
    assert reply.text == "Three" and reply.reasoning == "Hm"
    assert (Reply().text, Reply().reasoning) == ("", "")


@pytest.mark.parametrize(
    "again",
    [
        replace, copy.copy, copy.deepcopy,
        lambda reply: pickle.loads(pickle.dumps(reply)),  # our own bytes, made a moment ago
        lambda reply: Reply(**asdict(reply) | {"stats": reply.stats}),
    ],
)  # fmt: skip
def test_a_reply_is_a_record_like_any_other(again):
    reply = grown("a", "b")
    assert again(reply) == reply and again(reply).text == "ab"
    assert again(reply) != grown("a", "c")
    assert "text='ab'" in repr(again(reply))


def test_a_copy_that_is_made_of_its_fields_grows_alone():
    reply = grown("a")
    other = replace(reply)
    other.text += "b"
    other.add(Piece("c", 1, -0.5))
    assert (reply.text, other.text) == ("a", "abc")


def test_nothing_is_lost_or_twice_where_others_read_along():
    reply, texts, ended = Reply(), [f"{number}," for number in range(20_000)], threading.Event()
    whole, wrong = "".join(texts), []

    def read():
        last = ""
        while not ended.is_set():
            text = reply.text
            if not (whole.startswith(text) and len(text) >= len(last)):
                wrong.append(text)
            last = text

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number, text in enumerate(texts):
        reply.add(Piece(text, number, -0.5))
    ended.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert reply.text == whole
