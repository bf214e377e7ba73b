"""A file or folder that appears under its name only when it is complete.

It is written under a hidden name beside its own, flushed to the disk and renamed. What a killed
run left behind under such a name is removed by the next; a lock tells it from a live one.
"""

import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from .errors import CapacityError, CheckpointError

__all__ = [
    "expanded", "new_file", "new_folder", "open_file", "read_file", "refuse_existing",
    "refuse_shared", "remove_stale", "remove_unfinished", "scratch_folder", "take_name",
]  # fmt: skip

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_LONGEST_STEM, _LONGEST_SUFFIX = 50, 20  # of a hidden name, which is longer than its own
_unfinished: set[Path] = set()  # hidden names of this process


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path, with the home folder in the place of a `~` at its start; one of nobody's home is
    left as it is."""
    return Path(os.path.expanduser(path))


def read_file(path: Path, most: int) -> bytes:
    """All of a file of at most so many bytes.

    Raises:
        OSError: as `open_file`; or it is larger.
    """
    with open_file(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"more than {most:,} bytes")
    return data


def open_file(path: Path) -> BufferedReader:
    """A file, to be read; whoever writes into a pipe of its name, perhaps never, is not waited for.

    Raises:
        OSError: it cannot be opened, or is no file but a pipe, a device or a folder.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "a pipe or a device, not a file")
    return file


@contextmanager
def new_file(
    path: Path,
    *,
    replace: bool = False,
    error: type[Exception] | None = CheckpointError,
    suffix: str | None = None,
    mode: int = 0o666,
    sync: bool = True,
) -> Iterator[Path]:
    """A hidden, empty file that takes the name `path` if the block ends well, and vanishes if it
    does not. The block writes to it by its name, and does nothing else.

    Arguments:
        replace: take the place of a file of that name; else it stays, and this raises.
        error: what is raised; None leaves every OSError as it is.
        suffix: of the hidden name, for programs that add one that is missing; None is `path`'s own.
        mode: its permissions, less those that the umask takes away.
        sync: wait until it is on the disk, so that not even a power cut leaves it empty.

    Raises:
        error: the name is taken (FileExistsError where `error` is None), when the block begins or
            when it ends; or the file cannot be written.
        CapacityError: the disk is full.
    """
    suffix = path.suffix[:_LONGEST_SUFFIX] if suffix is None else suffix

    def make(hidden: Path) -> int:
        return os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    with _one_line(path, error, OSError, RuntimeError):  # MLX raises RuntimeError
        if not replace:
            refuse_existing(path, FileExistsError)
        with _hidden(path, make, suffix) as (hidden, descriptor):
            yield hidden
            if sync:
                os.fsync(descriptor)
            if replace:
                os.replace(hidden, path)
            else:
                _link(hidden, path)
            if sync:
                _to_disk(path.parent)


@contextmanager
def new_folder(
    folder: Path, *, error: type[Exception] | None = CheckpointError, needed: int = 0
) -> Iterator[Path]:
    """A hidden folder beside `folder` that takes its name if the block ends well, and vanishes if
    it does not; the folder that it lies in is made too.

    Arguments:
        error: what is raised; None leaves every OSError as it is, those of the block too.
        needed: the bytes that will be written, for the message that says that the disk is full.

    Raises:
        error: `folder` exists at the end (FileExistsError where `error` is None), or cannot be
            written.
        CapacityError: the disk is full.
    """

    with _one_line(folder, error, OSError, needed=needed):
        with suppress(FileExistsError):  # a file has its name: `_hidden` says so
            folder.parent.mkdir(parents=True, exist_ok=True)
        with _hidden(folder, _make_folder) as (hidden, _):
            yield hidden
            for file in [*hidden.rglob("*"), hidden]:
                _to_disk(file)
            take_name(hidden, folder)


@contextmanager
def scratch_folder(beside: Path | None = None) -> Iterator[Path]:
    """A folder that is gone when the block ends; one that a killed run has left goes when the next
    one begins.

    Arguments:
        beside: what it lies beside, for what is to be renamed; None: among the system's temporary
            files.
    """
    place = Path(tempfile.gettempdir(), "pixtral-mlx") if beside is None else beside
    place.parent.mkdir(parents=True, exist_ok=True)
    with _hidden(place, _make_folder) as (hidden, _):
        if beside is None:
            hidden.chmod(0o700)
        yield hidden


