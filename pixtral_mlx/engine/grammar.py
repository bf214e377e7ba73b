"""The mask: which tokens a form allows next, by llguidance, and choosing among them.

A form never changes what the model computes: log-probabilities are its own, from before the mask,
and beside each stands how much of the probability the form allowed. What the form leaves no choice
about (`{"invoice_number":"`) is not computed token by token: such tokens join the next pass, which
reads them all at once.
"""

import json
import math
import re
from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import FormError
from ..inputs.tokenizer import Tokenizer
from ..inputs.tools import Tools
from .form import COMPACT, SPACED, Form, calls_form
from .sampling import Choice, Sampler, choice_of

MOST_FORCED = 16
"""Forced tokens in a pass at most: each has a row of logits."""
LEXER_FUEL = 200_000
"""What llguidance may spend on a grammar before it is refused: 0.1 s and more."""


class Constraint:
    """How far an answer has come in its form, and what may follow.

    Where llguidance cannot go on (a form too complex for its limits), only the end is allowed, and
    `problem` says why.

    Arguments:
        matcher: llguidance's, at the beginning.
        fresh: makes another one, which shares nothing with the matchers of other answers.
        rows: of the model's output, of which the first ones have a word.
        eos_id: the token that ends an answer; it is allowed where the form may end.
    """

    def __init__(self, matcher: Any, fresh: Callable[[], Any], rows: int, eos_id: int):
        self._matcher, self._fresh = matcher, fresh
        self._rows, self._eos_id = rows, eos_id
        self._accepted: list[int] = []
        self._forced: list[int] = []
        self.ended = False

    @property
    def problem(self) -> str | None:
        """Why the form could not be kept to its end."""
        if not self._matcher.is_error():
            return None
        return f"the form is too complex to go on: {self._matcher.get_error().splitlines()[0]}"

    def allowed(self) -> np.ndarray:
        """Which tokens may come next: bool, shape (rows,)."""
        found = np.zeros(self._rows, bool)
        bits = np.frombuffer(self._sound().compute_bitmask(), np.uint8)
        words = np.unpackbits(bits, bitorder="little")[: self._rows]
        found[: len(words)] = words
        if not found.any():
            found[self._eos_id] = True
        return found

    def forced(self, most: int) -> list[int]:
        """Tokens that must come next, at most so many; they are to be accepted one by one."""
        if not self._forced and not self.ended:
            self._forced = list(self._sound().compute_ff_tokens())
        return self._forced[:most]

    def accept(self, token: int) -> None:
        """It was written."""
        if self.ended:
            return
        del self._forced[:1]
        if token == self._eos_id:
            self.ended = True
            return
        self._accepted.append(token)
        self._matcher.consume_token(token)
        self.ended = self._sound().is_stopped()

    def _sound(self) -> Any:
        """The matcher. Copies share a lexer, whose limits earlier answers may have used up: then
        one of its own begins anew."""
        if self._matcher.is_error() and self._fresh is not None:
            self._matcher, self._fresh = self._fresh(), None
            self._matcher.consume_tokens(self._accepted)
        return self._matcher


class CallConstraint:
    """A `Constraint` of an answer that may call tools: free, or in a form, until it does so.

    Arguments:
        free: the form of an answer without calls, or None.
        calls: of what follows `[TOOL_CALLS]`.
        calls_id: that token.
        choice: of `Tools`.
        rows, eos_id: as for `Constraint`.
    """

    def __init__(
        self,
        free: Constraint | None,
        calls: Constraint,
        calls_id: int,
        choice: str,
        rows: int,
        eos_id: int,
    ):
        self._free, self._calls, self._now = free, calls, free
        self._calls_id, self._choice = calls_id, choice
        self._rows, self._eos_id = rows, eos_id
        self._written = 0
        self._over = False

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        return self._over if self._now is None else self._now.ended

    @property
    def problem(self) -> str | None:
        """See `Constraint.problem`."""
        return None if self._now is None else self._now.problem

    @property
    def calling(self) -> bool:
        """Whether tools are being called."""
        return self._now is self._calls

    @property
    def _may_call(self) -> bool:
        """Whether a call may begin here: before an answer in a form, and anywhere in a free one."""
        here = self._free is None or not self._written
        return self._choice != "none" and not self.calling and here

    def allowed(self) -> np.ndarray | None:
        """As `Constraint.allowed`; None: everything is."""
        if self._now is None and self._choice == "auto":
            return None
        if self._choice == "required" and not self.calling:
            found = np.zeros(self._rows, bool)
        elif self._now is not None:
            found = self._now.allowed()
        else:
            found = np.ones(self._rows, bool)
        if not self.calling:
            found[self._calls_id] = self._may_call
        return found

    def forced(self, most: int) -> list[int]:
        """As `Constraint.forced`."""
        if self._choice == "required" and not self.calling:
            return [self._calls_id, *self._calls.forced(most - 1)][:most]
        return [] if self._now is None or self._may_call else self._now.forced(most)

    def accept(self, token: int) -> None:
        """As `Constraint.accept`."""
        if self._may_call and token == self._calls_id:
            self._now = self._calls
        elif self._now is None:
            self._over = token == self._eos_id
        else:
            self._now.accept(token)
        self._written += 1


