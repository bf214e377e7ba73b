"""Parts of a document, read a few pages at a time, and the whole that they make."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .leaves import MISSING, Path


class Origin(NamedTuple):
    """Where a value of the whole was found.

    Arguments:
        part: which of the parts.
        path: there.
    """

    part: int
    path: Path


class Joined(NamedTuple):
    """A whole.

    Arguments:
        data: objects are joined name by name, arrays one behind the other; of single values it is
            the first that is not null.
        origins: of each single value where it was found, those of parts that have it first.
    """

    data: Any
    origins: dict[Path, list[Origin]]


def join(parts: Sequence[Any]) -> Joined:
    """Parts in the order of their pages."""
    origins: dict[Path, list[Origin]] = {}
    whole = _join([(Origin(i, ()), part) for i, part in enumerate(parts)], (), origins)
    return Joined(whole, origins)


def _join(
    found: Sequence[tuple[Origin, Any]], path: Path, origins: dict[Path, list[Origin]]
) -> Any:  # fmt: skip
    there = [(at, value) for at, value in found if value is not None] or [*found]
    if any(isinstance(value, Mapping) for _, value in there):
        objects = [(at, value) for at, value in there if isinstance(value, Mapping)]
        names = dict.fromkeys(name for _, value in objects for name in value)
        return {name: _join(_inner(objects, name), (*path, name), origins) for name in names}
    if any(isinstance(value, list) for _, value in there):
        rows = [
            (Origin(at.part, (*at.path, i)), row)
            for at, value in there
            if isinstance(value, list)
            for i, row in enumerate(value)
            if len(found) == 1 or not _is_empty(row)
        ]
        return [_join([row], (*path, i), origins) for i, row in enumerate(rows)]
    origins[path] = [at for at, _ in there]
    return there[0][1]


def _inner(objects: Sequence[tuple[Origin, Any]], name: str) -> list[tuple[Origin, Any]]:
    return [
        (Origin(at.part, (*at.path, name)), value[name]) for at, value in objects if name in value
    ]


def _is_empty(value: Any) -> bool:
    """Whether nothing is in it: a row that a part without rows was made to write."""
    if isinstance(value, Mapping):
        return all(map(_is_empty, value.values()))
    return value is None or (isinstance(value, list) and all(map(_is_empty, value)))


def value_at(data: Any, path: Path) -> Any:
    """The value in a place; `MISSING` where there is none."""
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return MISSING
    return data


def set_at(data: Any, path: Path, value: Any) -> None:
    """Put a value into a place whose surroundings are there; `MISSING` takes it out."""
    *way, last = path
    for part in way:
        data = data[part]
    if value is MISSING:
        data.pop(last, None)
    else:
        data[last] = value