def take_name(hidden: Path, path: Path, *, with_it: Path | None = None) -> None:
    """Give what is complete its name, which must not be taken.

    Arguments:
        with_it: another file of this run, which goes if this fails: of two there are both or none,
            so that the same command can be run again.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        if hidden.is_dir():
            _rename(hidden, path)
        else:
            _link(hidden, path)
        _to_disk(path.parent)
    except BaseException:
        if with_it is not None:
            with_it.unlink(missing_ok=True)
        raise


def _rename(hidden: Path, folder: Path) -> None:
    refuse_existing(folder, FileExistsError)  # an empty folder would be replaced
    try:
        hidden.rename(folder)
    except OSError:
        refuse_existing(folder, FileExistsError)  # another run was faster
        raise


def refuse_existing(path: Path, error: type[Exception] = CheckpointError) -> None:
    """Raise if something has the name already, a link that leads nowhere too.

    Raises:
        error: it has.
        OSError: no file can have it: it is too long, or in a folder that may not be read.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    raise error(f"{path}: already exists and is not overwritten; choose another name or remove it")


def refuse_shared(folder: Path) -> None:
    """Raise if others than this user may put files into a folder whose files are believed.

    Raises:
        CheckpointError: they may.
        OSError: the folder is not there.
    """
    seen, user = folder.stat(), os.geteuid()
    if seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CheckpointError(
            f"{folder}: others may write into it, and what lies there is believed; allowed: a "
            "folder of your own, `chmod go-w` makes it one"
        )
    if user and seen.st_uid not in (user, 0):
        raise CheckpointError(f"{folder}: belongs to another user; give a folder of your own")


def remove_stale(path: Path) -> None:
    """Remove what killed runs left behind beside `path`; a live one keeps its own."""
    for stale in path.parent.glob(f"{_escaped(_start(path))}*"):
        with suppress(OSError):  # locked: another run to the same name is at work
            descriptor = os.open(stale, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(stale)
            finally:
                os.close(descriptor)


@contextmanager
def _hidden(
    path: Path, make: Callable[[Path], int], suffix: str = ""
) -> Iterator[tuple[Path, int]]:
    """What `make` makes under a hidden name beside `path`, and its descriptor; removed at the end
    if it is still there."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder {path.parent}")
    remove_stale(path)
    while True:
        hidden = path.with_name(f"{_start(path)}{secrets.token_hex(4)}{suffix}")
        _unfinished.add(hidden)
        try:
            descriptor = make(hidden)
            try:
                with suppress(OSError):  # some network disks know no locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if hidden.exists():  # else another run took it for stale before it was locked
                    yield hidden, descriptor
                    return
            finally:
                os.close(descriptor)
        finally:
            _remove(hidden)
            _unfinished.discard(hidden)


def remove_unfinished() -> None:
    """At the end of a process: what it has begun to write. A signal is an exception wherever it
    strikes, also where a file was made and nobody could hear of it yet, or while it is removed."""
    for hidden in [*_unfinished]:
        _remove(hidden)


def _make_folder(hidden: Path) -> int:
    hidden.mkdir()
    return os.open(hidden, os.O_RDONLY)


def _link(hidden: Path, path: Path) -> None:
    """Rename without replacing: of two runs that end at once only one can make the link.

    Raises:
        FileExistsError: something has the name.
    """
    try:
        os.link(hidden, path)
    except OSError:
        refuse_existing(path, FileExistsError)
        hidden.rename(path)  # some disks know no hard links


def _start(path: Path) -> str:
    """How the hidden names of `path` begin."""
    return f".{path.stem[:_LONGEST_STEM]}.partial-"


def _escaped(name: str) -> str:
    """The name for `glob`, which gives brackets a meaning."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _to_disk(file: Path) -> None:
    """Of a file what is in it, of a folder the names in it: so that no name stands for what a power
    cut would empty."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except PermissionError:  # a folder that may be written but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _DISK_FULL or not file.is_dir():  # some network disks sync no folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _one_line(
    path: Path, kind: type[Exception] | None, *causes: type[Exception], needed: int = 0
) -> Iterator[None]:
    """Turn what the disk says into one line."""
    try:
        yield
    except causes as error:
        number, said = getattr(error, "errno", None), getattr(error, "strerror", None) or error
        if kind is None:
            raise
        if isinstance(error, FileExistsError) and number is None:
            raise kind(str(error)) from None
        if number in _DISK_FULL:
            about = f"about {needed:,} bytes are needed, " if needed else ""
            raise CapacityError(
                f"{path.parent}: the disk is full ({said}); {about}nothing was left behind; free "
                "some and run again"
            ) from error
        raise kind(f"{path}: cannot be written ({said}); choose another place") from error
