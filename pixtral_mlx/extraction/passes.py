"""The passes over a document: JSON in one go or a question a field, and a second question for each.

All questions about the same pages begin alike, so that the prompt cache has read them already.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..engine.reply import Reply
from .answers import LEAST_MASS, Answer, answers_in, fights, whole_answer
from .asking import Ask, Asking
from .documents import Page
from .forms import (
    A_LINE,
    YES_OR_NO,
    is_valid,
    json_form,
    plain_form,
    read_number,
    read_plain,
    rows_form,
    says_absent,
    schema_form,
)
from .joining import join
from .leaves import (
    MISSING,
    Leaf,
    Path,
    arrays,
    compact,
    described,
    item_schema,
    leaves,
    relaxed,
    without_extensions,
)

FIRST_TOKENS_MOST = 4096
"""Of the first pass, unless the caller says something else."""

TASK = (
    "Extract the data of this document as JSON that conforms to the schema below. Copy what the "
    "document says; where it does not say something, write null.\n"
)


class GaveUpError(Exception):
    """The first pass gave no JSON that could be used; its text says why."""


@dataclass(frozen=True, eq=False)
class Found:
    """What the first pass found in one place.

    Arguments:
        leaf: the place in the whole document.
        answer: the best one; its value is None where there is none.
        asked: the same place in the part where it was found, whose question names its row there.
        part: that part.
        others: answers of other parts that say something else.
        present: what was asked about its presence already, with the probability of that answer.
    """

    leaf: Leaf
    answer: Answer
    asked: Leaf
    part: int
    others: tuple[Answer, ...] = ()
    present: tuple[bool | None, float] | None = None


@dataclass(frozen=True, eq=False)
class Counted:
    """How many rows a question counts.

    Arguments:
        path: of the array, in the whole document.
        part: where they were counted.
        answer: the number.
    """

    path: Path
    part: int
    answer: Answer


@dataclass(frozen=True, eq=False)
class Read:
    """What the first pass gives.

    Arguments:
        data: of the whole document.
        found: its single values.
        counted: its rows, where questions counted them.
    """

    data: Any
    found: list[Found] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)


class Passes:
    """Asks about one document.

    Arguments:
        root: the schema.
        parts: the pages, as many at a time as are looked at together.
        presence: whether it is asked if fields are there.
        max_tokens: of the first pass.
    """

    def __init__(
        self,
        root: Mapping[str, Any],
        parts: Sequence[Sequence[Page]],
        *,
        presence: bool = True,
        max_tokens: int = FIRST_TOKENS_MOST,
    ):
        self.root, self.parts, self._presence = root, parts, presence
        self._max_tokens = max_tokens

    # JSON --------------------------------------------------------------------------------------

    def first_ask(self, pages: Sequence[Page], *, give_up: bool = True) -> Ask:
        """The question of the first pass about some pages.

        Arguments:
            give_up: stop where the model does not want to write what the schema allows.
        """
        schema = self._schema()
        own = self.root.get("x-question")
        question = own if isinstance(own, str) else TASK + compact(without_extensions(schema))
        form = schema_form(schema)
        return Ask(question, pages, form, self._max_tokens, stop=fights if give_up else None)

    def in_json(self, *, give_up: bool = True) -> Asking[Read]:
        """Everything by JSON that the model writes.

        Raises:
            GaveUpError: an answer was cut or broken, or the schema fights the model.
        """
        schema, datas, answers = self._schema(), [], []
        for pages in self.parts:
            reply: Reply = yield self.first_ask(pages, give_up=give_up)
            if give_up and fights(reply):
                raise GaveUpError("the model does not want to write this JSON")
            if reply.parse_error is not None:
                raise GaveUpError(reply.parse_error)
            paths = [
                leaf.path for leaf, value in leaves(schema, reply.parsed) if value is not MISSING
            ]
            datas.append(reply.parsed)
            answers.append(answers_in(reply, pages, paths))
        if len(datas) == 1:
            listed = leaves(self.root, datas[0])
            return Read(datas[0], [_single(leaf, value, answers[0]) for leaf, value in listed])
        return self._joined(datas, answers)

    def _schema(self) -> Mapping[str, Any]:
        """That each part is read by."""
        return self.root if len(self.parts) == 1 else relaxed(self.root)

    def _joined(self, datas: Sequence[Any], answers: Sequence[Mapping[Path, Answer]]) -> Read:
        whole, found = join(datas), []
        for leaf, value in leaves(self.root, whole.data):
            origins = whole.origins.get(leaf.path, ())
            said = [(at, answers[at.part].get(at.path, Answer(value, 0.0, 1.0))) for at in origins]
            if not said:
                found.append(_single(leaf, value, {}))
                continue
            at, best = max(said, key=lambda each: each[1].confidence)
            others = tuple(a for _, a in said if a.value is not None and a.value != best.value)
            found.append(Found(leaf, best, replace(leaf, path=at.path), at.part, others))
        return Read(whole.data, found)

    # A question a field ------------------------------------------------------------------------

    def one_by_one(self) -> Asking[Read]:
        """Everything by a question for each field."""
        read = Read({})
        return replace(read, data=(yield from self._read(self.root, (), (), None, read)))

    def _read(
        self, schema: Any, path: Path, there: Path, part: int | None, read: Read,
        optional: bool = False,
    ) -> Asking[Any]:  # fmt: skip
        """The value of a subschema.

        Arguments:
            path, there: where it is in the document, and in its part.
            part: the one that it is in; None: any.
            read: takes what was found and counted on the way.
        """
        schema, nullable = described(schema, self.root)
        if "properties" in schema:
            data = {}
            for name, inner in schema["properties"].items():
                left_out = name not in schema.get("required", ())
                value = yield from self._read(
                    inner, (*path, name), (*there, name), part, read, left_out
                )
                if value is not MISSING:
                    data[name] = value
            return data
        if "items" in schema or "prefixItems" in schema:
            return (yield from self._read_rows(schema, path, there, part, read))
        title = str(schema.get("title", ""))
        leaf = Leaf(path, schema, self.root, nullable, optional, title)
        answered = yield from self._find(leaf, replace(leaf, path=there), self._in(part))
        read.found.append(answered)
        value = answered.answer.value
        return MISSING if value is None and not nullable and optional else value

    def _read_rows(
        self, schema: Mapping[str, Any], path: Path, there: Path, part: int | None, read: Read
    ) -> Asking[list]:  # fmt: skip
        rows: list[Any] = []
        for number in self._in(part):
            count = yield from self.count_rows(schema, there, number)
            read.counted.append(Counted(path, number, count))
            for row in range(count.value):
                inner = item_schema(schema, len(rows))
                place = (*path, len(rows))
                rows.append((yield from self._read(inner, place, (*there, row), number, read)))
        return rows

    def count_rows(self, schema: Mapping[str, Any], there: Path, part: int) -> Asking[Answer]:
        """How many rows of an array a part has: an answer whose value is a number."""
        leaf = Leaf(there, schema, self.root)
        own = schema.get("x-question")
        question = own if isinstance(own, str) else f"How many {leaf.name} are there?"
        pages = self.parts[part]
        reply = yield Ask(question, pages, rows_form(schema), trace=False)
        count = read_number(reply.text)
        valid = isinstance(count, int)
        return whole_answer(reply, count if valid else 0, pages, valid=valid)

    def _in(self, part: int | None) -> Sequence[int]:
        return range(len(self.parts)) if part is None else (part,)

    def _find(self, leaf: Leaf, asked: Leaf, parts: Sequence[int]) -> Asking[Found]:
        """A leaf that is in one of some parts, or in none."""
        said: dict[int, tuple[bool | None, float]] = {}
        if self._presence and leaf.asks_presence:
            for part in parts:
                said[part] = yield from self.ask_presence(asked, part)
        there = [part for part in parts if part not in said or said[part][0] is not False]
        absent = not there
        if absent and (leaf.nullable or leaf.optional):
            sure = min((p for _, p in said.values()), default=0.0)
            return Found(leaf, Answer(None, sure, 1.0), asked, parts[0], present=(False, sure))
        answers = []
        for part in there or parts[:1]:
            answers.append(((yield from self.ask_value(asked, part)), part))
        best, part = max(answers, key=lambda each: (each[0].valid, each[0].confidence))
        others = tuple(a for a, _ in answers if a.valid and a.value != best.value)
        return Found(leaf, best, asked, part, others, said.get(part))

    def ask_value(
        self, leaf: Leaf, part: int, *, smaller: bool = False, seed: int | None = None
    ) -> Asking[Answer]:
        """The value of a leaf, by its question; see `Ask`."""
        pages, form = self.parts[part], plain_form(leaf)
        if form is not None:
            reply = yield Ask(leaf.question, pages, form, smaller=smaller, seed=seed)
            value = read_plain(leaf, reply.text)
            if is_valid(leaf, value) and reply.finish_reason == "stop":
                return whole_answer(reply, value, pages)
        reply = yield Ask(leaf.question, pages, json_form(leaf), smaller=smaller, seed=seed)
        valid = reply.parse_error is None
        return whole_answer(reply, reply.parsed, pages, valid=valid)

    def ask_presence(self, leaf: Leaf, part: int) -> Asking[tuple[bool | None, float]]:
        """Whether it is there, and how likely that answer was; None: the model could not say."""
        question, yes_or_no = leaf.presence_question
        form = YES_OR_NO if yes_or_no else A_LINE
        pages = self.parts[part]
        reply = yield Ask(question, pages, form, max_tokens=32, trace=False)
        answer = whole_answer(reply, reply.text, pages)
        if yes_or_no and answer.allowed_mass < LEAST_MASS:
            return None, answer.confidence
        return not says_absent(reply.text), answer.confidence

    def rows_of(self, data: Any) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        """The arrays whose schema has a question for their number; of several parts not those
        within a row, whose number in its part is another one."""
        for path, schema, _ in arrays(self.root, data):
            if len(self.parts) == 1 or not any(isinstance(step, int) for step in path):
                yield path, schema


def _single(leaf: Leaf, value: Any, answers: Mapping[Path, Answer]) -> Found:
    """What one part says of a leaf."""
    missing = Answer(None if value is MISSING else value, 0.0, 1.0)
    return Found(leaf, answers.get(leaf.path, missing), leaf, 0)
