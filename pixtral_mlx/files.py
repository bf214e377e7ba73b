"""A folder that appears under its name only when it is complete."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import CheckpointError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` that takes its name if the block ends well, and vanishes if
    it does not. What a killed run left behind is removed first; a lock tells it from a live one.

    Raises:
        CheckpointError: `folder` exists at the end.
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    partial.mkdir()
    lock = os.open(partial, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network disks know no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield partial
        for file in partial.iterdir():
            _to_disk(file)
        with suppress(OSError):  # some network disks do not sync folders
            os.fsync(lock)
        refuse_existing(folder)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _to_disk(file: Path) -> None:
    """So that the name never stands for files that a power cut would empty."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(folder: Path) -> None:
    """Remove what killed runs left behind beside `folder`; a live one keeps its own."""
    for stale in folder.parent.glob(f".{_escaped(folder.name)}.partial-*"):
        _remove_unlocked(stale)


def _remove_unlocked(folder: Path) -> None:
    with suppress(OSError):  # locked: another conversion to the same name is running
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(lock)


def _escaped(name: str) -> str:
    """The name for `glob`, which gives brackets a meaning."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def refuse_existing(folder: Path) -> None:
    """Raise if something has the name already.

    Raises:
        CheckpointError: it has.
    """
    if folder.exists() or folder.is_symlink():
        raise CheckpointError(
            f"{folder}: exists already and is not overwritten; choose another name or remove it"
        )
