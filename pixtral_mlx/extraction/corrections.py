"""What a person decided on a review page, put into the rows; what was there before is kept."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checks import shown
from ..engine.form import as_form
from ..errors import PixtralError
from .joining import set_at, value_at
from .leaves import MISSING, without_extensions
from .leaves import Path as Steps

MOST_BYTES = 20_000_000
DECISIONS = ("accept", "correct", "null")
"""Of a field: it is right, it is something else, or nothing is there."""


def apply(
    file: Path, rows: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The rows that change.

    Each field that was decided about keeps its `original` value and says what was decided in
    `decision`; it needs no review any more.

    Arguments:
        file: what a review page gave: {"source": ..., "decisions": {pointer: {"decision", "value",
            "original"}}}, or a list of those.
        rows: of `extract`.
        schema: that the corrected data have to be valid under, if it is known.

    Raises:
        PixtralError: the file is something else, or is about other rows than these.
    """
    row_of = {row["source"]: row for row in rows}
    changed = {}
    for each in _read(file):
        source = each["source"]
        if source not in row_of:
            raise PixtralError(
                f"{file}: about {shown(source)}, and there is no row of it: give the rows that its "
                "review page was made with"
            )
        changed[source] = _changed(file, row_of[source], each["decisions"], schema)
    return [*changed.values()]


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        with file.expanduser().open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise PixtralError(f"{file}: more than {MOST_BYTES:,} bytes: not a file of corrections")
        found = json.loads(data)
    except OSError as error:
        raise PixtralError(f"{file}: {error.strerror}: check the name") from error
    except (ValueError, RecursionError) as error:
        raise PixtralError(f"{file}: not JSON: download it again from the review page") from error
    listed = found if isinstance(found, list) else [found]
    for each in listed:
        if not _is_sound(each):
            raise PixtralError(
                f"{file}: not what a review page gives: download it again from there"
            )
    return listed


def _is_sound(each: Any) -> bool:
    if not isinstance(each, dict) or not isinstance(each.get("source"), str):
        return False
    decisions = each.get("decisions")
    return isinstance(decisions, dict) and all(
        isinstance(one, dict)
        and one.get("decision") in DECISIONS
        and {"value", "original"} <= {*one}
        for one in decisions.values()
    )


def _changed(
    file: Path, row: Mapping[str, Any], decisions: Mapping[str, Any],
    schema: Mapping[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    new = copy.deepcopy(dict(row))
    for pointer, decided in decisions.items():
        field = new["fields"].get(pointer)
        if field is None:
            raise PixtralError(f"{file}: {shown(pointer)} is no field of {shown(row['source'])}")
        original = field.get("original", field["value"])
        if decided["original"] != original:
            raise PixtralError(
                f"{file}: {pointer} was {shown(decided['original'])} on the page, and the row "
                f"has {shown(original)}: it is a page of another run"
            )
        value = _decided(decided, original)
        field |= {"value": value, "original": original, "decision": decided["decision"],
                  "needs_review": False}  # fmt: skip
        steps = _steps(pointer, new["data"])
        there = value_at(new["data"], steps) is not MISSING
        if there or value is not None:
            set_at(new["data"], steps, value)
    waiting = [p for p, field in new["fields"].items() if field["needs_review"]]
    decided_all = all(pointer in decisions for pointer in new["fields"])
    new["needs_review"] = bool(waiting) or (bool(new["reasons"]) and not decided_all)
    _check(file, new, schema)
    return new


def _decided(decided: Mapping[str, Any], original: Any) -> Any:
    if decided["decision"] == "null":
        return None
    return original if decided["decision"] == "accept" else decided["value"]


def _steps(pointer: str, data: Any) -> Steps:
    """Names and numbers of rows of a JSON pointer."""
    steps: list[str | int] = []
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        steps.append(int(name) if isinstance(data, list) else name)
        data = value_at(data, (steps[-1],))
    return tuple(steps)


def _check(file: Path, row: Mapping[str, Any], schema: Mapping[str, Any] | None) -> None:
    form = None if schema is None else as_form(without_extensions(schema))
    problem = None if form is None else form.read(json.dumps(row["data"]))[1]
    if problem is not None:
        raise PixtralError(f"{file}: {shown(row['source'])} would not be valid any more: {problem}")
