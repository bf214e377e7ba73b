"""One weight file of the hub, into the hub's own cache: resumed after an interruption, and checked.

huggingface_hub starts a download of weights again from the first byte after an interruption, so
they are fetched here, piece by piece into a file that the next run continues. That is all it is
for: where anything surprises (an answer, a length, a hash, another version of huggingface_hub),
`snapshot_download` takes the file whole, and a note says why.
"""

import errno
import glob
import hashlib
import logging
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlparse

from ..errors import CheckpointError
from ..tables import format_bytes

RETRIES = 3
"""Times that a broken connection is taken up again without a byte of progress."""

REFUSALS = {401, 403, 404, 429}
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}

# By name: huggingface_hub has changed from httpx to httpx2, whose classes are others.
_BREAKS = {"TimeoutException", "NetworkError", "RemoteProtocolError", "ProxyError"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK_BYTES = 1 << 22
_QUIET_SECONDS = 2  # hashing shows progress after that; 25 GB take about a minute (an estimate)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """What the hub says of a file.

    Arguments:
        size: in bytes; 0 where the hub does not say.
        sha256: of its content, in hexadecimal; None where the hub does not say.
    """

    size: int
    sha256: str | None = None


def repo_cache(repo_id: str) -> Path:
    """The folder of a model in the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser() / "--".join(["models", *repo_id.split("/")])


def fetch_weights(repo_id: str, name: str, *, commit: str, remote: RemoteFile) -> None:
    """Put one weight file into the hub's cache, unless it is there, and compare its sha256.

    Raises:
        CheckpointError: the file is damaged; it is removed.
        Exception: what the hub, the network or the disk says, as huggingface_hub raises it.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repo_id, name, revision=commit), str):
        return
    try:
        blob = _fetch_resumable(repo_id, name, commit, remote)
    except Exception as error:
        if _is_final(error) or (_is_break(error) and any(map(_size, _partials(repo_id)))):
            raise
        blob = None
        status = status_of(error)
        reason = first_line(error) if status is None else f"the hub answered with status {status}"
        log.warning("%s: %s; huggingface_hub fetches it whole", name, reason)
        _make_room(repo_id, remote.size)
    patterns = [glob.escape(name)]
    file = Path(snapshot_download(repo_id, revision=commit, allow_patterns=patterns)) / name
    if blob is None or not file.samefile(blob):
        _check_fetched(repo_id, name, file, remote)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def status_of(error: Exception) -> int | None:
    """The HTTP status that an error of huggingface_hub is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _check_fetched(repo_id: str, name: str, file: Path, remote: RemoteFile) -> None:
    """Keep what huggingface_hub fetched if it is sound, else remove it."""
    places = [file]  # a link to a blob named by its etag, which may be a link to a shared one
    while places[-1].is_symlink():
        places.append(places[-1].parent / os.readlink(places[-1]))
    blob, etag = places[-1], places[:2][-1].name
    partial = blob.with_name(f"{etag}.partial")
    os.replace(blob, partial)  # so that an interruption leaves nothing unchecked
    if problem := _difference(partial, name, remote.sha256 or _sha256_of(etag)):
        for path in (partial, *places):
            path.unlink(missing_ok=True)
        raise CheckpointError(
            f"{repo_id}: {name} arrived damaged ({problem}) and was removed; run the command again"
        )
    os.replace(partial, blob)
    (repo_cache(repo_id) / "blobs" / partial.name).unlink(missing_ok=True)


def _is_final(error: Exception) -> bool:
    """Whether huggingface_hub would meet the same: the hub refuses, or the disk."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    status = status_of(error)
    disk = isinstance(error, OSError) and error.errno in DISK_FULL | NOT_WRITABLE
    return disk or status in REFUSALS or isinstance(error, OfflineModeIsEnabled)


def _is_break(error: Exception) -> bool:
    """Whether the connection failed, and not what came through it."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _BREAKS) or isinstance(error, ConnectionError | TimeoutError)


def _make_room(repo_id: str, size: int) -> None:
    """Drop what was begun if the whole file would not fit beside it."""
    partials = _partials(repo_id)
    if partials and shutil.disk_usage(partials[0].parent).free < size:
        for path in partials:
            path.unlink(missing_ok=True)


def _fetch_resumable(repo_id: str, name: str, commit: str, remote: RemoteFile) -> Path:
    """Fetch a file, going on where an earlier run stopped; the place where the cache keeps it."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import are_symlinks_supported
    from huggingface_hub.utils import WeakFileLock

    if not are_symlinks_supported(constants.HF_HUB_CACHE):
        raise ValueError("the cache's disk has no symbolic links")  # 25 GB would be copied
    url = hf_hub_url(repo_id, name, revision=commit)
    found = get_hf_file_metadata(url, retry_on_errors=True)
    if not found.etag or not re.fullmatch(r"[\w.-]+", found.etag):
        raise ValueError(f"the hub names it by no etag that can be used ({found.etag})")
    size = remote.size or found.size
    if not size or size != (found.size or size):
        raise ValueError(f"the hub says {remote.size:,} bytes and {found.size} bytes")
    blob = repo_cache(repo_id) / "blobs" / found.etag
    partial = blob.with_name(f"{blob.name}.partial")
    blob.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(f"{partial}.lock"):
        if not blob.exists():
            _download(url, partial, size=size, name=name)
            if problem := _difference(partial, name, remote.sha256 or _sha256_of(found.etag)):
                partial.unlink()
                raise ValueError(f"it arrived damaged ({problem})")
            os.replace(partial, blob)
    Path(f"{partial}.lock").unlink(missing_ok=True)
    return blob


def _download(url: str, partial: Path, *, size: int, name: str) -> None:
    """Append to a file until it is whole; a connection that breaks is taken up again.

    huggingface_hub's own `http_get` keeps up to 10 MB back that a break then loses.
    """
    from huggingface_hub.utils import are_progress_bars_disabled
    from tqdm.auto import tqdm

    if _size(partial) > size:
        partial.unlink()
    hidden = are_progress_bars_disabled() or None  # None: hidden where there is no terminal
    with tqdm(
        total=size, initial=_size(partial), desc=name, unit="B", unit_scale=True, disable=hidden
    ) as progress:
        failures = 0
        while (before := _size(partial)) < size:
            try:
                _append(url, partial, size, progress)
            except Exception as error:
                failures = 1 if _size(partial) > before else failures + 1
                if failures > RETRIES or not _is_break(error):
                    raise
                time.sleep(failures)


def _append(url: str, partial: Path, size: int, progress: Any) -> None:
    """One request for what is missing."""
    from huggingface_hub import constants, get_hf_file_metadata
    from huggingface_hub.utils import build_hf_headers, http_stream_backoff

    begun = _size(partial)
    # Asked again each time: signed links expire.
    place = urljoin(url, get_hf_file_metadata(url, retry_on_errors=True).location)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if urlparse(place).netloc != urlparse(url).netloc:
        headers.pop("authorization", None)  # a token is for the hub, not for where files lie
    if begun:
        headers["Range"] = f"bytes={begun}-"
    limits = {"timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT, "retry_on_exceptions": ()}
    with http_stream_backoff("GET", place, headers=headers, **limits) as response:
        whole = _is_whole(response, url, begun=begun, size=size)
        with partial.open("wb" if whole else "ab") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
                progress.update(file.tell() - progress.n)
                if file.tell() > size:
                    break
    if _size(partial) > size:
        partial.unlink()
        raise ValueError(f"more than its {size:,} bytes came")
    if _size(partial) < size:
        raise ConnectionError(f"{_size(partial):,} of {size:,} bytes arrived")


def _is_whole(response: Any, url: str, *, begun: int, size: int) -> bool:
    """Whether an answer is the whole file, or else what is missing of it.

    Raises:
        ValueError: it is neither.
    """
    from huggingface_hub.utils import hf_raise_for_status

    status, headers = response.status_code, response.headers
    if status in REFUSALS and urlparse(str(response.url)).netloc == urlparse(url).netloc:
        hf_raise_for_status(response)  # the hub's own have names
    if headers.get("Content-Encoding", "identity") != "identity":
        raise ValueError(f"the answer is encoded as {headers['Content-Encoding']}")
    if status == 200:
        length = headers.get("Content-Length", str(size))
        if length != str(size):
            raise ValueError(f"the answer has {length} bytes, not {size}")
        return True  # also where a range was asked for: the server sends all of it again
    span = headers.get("Content-Range", "")
    if status != 206 or not re.fullmatch(rf"bytes {begun}-\d+/({size}|\*)", span):
        raise ValueError(f"the answer has status {status} ({span or 'no range'})")
    return False


def _partials(repo_id: str) -> list[Path]:
    return list(repo_cache(repo_id).glob("blobs/*.partial"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256_of(etag: str) -> str | None:
    """The hub names large files by their hash, small ones by git's."""
    return etag if _SHA256.fullmatch(etag) else None


def _difference(path: Path, name: str, stated: str | None) -> str:
    """How a file differs from the sha256 that the hub gives, in words; else a note that it was
    compared, and nothing."""
    size = format_bytes(path.stat().st_size)
    if stated is None:
        log.info("%s: %s, not checked: the hub gives no sha256", name, size)
        return ""
    found = _sha256(path, name)
    if found != stated:
        return f"sha256 {found[:12]}..., the hub says {stated[:12]}..."
    log.info("%s: %s, sha256 %s... as the hub says", name, size, found[:12])
    return ""


def _sha256(path: Path, name: str) -> str:
    from tqdm.auto import tqdm

    digest = hashlib.sha256()
    with (
        path.open("rb") as file,
        tqdm(
            total=path.stat().st_size, desc=f"sha256 of {name}", unit="B", unit_scale=True,
            disable=None, delay=_QUIET_SECONDS,
        ) as progress,
    ):  # fmt: skip
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            progress.update(len(block))
    return digest.hexdigest()
