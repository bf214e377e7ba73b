"""Rows as bytes: a JSON object a line, or CSV for spreadsheets.

A name that is not UTF-8 is written with the escapes of its bytes (`caf\\udce9.png`), in both; JSON
readers of Python, and this one, give the very name back.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

COLUMNS = (
    "file", "page", "answer", "finish_reason", "error", "prompt_tokens", "image_tokens",
    "generated_tokens", "model", "prompt", "options", "sha256",
)  # fmt: skip
"""Of a CSV file, in this order."""

_COUNTS = ("page", "prompt_tokens", "image_tokens", "generated_tokens")
_BYTE = re.compile(r"\\(udc[89a-f][0-9a-f])")


class Format(Protocol):
    """How rows are written and read."""

    start: bytes
    """What every file begins with."""

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """A row, to its end."""
        ...

    def whole(self, data: bytes) -> int:
        """Where the last row ends that is all there."""
        ...

    def ours(self, data: bytes, torn: bytes) -> bool:
        """Whether `torn`, after the whole rows `data`, is the beginning of a row."""
        ...

    def decode(self, data: bytes) -> Iterator[tuple[int, Any]]:
        """The number of the line and the row, None where it is none."""
        ...


class JsonLines:
    """A JSON object a line.

    Arguments:
        first: the name that each of them begins with.
    """

    start = b""

    def __init__(self, first: str = "file"):
        self._first = f'{{"{first}": '.encode()

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """See `Format`."""
        return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"

    def whole(self, data: bytes) -> int:
        """See `Format`."""
        return data.rfind(b"\n") + 1

    def ours(self, data: bytes, torn: bytes) -> bool:
        """See `Format`."""
        return torn.startswith(self._first) or self._first.startswith(torn)

    def decode(self, data: bytes) -> Iterator[tuple[int, Any]]:
        """See `Format`."""
        for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError:
                    yield number, None


class Csv:
    """Columns with a head, and the mark (BOM) by which Excel knows UTF-8.

    Arguments:
        fields: of answers that are JSON objects, a column each after the others; "answer" is then
            the object. None: answers are text. A name that another column has gets "answer."
            before it.
    """

    def __init__(self, fields: Sequence[str] | None = None):
        self._fields = fields
        names = [" ".join(name.split()) for name in fields or ()]  # the head is one line
        named = [f"answer.{name}" if name in COLUMNS else name for name in names]
        self.start = b"\xef\xbb\xbf" + _line([*COLUMNS, *named])

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """See `Format`."""
        cells = {**row, "options": json.dumps(row["options"], ensure_ascii=False)}
        answer, more = row["answer"], []
        if self._fields is not None:
            known = answer if isinstance(answer, Mapping) else {}
            more = [_cell(known.get(name)) for name in self._fields]
            cells["answer"] = None if answer is None else json.dumps(answer, ensure_ascii=False)
        return _line([*map(cells.get, COLUMNS), *more])

    def whole(self, data: bytes) -> int:
        """See `Format`: a line end within quotes ends no row."""
        end, open_quotes, place = 0, False, -1
        while (next_end := data.find(b"\n", place + 1)) >= 0:
            open_quotes ^= data.count(b'"', place + 1, next_end) % 2 == 1
            place = next_end
            if not open_quotes:
                end = place + 1
        return end

    def ours(self, data: bytes, torn: bytes) -> bool:
        """See `Format`."""
        return bool(data) or self.start.startswith(torn)

    def decode(self, data: bytes) -> Iterator[tuple[int, Any]]:
        """See `Format`."""
        csv.field_size_limit(2**31 - 1)
        head, rest = data[: data.find(b"\n") + 1], data[data.find(b"\n") + 1 :]
        names = head.removeprefix(b"\xef\xbb\xbf").replace(b'"', b"").strip()
        if data and names != self.start[3:].replace(b'"', b"").strip():
            yield 1, None
            return
        reader = csv.reader(io.StringIO(rest.decode("utf-8", "replace"), newline=""))
        for cells in reader:
            yield reader.line_num + 1, self._row(cells)

    def _row(self, cells: list[str]) -> dict[str, Any] | None:
        """A row as it was before it was written; None if it is none."""
        if len(cells) != len(COLUMNS) + len(self._fields or ()):
            return None
        row = _row(cells[: len(COLUMNS)])
        if row is not None and self._fields is not None and row["answer"] is not None:
            try:
                row["answer"] = json.loads(row["answer"])
            except ValueError:
                return None
        return row


def format_of(path: Path, fields: Sequence[str] | None = None, first: str = "file") -> Format:
    """By the ending of a file: CSV for .csv, else a JSON object a line.

    Arguments:
        fields, first: as for `Csv` and `JsonLines`.
    """
    return Csv(fields) if path.suffix.lower() == ".csv" else JsonLines(first)


def _line(cells: Sequence[Any]) -> bytes:
    """Cells with commas between them."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    """A field of an answer: words and numbers as they are, anything else as JSON."""
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    return json.dumps(value, ensure_ascii=False)


def _row(cells: list[str]) -> dict[str, Any] | None:
    """A row of CSV as it was before it was written; None if it is none."""
    if len(cells) != len(COLUMNS):
        return None
    row: dict[str, Any] = dict(zip(COLUMNS, cells, strict=True))
    try:
        row |= {name: int(row[name]) if row[name] else None for name in _COUNTS}
        row["options"] = json.loads(row["options"])
    except ValueError:
        return None
    for name in ("file", "model", "prompt"):
        row[name] = _BYTE.sub(lambda found: chr(int(found[1][1:], 16)), row[name])
    for name in ("error", "sha256", "finish_reason"):
        row[name] = row[name] or None
    if row["error"]:
        row["answer"] = None
    if row["page"] is None:
        del row["page"]
    return row
