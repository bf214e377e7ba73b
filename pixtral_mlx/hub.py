"""Model folders from the Hugging Face hub: only the files needed, into the hub's own cache.

huggingface_hub finds, names and places the files. Its downloads of weights start again from the
first byte after an interruption, so the weights are fetched here, piece by piece into a file that
the next run continues; the rest is left to `snapshot_download`.
"""

import glob
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from .errors import CapacityError, CheckpointError
from .folder import choose_weights
from .tables import format_bytes

RETRIES = 3
"""Times that a broken connection is taken up again without a byte of progress."""

_TOKENIZERS = re.compile(r"tekken\.json|[^/]*\.model\.v\w+")
_SETTINGS = ("config.json", "generation_config.json", "preprocessor_config.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch(repo_id: str, *, revision: str | None = None) -> Path:
    """Bring a model's files into the hub's cache; what is there already is not fetched again.

    Arguments:
        repo_id: "owner/name".
        revision: a branch, tag or commit; None is the main branch.

    Returns:
        The folder with the files. Without a network, or with `HF_HUB_OFFLINE=1`, the cached one.

    Raises:
        CheckpointError: no such repository, a gated one, no network and no cache, or no weights
            that can be read.
        CapacityError: the disk has no room for what is still to come.
    """
    from huggingface_hub import snapshot_download

    found = _files_of(repo_id, revision)
    if isinstance(found, Path):
        return found
    commit, sizes = found
    with _one_line(repo_id):
        _check_disk(repo_id, commit, sizes)
        for name in sizes:
            if name.endswith(".safetensors"):
                _fetch_weights(repo_id, name, commit)
        patterns = [glob.escape(name) for name in sizes]
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))


def outline(repo_id: str, place: Path) -> Path:
    """Bring what a plan needs: the small files, and of the weights only the headers, in files of
    the full length that hold no data and take no room. The hub's cache stays as it is.

    Returns:
        A new folder in `place` with the repository's name; without a network, or with
        `HF_HUB_OFFLINE=1`, the cached one.

    Raises:
        CheckpointError: as for `fetch`.
    """
    from huggingface_hub import HfApi, snapshot_download

    found = _files_of(repo_id, None)
    if isinstance(found, Path):
        return found
    commit, sizes = found
    folder = place / repo_id.rpartition("/")[2]
    weights = [name for name in sizes if name.endswith(".safetensors")]
    with _one_line(repo_id):
        patterns = [glob.escape(name) for name in sizes if name not in weights]
        snapshot_download(repo_id, revision=commit, allow_patterns=patterns, local_dir=folder)
        for name in weights:
            header = HfApi().parse_safetensors_file_metadata(repo_id, name, revision=commit)
            entries = {
                tensor: {
                    "dtype": info.dtype,
                    "shape": info.shape,
                    "data_offsets": info.data_offsets,
                }
                for tensor, info in header.tensors.items()
            }
            text = json.dumps(entries).encode()
            end = max((info.data_offsets[1] for info in header.tensors.values()), default=0)
            with (folder / name).open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                file.truncate(8 + len(text) + end)
    return folder


def _files_of(repo_id: str, revision: str | None) -> Path | tuple[str, dict[str, int]]:
    """(commit, {file that a model needs: bytes}); without a network the cached folder."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    except Exception as error:
        cached = _cached(repo_id, revision)
        if cached is not None and not _refused(error):
            return cached
        raise _explained(repo_id, error) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    try:
        return info.sha or "main", {name: sizes[name] for name in needed_files(sizes)}
    except CheckpointError as error:
        raise CheckpointError(f"{repo_id}: {error}") from None


@contextmanager
def _one_line(repo_id: str) -> Iterator[None]:
    """Whatever the hub or the network answers becomes one line."""
    try:
        yield
    except (CheckpointError, CapacityError):
        raise
    except Exception as error:
        raise _explained(repo_id, error) from error


def needed_files(names: Any) -> list[str]:
    """Which files of a repository a model needs, by their names.

    The official layout if it is there, else the HF or MLX one, never both; no pickles, no code.

    Raises:
        CheckpointError: the repository has no weights or no configuration that can be read.
    """
    here = [name for name in names if "/" not in name]
    weights = choose_weights(here)
    wanted = [*weights.files, weights.index]
    if weights.official:
        wanted.append("params.json")
        if weights.index and len(weights.files) > 1:
            # A single file beside shards is the same weights once more.
            wanted = [name for name in wanted if name != "consolidated.safetensors"]
    else:
        if not {"config.json", "params.json"} & set(here):
            raise CheckpointError("neither params.json nor config.json; it is no model repository")
        wanted += ["params.json", *_SETTINGS]
        wanted += [n for n in here if re.fullmatch(r"tokenizer[^/]*\.json", n)]
    wanted += [name for name in here if _TOKENIZERS.fullmatch(name)]
    return sorted(set(wanted) & set(here))


def _refused(error: Exception) -> bool:
    """Whether the hub itself said no: then an old cached copy must not hide it."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    return isinstance(error, RepositoryNotFoundError | RevisionNotFoundError)


