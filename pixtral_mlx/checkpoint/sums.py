"""`SHA256SUMS`: what `convert` and `fuse` wrote, so that a bit that changed is found later.

The format is that of `sha256sum`: `sha256sum -c SHA256SUMS`, or `shasum -a 256 -c` on a Mac,
verifies a folder without this package. Other programs do not look at the file.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import CheckpointError
from ..files import open_file, read_file
from .diagnosis import some

SUMS = "SHA256SUMS"
_MOST_BYTES = 10_000_000
_THREADS = 4
_AT_ONCE = 2**20


def write_sums(folder: Path) -> None:
    """Write the sums of all files of a folder that is complete.

    Raises:
        OSError: a file cannot be read, or the sums not be written.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = [*pool.map(sum_of, files)]
    lines = (f"{digest}  {file.name}\n" for digest, file in zip(sums, files, strict=True))
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def read_sums(folder: Path) -> dict[str, str]:
    """{name: sum in hexadecimal} of each file; {} where the folder has no sums.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = folder / SUMS
    if not file.is_file():
        return {}
    try:
        lines = read_file(file, _MOST_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}): remove it") from error
    found = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name or name != Path(name).name:
            raise CheckpointError(f"{file}: a line is {line!r}: damaged, convert again")
        found[name] = digest
    return found


def check_sums(folder: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Compare every file with its sum; how many there are.

    Arguments:
        progress: called with (files read, files).

    Raises:
        CheckpointError: a file is not as it was written, or gone.
    """
    sums = read_sums(folder)
    changed = []
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda name: _sum_or_none(folder / name), sums)
        for number, (name, digest) in enumerate(zip(sums, found, strict=True), 1):
            if digest != sums[name]:
                changed.append(name)
            if progress is not None:
                progress(number, len(sums))
    if changed:
        raise CheckpointError(
            f"{folder}: {len(changed)} of {len(sums)} files are not as they were written "
            f"({some(changed)}), by {SUMS}: convert again, or copy the folder again"
        )
    return len(sums)


def sum_of(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open_file(file) as data:
        while block := data.read(_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def _sum_or_none(file: Path) -> str | None:
    try:
        return sum_of(file)
    except OSError:
        return None
