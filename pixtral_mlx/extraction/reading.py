"""A document from its first question to its last: what is asked in which order."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..engine.form import as_form
from ..errors import FormError
from .asking import Asking
from .documents import Page
from .fields import Field
from .forms import schema_form
from .joining import set_at, value_at
from .judging import doubts, flagged, judge
from .leaves import MISSING, Path, leaves, pointer_of, without_extensions
from .options import ExtractionOptions
from .passes import GaveUpError, Passes, Read
from .rules import Rule, broken, rules_of


@dataclass(frozen=True, eq=False)
class Schema:
    """A schema that can be asked for.

    Arguments:
        root: as it was given.
        rules: its `x-checks`.
    """

    root: Mapping[str, Any]
    rules: Sequence[Rule]


def as_schema(given: Any) -> Schema:
    """A schema, checked.

    Arguments:
        given: a JSON schema whose value is an object, with extensions (see `leaves`), or a pydantic
            class.

    Raises:
        FormError: it is none, or cannot be enforced, or a rule of it cannot be read.
    """
    if isinstance(given, type) and hasattr(given, "model_json_schema"):
        given = given.model_json_schema()
    if not isinstance(given, Mapping):
        raise FormError(
            f"the schema is {type(given).__name__}; allowed: a JSON schema, which is an object"
        )
    as_form({"type": "json_schema", "json_schema": {"schema": without_extensions(given)}})
    if not any(True for _ in leaves(given)) and "properties" not in given:
        raise FormError("#: the schema must describe an object and name its properties")
    return Schema(given, rules_of(given))


@dataclass(frozen=True, eq=False)
class Outcome:
    """What reading a document gave, see `result.Extraction`."""

    data: Any
    fields: dict[str, Field]
    reasons: tuple[str, ...]
    one_by_one: bool
    seconds: tuple[float, float]


def read_document(
    schema: Schema,
    parts: Sequence[Sequence[Page]],
    options: ExtractionOptions,
    *,
    max_tokens: int,
    note: Callable[[str], None],
) -> Asking[Outcome]:
    """All questions about a document.

    Arguments:
        parts: its pages, as many at a time as are looked at together.
        max_tokens: of the first pass.
        note: told in a sentence where the first pass gives way to questions.

    Raises:
        FormError: nothing came out that is valid under the schema, or too many fields.
    """
    passes = Passes(schema.root, parts, presence=options.double_check, max_tokens=max_tokens)
    start = time.perf_counter()
    one_by_one = bool(options.one_by_one)
    if one_by_one:
        read: Read = yield from passes.one_by_one()
    else:
        try:
            read = yield from passes.in_json(give_up=options.one_by_one is None)
        except GaveUpError as error:
            if options.one_by_one is False:
                raise FormError(
                    f"the first pass: {error}: raise max_tokens, or ask one by one"
                ) from error
            note(f"{error}: every field is asked for by a question of its own (--one-by-one)")
            one_by_one, read = True, (yield from passes.one_by_one())
    middle = time.perf_counter()
    fields = {}
    for found in read.found:
        field, value = yield from judge(found, passes, options, one_by_one=one_by_one)
        fields[found.leaf.pointer] = field
        if value_at(read.data, found.leaf.path) is not MISSING or value is not MISSING:
            set_at(read.data, found.leaf.path, value)
    reasons = _unsure_rows(read, parts, options, fields)
    _repeated_rows(read, fields)
    if options.double_check and not one_by_one:
        reasons += yield from _counted(passes, read.data)
    reasons += _ruled(schema, read.data, fields)
    _check(schema, read.data)
    seconds = middle - start, time.perf_counter() - middle
    return Outcome(read.data, fields, tuple(reasons), one_by_one, seconds)


def _counted(passes: Passes, data: Any) -> Asking[list[str]]:
    """Arrays whose number of rows a question counts otherwise."""
    found = []
    for path, schema in [*passes.rows_of(data)]:
        there, counted = len(value_at(data, path)), 0
        for part in range(len(passes.parts)):
            counted += (yield from passes.count_rows(schema, path, part)).value
        if counted != there:
            found.append(f"{pointer_of(path)}: {there} rows, and a question counts {counted}")
    return found


def _unsure_rows(
    read: Read, parts: Sequence[Sequence[Page]], options: ExtractionOptions,
    fields: dict[str, Field],
) -> list[str]:  # fmt: skip
    """Rows that were counted with doubts; what is in them is marked."""
    found = []
    for counted in read.counted:
        answer, path = counted.answer, counted.path
        for doubt in doubts(answer.confidence, answer.allowed_mass, options):
            reason = f"{pointer_of(path)}: {answer.value} rows {_on(parts[counted.part])}, {doubt}"
            found.append(reason)
            for each in read.found:
                if each.part == counted.part and each.leaf.path[: len(path)] == path:
                    pointer = each.leaf.pointer
                    fields[pointer] = flagged(fields[pointer], [reason])
    return found


def _repeated_rows(read: Read, fields: dict[str, Field]) -> None:
    """Rows that say what an earlier one says, and from the same place, are marked."""
    rows: dict[tuple[Path, int], list[tuple[Path, Field]]] = defaultdict(list)
    for each in read.found:
        path = each.leaf.path
        for i, step in enumerate(path):
            if isinstance(step, int):
                rows[path[:i], step].append((path[i + 1 :], fields[each.leaf.pointer]))
    first: dict[Any, int] = {}
    for (array, row), held in rows.items():
        if any(field.box is not None for _, field in held):
            said = [(path, field.value, field.page, field.box) for path, field in held]
            earlier = first.setdefault((array, repr(said)), row)
            if earlier != row:
                reason = f"the same as {pointer_of((*array, earlier))}, and from the same place"
                for path, _ in held:
                    pointer = pointer_of((*array, row, *path))
                    fields[pointer] = flagged(fields[pointer], [reason])


def _on(pages: Sequence[Page]) -> str:
    first, last = pages[0].number, pages[-1].number
    return f"on page {first}" if first == last else f"on pages {first} to {last}"


def _ruled(schema: Schema, data: Any, fields: dict[str, Field]) -> list[str]:
    """Rules that do not hold; the fields that they are about are marked."""
    found = broken(schema.rules, data)
    for each in found:
        for pointer in each.pointers:
            if pointer in fields:
                fields[pointer] = flagged(fields[pointer], [each.reason])
    return [each.reason for each in found]


def _check(schema: Schema, data: Any) -> None:
    problem = schema_form(schema.root).read(json.dumps(data))[1]
    if problem is not None:
        raise FormError(f"what was found is not valid under the schema: {problem}")


@lru_cache(maxsize=64)
def _once(model: str, said: str) -> list[bool]:
    return [True]


def is_news(model: str, said: str) -> bool:
    """Whether this was not said of the model yet."""
    waiting = _once(model, said)
    return bool(waiting) and waiting.pop()
