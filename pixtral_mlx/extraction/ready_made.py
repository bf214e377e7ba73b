"""Schemas to start from, which come with the package: copy one and make it yours."""

import json
from pathlib import Path
from typing import Any

from ..errors import FormError
from ..inputs.image_source import short_name

FOLDER = Path(__file__).parent / "schemas"
MOST_BYTES = 1_000_000
"""Of the file of a schema."""


def ready_made() -> dict[str, str]:
    """{name: what it describes}, in order."""
    return {file.stem: read_schema(file)["description"] for file in sorted(FOLDER.glob("*.json"))}


def read_schema(source: "str | Path") -> dict[str, Any]:
    """The schema in a file, or the one that comes with the package under this name.

    Raises:
        FormError: no such file or name, or no JSON object in it.
    """
    file = Path(source).expanduser()
    if not file.exists() and (own := FOLDER / f"{source}.json").name in _names():
        file = own
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise FormError(f"{source}: more than {MOST_BYTES:,} bytes: not a JSON schema")
        found = json.loads(data)
    except OSError as error:
        names = ", ".join(name.removesuffix(".json") for name in _names())
        raise FormError(
            f"{source}: {error.strerror}; allowed: the file of a JSON schema, or {names}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise FormError(f"{source}: not JSON ({error}): give a JSON schema") from error
    if not isinstance(found, dict):
        raise FormError(f"{source}: not a JSON schema, which is an object")
    return found


def read_ready_made(name: str) -> dict[str, Any]:
    """The one that comes with the package under this name; no other file is opened.

    Raises:
        FormError: no such name.
    """
    if f"{name}.json" not in _names():
        names = ", ".join(each.removesuffix(".json") for each in _names())
        raise FormError(f"no schema is called {short_name(name)!r}; allowed: {names}")
    return read_schema(FOLDER / f"{name}.json")


def _names() -> list[str]:
    return sorted(file.name for file in FOLDER.glob("*.json"))