def _cached(repo_id: str, revision: str | None) -> Path | None:
    """The cached folder, found without a network."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("params.json", "config.json"):
        try:
            found = try_to_load_from_cache(repo_id, name, revision=revision)
        except ValueError:
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def _repo_cache(repo_id: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=repo_id, repo_type="model")
    return Path(constants.HF_HUB_CACHE).expanduser() / folder


def _check_disk(repo_id: str, commit: str, sizes: dict[str, int]) -> None:
    """Compare what is still to come with the free space where it will lie."""
    from huggingface_hub import try_to_load_from_cache

    place = _repo_cache(repo_id)
    cached = [
        n for n in sizes if isinstance(try_to_load_from_cache(repo_id, n, revision=commit), str)
    ]
    missing = sum(size for name, size in sizes.items() if name not in cached)
    begun = sum(path.stat().st_size for path in place.glob("blobs/*.partial"))
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    needed, free = max(missing - begun, 0), shutil.disk_usage(there).free
    if needed > free:
        raise CapacityError(
            f"{repo_id}: {format_bytes(needed)} to download, {format_bytes(free)} free in {there};"
            " free some space or set HF_HOME to another disk"
        )


def _fetch_weights(repo_id: str, name: str, commit: str) -> None:
    """Put one weight file into the hub's cache, going on where an earlier run stopped."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import WeakFileLock

    if isinstance(try_to_load_from_cache(repo_id, name, revision=commit), str):
        return
    url = hf_hub_url(repo_id, name, revision=commit)
    remote = get_hf_file_metadata(url)
    if not remote.etag or not re.fullmatch(r"[\w.-]+", remote.etag):
        return  # nothing to recognise the file by: snapshot_download takes it whole
    blob = _repo_cache(repo_id) / "blobs" / remote.etag
    partial = blob.with_name(blob.name + ".partial")
    blob.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(str(partial) + ".lock"):
        if blob.exists():
            return
        begun = _size(partial)
        if remote.size is not None and begun > remote.size:
            partial.unlink()
        _download(url, partial, size=remote.size, name=name)
        if begun and _SHA256.fullmatch(remote.etag) and _sha256(partial) != remote.etag:
            partial.unlink()
            raise CheckpointError(f"{repo_id}: {name} arrived damaged; run the command again")
        os.replace(partial, blob)
    Path(str(partial) + ".lock").unlink(missing_ok=True)


def _download(url: str, partial: Path, *, size: int | None, name: str) -> None:
    """Append to a file until it is whole; a connection that breaks is taken up again.

    huggingface_hub's own `http_get` keeps up to 10 MB back that a break then loses.
    """
    from huggingface_hub.utils import are_progress_bars_disabled
    from tqdm.auto import tqdm

    hidden = are_progress_bars_disabled() or None  # None: hidden where there is no terminal
    with tqdm(
        total=size, initial=_size(partial), desc=name, unit="B", unit_scale=True, disable=hidden
    ) as progress:
        failures = 0
        while True:
            before = _size(partial)
            try:
                _append(url, partial, size, progress)
                return
            except Exception as error:
                failures = 1 if _size(partial) > before else failures + 1
                if failures > RETRIES or getattr(error, "response", None) is not None:
                    raise
                time.sleep(failures)


def _append(url: str, partial: Path, size: int | None, progress: Any) -> None:
    """One request for what is missing."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    begun = _size(partial)
    if size is not None and begun >= size:
        return
    place = get_hf_file_metadata(url).location  # asked again each time: signed links expire
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if urlparse(place).netloc != urlparse(url).netloc:
        headers.pop("authorization", None)  # a token is for the hub, not for where files lie
    if begun:
        headers["Range"] = f"bytes={begun}-"
    with http_stream_backoff("GET", place, headers=headers, retry_on_exceptions=()) as response:
        hf_raise_for_status(response)
        whole = response.status_code == 200  # not 206: the server sends all of it again
        with partial.open("wb" if whole else "ab") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
                progress.update(len(chunk))
    if size is not None and _size(partial) != size:
        raise ConnectionError(f"{_size(partial)} of {size} bytes arrived")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explained(repo_id: str, error: Exception) -> CheckpointError:
    """One line for what the hub or the network answered."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hub.GatedRepoError):
        text = (
            f"a gated repository; accept its terms at {constants.ENDPOINT}/{repo_id} and log in"
            " with `hf auth login`"
        )
    elif isinstance(error, hub.RevisionNotFoundError):
        text = "no such revision on the hub; check the branch, tag or commit"
    elif isinstance(error, hub.RepositoryNotFoundError) or status in (401, 403, 404):
        text = (
            "no such folder here and no such repository on the hub, or a private one; check the"
            " spelling, or log in with `hf auth login`"
        )
    elif isinstance(error, hub.HFValidationError):
        text = "not a valid hub id; it is owner/name"
    elif isinstance(error, hub.OfflineModeIsEnabled):
        text = "not in the cache, and HF_HUB_OFFLINE is set; unset it to download"
    elif status is not None:
        text = f"the hub answered with status {status}; try again later"
    else:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        text = (
            f"no such folder here, and the hub cannot be reached or the download broke off"
            f" ({said}); check the network and run it again, it goes on where it stopped"
        )
    return CheckpointError(f"{repo_id}: {text}")