def constraint_of(
    form: Form | None, tokenizer: Tokenizer, rows: int, tools: Tools | None = None
) -> "Constraint | CallConstraint | None":
    """A form, and tools, made ready for one answer; None if there is neither.

    Arguments:
        rows: of the model's output.

    Raises:
        FormError: no grammar can be made of it, or nothing satisfies it; or the tokenizer's
            template has no tools.
    """
    free = None if form is None else _constraint(form, tokenizer, rows)
    if tools is None:
        return free
    marks = tokenizer.call_marks()
    calls = _constraint(calls_form(tools, marks), tokenizer, rows)
    return CallConstraint(free, calls, marks.begin, tools.choice, rows, tokenizer.eos_id)


def _constraint(form: Form, tokenizer: Tokenizer, rows: int) -> Constraint:
    name, grammar = _grammar(form)
    matcher = _matcher(tokenizer._words, grammar)
    if matcher.is_error():
        said = " ".join(matcher.get_error().split())
        raise FormError(f"{name} cannot be made into a grammar: {said[:300]}")
    fresh = partial(_matcher.__wrapped__, tokenizer._words, grammar)
    return Constraint(matcher.deep_copy(), fresh, rows, tokenizer.eos_id)


def _grammar(form: Form) -> tuple[str, str]:
    """What it is, for errors, and llguidance's grammar, as JSON."""
    from llguidance import LLMatcher

    if form.kind == "json":
        schema = {**form.grammar_schema, "x-guidance": COMPACT if form.compact else SPACED}
        return "the schema", json.dumps({"json_schema": schema})
    if form.kind == "regex":
        rule = json.loads(LLMatcher.grammar_from_regex(form.source))["grammars"][0]
        return "the regular expression", json.dumps({"lark_grammar": rule["lark_grammar"]})
    return "the grammar", json.dumps({"lark_grammar": form.source})


@lru_cache(maxsize=16)
def _matcher(words: Any, grammar: str) -> Any:
    """llguidance's matcher of a grammar, to be copied for each answer; perhaps in error."""
    from llguidance import LLMatcher, LLParserLimits

    grammars = [{"name": "form", **json.loads(grammar)}]
    if not _is_tekken(words):  # SentencePiece's first piece brings a space, which is no text
        grammars.insert(0, {"name": "answer", "lark_grammar": 'start: " " @form'})
    limits = LLParserLimits(initial_lexer_fuel=LEXER_FUEL, verbose_errors=False)
    tokenizer, grammar = _ll_tokenizer(words), json.dumps({"grammars": grammars})
    return LLMatcher(tokenizer, grammar, log_level=0, limits=limits)


# Words -----------------------------------------------------------------------------------------


def _is_tekken(words: Any) -> bool:
    return hasattr(words, "id_to_byte_piece")


@lru_cache(maxsize=4)
def _ll_tokenizer(words: Any) -> Any:
    """llguidance's view of a tokenizer of mistral-common; the 12B's takes 2 s to build."""
    from llguidance import LLTokenizer, TokenizerWrapper
    from mistral_common.guidance.tokenizer import MistralLLGTokenizer

    wrapped = MistralLLGTokenizer(words) if _is_tekken(words) else _SentencePieceWords(words)
    return LLTokenizer(TokenizerWrapper(wrapped))


