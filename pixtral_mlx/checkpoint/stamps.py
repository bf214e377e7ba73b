"""How files were when their reading began, so that two models are never taken for one."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError
from .arrays import drop_failed_reads, is_failed_read

Stamp = tuple[int, int, int, int]
"""Device, inode, bytes and time of the last change of a file."""


def stamps_of(files: Iterable[Path]) -> dict[Path, Stamp]:
    """The stamps of files, those that are not there left out."""
    stamps = ((file, _stamp(file)) for file in files)
    return {file: stamp for file, stamp in stamps if stamp is not None}


def check_unchanged(stamps: Mapping[Path, Stamp], doing: str) -> None:
    """Raise unless every file is as its stamp says.

    Arguments:
        doing: since when, or during what, for the message: "while it was converted".

    Raises:
        CheckpointError: a file was written to, replaced or removed.
    """
    for file, stamp in stamps.items():
        if (found := _stamp(file)) != stamp:
            what = "removed" if found is None else "changed"
            raise CheckpointError(
                f"{file}: {what} {doing}: let whatever writes there finish, and begin again"
            )


class Unread:
    """Weights that `px.load` opened and no computation has read yet.

    Until then they are what the files hold, not what they held.

    Arguments:
        stamps: of the files.
    """

    def __init__(self, stamps: Mapping[Path, Stamp]):
        self._stamps, self._parts = stamps, {"decoder", "vision"}

    @contextmanager
    def reading(self, *, vision: bool) -> Iterator[None]:
        """While the block computes, a file that became too short is a CheckpointError.

        What has changed by then is not read at all: of reads that fail, MLX 0.32 counts some as
        still running, now and then, and later computations wait for them for ever.

        Arguments:
            vision: whether the encoder computes too.
        """
        self._check(vision)
        try:
            yield
        except RuntimeError as error:
            if not is_failed_read(error):
                raise
            drop_failed_reads()
            check_unchanged(self._stamps, "after the model was opened")
            files = ", ".join(sorted({str(file) for file in self._stamps}))
            raise CheckpointError(f"{files}: can no longer be read ({error})") from error

    def were_read(self, *, vision: bool) -> None:
        """The decoder has computed something, and with `vision` the encoder too.

        Raises:
            CheckpointError: it was of files that had changed.
        """
        self._parts -= self._check(vision)

    def _check(self, vision: bool) -> set[str]:
        """What of it was not read before, where the files are as they were."""
        new = self._parts & {"decoder", *(["vision"] if vision else [])}
        if new:
            check_unchanged(self._stamps, "after the model was opened")
        return new


def _stamp(file: Path) -> Stamp | None:
    try:
        seen = os.stat(file)
    except OSError:
        return None
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns
