"""A file of rows that a killed run leaves in a state to go on from."""

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import PixtralError
from ..files import new_file
from .row_formats import JsonLines, format_of
from .wrap import say

Key = tuple[str, int | None]
"""What a row is about: a file, and a page of it where each page has a row."""

log = logging.getLogger(__name__)


class RowFile:
    """Rows of answers, each on disk before the next one is written.

    A row is `{"file": ..., **made_with, ...}`. What is there already is read when it is opened: all
    rows must be made with the same. A last line that was cut off is removed. A row about what has
    one already stands after it for as long as the file is open, and in its place afterwards.

    Arguments:
        path: a new file, or one to go on with; its ending decides the format, see `row_formats`.
        made_with: what the rows have in common: {"model": ..., "prompt": ...}.
        overwrite: forget what is there, once there is a first row to take its place.
        fields: of answers that are JSON objects; CSV has a column for each.
        names: what a row calls the file that it is about, and what it found.

    `rows` are those that are there.

    Raises:
        PixtralError: the file holds something else, or rows made otherwise, or another process
            writes to it.
        OSError: it cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        made_with: Mapping[str, Any],
        *,
        overwrite: bool = False,
        fields: Sequence[str] | None = None,
        names: tuple[str, str] = ("file", "answer"),
    ):
        self._path, self._made_with, self._overwrite = path, dict(made_with), overwrite
        self._what, self._answer = names
        self._format = format_of(path, fields, self._what)
        self._rows: dict[Key, dict[str, Any]] = {}
        self._replaced = False  # whether there are rows on the disk that count no more
        self._file = path.open("a+b")
        try:
            self._lock()
            if not overwrite:
                self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._replaced:
                self._write_anew()
        finally:
            self._file.close()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Those that count, in the order in which they were written."""
        return list(self._rows.values())

    def forget(self, keys: Iterable[Key]) -> None:
        """Rows of something that is not there any more: they go when the file is closed."""
        for key in keys:
            self._replaced |= self._rows.pop(key, None) is not None

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row, its "file" first; when this returns it is on disk."""
        if self._overwrite:
            self._file.truncate(0)
            self._overwrite = False
        line = {self._what: row[self._what], **self._made_with, **row}
        empty = not self._file.seek(0, os.SEEK_END)
        self._file.write((self._format.start if empty else b"") + self._format.encode(line))
        self._file.flush()
        with suppress(OSError):  # some places know no sync
            os.fsync(self._file.fileno())
        self._keep(line)

    def _keep(self, row: dict[str, Any]) -> None:
        """The last row about something is the one that counts."""
        key = key_of(row)
        self._replaced |= self._rows.pop(key, None) is not None
        self._rows[key] = row

    def _write_anew(self) -> None:
        """The rows that count and no other, complete or not at all."""
        path = self._path.resolve()
        with new_file(path, replace=True, error=None, mode=path.stat().st_mode & 0o777) as hidden:
            rows = map(self._format.encode, self.rows)
            hidden.write_bytes(self._format.start + b"".join(rows))

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PixtralError(
                f"{self._path}: another process writes to it: wait for it, or give another file"
            ) from error
        except OSError:
            pass  # some network disks know no locks

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = self._format.whole(data)
        for number, row in self._format.decode(data[:whole]):
            self._keep(self._checked(row, number))
        torn = data[whole:]
        if not torn:
            return
        if not self._format.ours(data[:whole], torn):
            raise self._not_ours(data[:whole].count(b"\n") + 1)
        log.warning("%s: its last line was cut off, and is written again", self._path)
        self._file.truncate(whole)

    def _checked(self, row: Any, number: int) -> dict[str, Any]:
        if not isinstance(row, dict) or not {self._what, self._answer, *self._made_with} <= set(
            row
        ):
            raise self._not_ours(number)
        for name, value in self._made_with.items():
            if row[name] != value:
                seen, wanted = (json.dumps(v, ensure_ascii=False)[:60] for v in (row[name], value))
                raise PixtralError(
                    f"{self._path}: line {number} was made with {name} {seen}, not {wanted}: give "
                    "the same again, or another file, or --overwrite"
                )
        return row

    def _not_ours(self, number: int) -> PixtralError:
        return PixtralError(
            f"{self._path}: line {number} is not a row of this command: give another file, or "
            "--overwrite"
        )


class RowStream:
    """Rows on stdout, a JSON object a line; nothing is there before."""

    def __init__(self, made_with: Mapping[str, Any], what: str = "file"):
        self._made_with, self._what = dict(made_with), what
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> "RowStream":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is to be closed."""

    def forget(self, keys: Iterable[Key]) -> None:
        """There is nothing to forget."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row, its "file" first."""
        line = {self._what: row[self._what], **self._made_with, **row}
        say(JsonLines().encode(line).decode(), end="", flush=True)
        self.rows.append(line)


def key_of(row: Mapping[str, Any]) -> Key:
    """What a row is about."""
    return row["file" if "file" in row else "source"], row.get("page")


def open_rows(
    output: str,
    made_with: Mapping[str, Any],
    *,
    overwrite: bool = False,
    fields: Sequence[str] | None = None,
    names: tuple[str, str] = ("file", "answer"),
) -> RowFile | RowStream:
    """Rows in a file, or on stdout for "-"; arguments as for `RowFile`."""
    if output == "-":
        return RowStream(made_with, names[0])
    return RowFile(Path(output), made_with, overwrite=overwrite, fields=fields, names=names)