class _SentencePieceWords:
    """What mistral-common's bridge is for Tekken: SentencePiece's words as bytes."""

    def __init__(self, words: Any):
        self._words = words
        self.bos_token_id, self.eos_token_id = words.bos_id, words.eos_id
        self.special_token_ids = [n for n in range(words.n_words) if words.is_special(n)]
        special = {*self.special_token_ids}
        self.tokens = [
            f"<special {n}>".encode() if n in special else self._bytes(words.id_to_piece(n))
            for n in range(words.n_words)
        ]

    def _bytes(self, piece: str) -> bytes:
        if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
            return bytes.fromhex(byte[1])
        return piece.replace("\u2581", " ").encode()

    def __call__(self, text: str) -> list[int]:
        """Tokens of text inside an answer, where no space is put before it.

        Raises:
            TypeError: for bytes, by which llguidance finds out that text is wanted.
        """
        before = "\N{WHITE SMILING FACE}"  # mistral-common's own way: two pieces, whatever follows
        return self._words.encode(before + text, bos=False, eos=False)[2:]


# Choosing --------------------------------------------------------------------------------------


class FormSampler:
    """Chooses within a form, where the model computes: `Sampler` for an answer that keeps one.

    Nothing here waits but `settle` and `read`. What was drawn must be settled before the next
    choice, since the form depends on it: launch the pass that reads it first, so that the mask is
    made while that runs.

    Arguments:
        sampler: gives the model's log-probabilities, and draws.
        constraint: of this answer.
    """

    def __init__(self, sampler: Sampler, constraint: Constraint | CallConstraint):
        self._sampler, self.constraint = sampler, constraint
        self._chosen: deque[tuple[int, mx.array, mx.array, mx.array, bool]] = deque()
        self._count, self._last = 0, -1  # choices so far, and the number of the one that ends
        self._open: mx.array | None = None  # what was drawn and is not settled

    @property
    def pending(self) -> int:
        """Choices that were not read yet."""
        return len(self._chosen)

    def __call__(self, logprobs: mx.array) -> mx.array:
        """The next token, forced or not; mlx-lm's batch takes this as a sampler."""
        forced = self.constraint.forced(1)
        return self._choose(logprobs, forced[0] if forced else None)

    def choose(self, logits: mx.array, forced: int | None = None) -> None:
        """The next token: drawn from what the form allows, or what it forces.

        Arguments:
            logits: shape (1, vocabulary).
            forced: what it forces, where that is known.
        """
        logprobs = self._sampler.logprobs(logits)
        token = self(logprobs) if forced is None else self._choose(logprobs, forced)
        self._sampler.wrote(token)

    def _choose(self, logprobs: mx.array, forced: int | None) -> mx.array:
        allowed = self.constraint.allowed()
        if allowed is None:
            within, mass = logprobs, mx.zeros((1, 1))
        else:
            within = mx.where(mx.array(allowed), logprobs, -mx.inf)
            mass = mx.logsumexp(within, axis=-1, keepdims=True)
            within = within - mass
        token = self._sampler.draw(within) if forced is None else mx.array([forced], mx.uint32)
        token = mx.depends([token], [logprobs, mass])[0]  # whoever evaluates one gets all
        self._chosen.append((self._count, token, logprobs, mass, forced is not None))
        self._count += 1
        if forced is None:
            self._open = token
        else:
            self._accept(forced)
        return token

    def settle(self) -> None:
        """Tell the form what was drawn, if that is not known yet; waits for it."""
        if self._open is not None:
            self._accept(int(self._open.item()))  # type: ignore[arg-type]
            self._open = None

    def _accept(self, token: int) -> None:
        self.constraint.accept(token)
        if self.constraint.ended and self._last < 0:
            self._last = self._count - 1

    def launch(self) -> None:
        """Start computing what was chosen."""
        mx.async_eval([token for _, token, *_ in self._chosen], self._sampler.recent)

    def read(self) -> Choice:
        """The earliest choice that was not read yet; waits for it."""
        number, token, logprobs, mass, forced = self._chosen.popleft()
        if not self._chosen:
            self.settle()
        choice = choice_of(int(token.item()), logprobs, self._sampler.top)  # type: ignore[arg-type]
        return choice._replace(
            allowed_mass=min(1.0, math.exp(mass.item())),  # type: ignore[arg-type]
            forced=forced,
            ends=number == self._last,
        )

    def process(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """What mlx-lm's batch takes as a processor of logits."""
        for process in self._sampler.processors:
            logits = process(tokens, logits)
        mx.async_eval(logits)  # the pass over all rows runs while the mask is made
        self.settle()
        return logits
