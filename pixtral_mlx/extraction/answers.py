"""What the tokens of an answer say of one value in it: how sure it is, and where they looked."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ..engine.reply import Reply
from .documents import Page
from .evidence import Look, look_of
from .leaves import Path

FIRST_TOKENS = 10
LEAST_MASS = 0.5
"""With less, the model wants to say something else, and the form puts words into its mouth."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A value as the model gave it.

    Arguments:
        value: None where it is null.
        confidence, allowed_mass: as of `Field`.
        look: where its tokens looked, or None.
        valid: whether the schema allows the value.
    """

    value: Any
    confidence: float
    allowed_mass: float
    look: Look | None = None
    valid: bool = True


def whole_answer(reply: Reply, value: Any, pages: Sequence[Page], *, valid: bool = True) -> Answer:
    """Of an answer that is one value, its end token included."""
    tokens = range(len(reply.tokens))
    confidence, mass = _sureness(reply, tokens)
    confidence *= math.exp(reply.end_logprob or 0.0)
    return Answer(value, confidence, mass, look_of(reply, tokens, pages), valid)


def answers_in(
    reply: Reply, pages: Sequence[Page], paths: Sequence[Path]
) -> dict[Path, Answer]:  # fmt: skip
    """Of an answer in JSON with a trace, the values in these places."""
    words = [] if reply.trace is None else reply.trace.words
    ends = list(accumulate(map(len, words)))
    wanted = {*paths}
    found = {}
    for path, start, end, value in places_in(reply.text):
        if path not in wanted:
            continue
        is_text = isinstance(value, str)
        inside = [*_between(ends, start + is_text, end - is_text)]
        closing = [*_between(ends, end - 1, end)] if is_text else [*_between(ends, end, end + 1)]
        confidence, mass = _sureness(reply, sorted({*inside, *closing}))
        look = None if value is None else look_of(reply, inside or closing, pages)
        found[path] = Answer(value, confidence, mass, look)
    return found


def _between(ends: Sequence[int], start: int, end: int) -> Iterator[int]:
    """Tokens of which a letter lies there, and those without letters among them."""
    begin = 0
    for token, stop in enumerate(ends):
        if (begin < end and stop > start) if stop > begin else start < begin < end:
            yield token
        begin = stop


def _sureness(reply: Reply, tokens: Sequence[int]) -> tuple[float, float]:
    """Confidence and allowed mass over tokens; those that the form forced say nothing."""
    free = [token for token in tokens if not (reply.forced and reply.forced[token])]
    confidence = math.exp(sum(reply.logprobs[token] for token in free))
    masses = [reply.allowed_mass[token] for token in free] if reply.allowed_mass else []
    return confidence, min(masses, default=1.0)


def fights(reply: Reply) -> bool:
    """Whether the model does not want to write what the schema allows: the mean over the first
    tokens about which there was a choice, once there are enough of them or the answer has ended."""
    # Both grow while this looks, where the answer is written on another thread.
    pairs = zip(reply.allowed_mass, reply.forced, strict=False)
    first = [mass for mass, forced in pairs if not forced][:FIRST_TOKENS]
    enough = len(first) == FIRST_TOKENS or (first and reply.finish_reason is not None)
    return bool(enough) and sum(first) / len(first) < LEAST_MASS


def places_in(text: str) -> Iterator[tuple[Path, int, int, Any]]:
    """The values in JSON that are neither object nor array: path, first letter, last + 1, value.

    Arguments:
        text: valid JSON.
    """
    decoder = json.JSONDecoder()

    def blanks(at: int) -> int:
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
        return at

    def walk(at: int, path: Path) -> Iterator[tuple[Path, int, int, Any]]:
        nonlocal end
        if text[at] not in "{[":
            value, end = decoder.raw_decode(text, at)
            yield path, at, end, value
            return
        closing, number = "}" if text[at] == "{" else "]", 0
        at = blanks(at + 1)
        while text[at] != closing:
            part: str | int = number
            if closing == "}":
                part, at = decoder.raw_decode(text, at)
                at = blanks(blanks(at) + 1)  # behind the colon
            yield from walk(at, (*path, part))
            at, number = blanks(end), number + 1
            if text[at] == ",":
                at = blanks(at + 1)
        end = at + 1

    end = 0
    yield from walk(blanks(0), ())
