"""Fields of a request, by the names of their dialect, as options of a generation.

What an option may be is declared by `GenerationOptions` and checked there; a refusal names the
field as the client spelled it.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from ..checks import one_of, whole
from ..engine.options import GenerationOptions
from .refusals import refusal_of

log = logging.getLogger(__name__)

_noted: set[str] = set()


def options_from(body: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The options of a generation that a request states.

    Arguments:
        names: {field of the request: field of `GenerationOptions`}; where two mean the same, the
            later one counts.

    Raises:
        Refusal: a value that is not allowed.
    """
    found: dict[str, Any] = {}
    for theirs, ours in names.items():
        if theirs not in body:
            continue
        try:
            checked = GenerationOptions.of({ours: body[theirs]})
        except Exception as error:
            refusal = refusal_of(error, theirs)
            refusal.message = refusal.message.replace(ours, theirs, 1)
            raise refusal from error
        found[ours] = body[theirs] if ours in ("tools", "tool_choice") else getattr(checked, ours)
    try:
        checked = GenerationOptions.of(found)
    except Exception as error:
        about = str(error).partition(" ")[0]
        raise refusal_of(error, about if about in body else None) from error
    return {name: getattr(checked, name) for name in found}


def flag(body: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A field that is true or false.

    Raises:
        Refusal: it is neither.
    """
    return _checked(name, lambda: one_of(name, body.get(name, default), (True, False)))


def count(body: Mapping[str, Any], name: str, default: int, lowest: int, highest: int) -> int:
    """A field that is a whole number.

    Raises:
        Refusal: it is none, or out of range.
    """
    return _checked(name, lambda: whole(name, body.get(name, default), lowest, highest))


def note_unknown(body: Mapping[str, Any], known: Iterable[str]) -> None:
    """One note in the log for a field that means nothing here."""
    for name in sorted(body.keys() - {*known}):
        if len(_noted) < 1000 and name not in _noted:
            _noted.add(name)
            log.info("requests have a field %r, which means nothing here", name[:100])


def _checked(name: str, check: Any) -> Any:
    try:
        return check()
    except ValueError as error:
        raise refusal_of(error, name) from error
