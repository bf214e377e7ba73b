"""A file of rows, one JSON object a line, that a killed run leaves in a state to go on from."""

import fcntl
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import PixtralError

_START = b'{"file": '  # of every row

log = logging.getLogger(__name__)


class RowFile:
    """Rows of answers, each on disk before the next one is written.

    A row is `{"file": ..., **made_with, ...}`. What is there already is read when it is opened: all
    rows must be made with the same. A last line that was cut off is removed.

    Arguments:
        path: a new file, or one to go on with.
        made_with: what the rows have in common: {"model": ..., "prompt": ...}.
        overwrite: forget what is there, once there is a first row to take its place.

    `rows` are those that are there.

    Raises:
        PixtralError: the file holds something else, or rows made otherwise, or another process
            writes to it.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any], *, overwrite: bool = False):
        self._path, self._made_with, self._overwrite = path, dict(made_with), overwrite
        self.rows: list[dict[str, Any]] = []
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
        self._file.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row, its "file" first; when this returns it is on disk."""
        if self._overwrite:
            self._file.truncate(0)
            self._overwrite = False
        line = {"file": row["file"], **self._made_with, **row}
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        with suppress(OSError):  # some places know no sync
            os.fsync(self._file.fileno())
        self.rows.append(line)

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
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), 1):
            if line.strip():
                self.rows.append(self._row(line, number))
        torn = data[whole:]
        if not torn:
            return
        if not (torn.startswith(_START) or _START.startswith(torn)):
            raise self._not_ours(data[:whole].count(b"\n") + 1)
        log.warning("%s: its last line was cut off, and is written again", self._path)
        self._file.truncate(whole)

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            raise self._not_ours(number) from None
        if not isinstance(row, dict) or not {"file", "answer", *self._made_with} <= set(row):
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
            f"{self._path}: line {number} is no row of this command: give another file, or "
            "--overwrite"
        )
