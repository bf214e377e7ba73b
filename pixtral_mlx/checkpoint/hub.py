"""Model folders from the Hugging Face hub: only the files needed, into the hub's own cache.

huggingface_hub finds, names and places the files. Weights are fetched by `download`, which resumes
and checks them; the rest is left to `snapshot_download`.
"""

import glob
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ..errors import CapacityError, CheckpointError, ConfigError, PixtralError
from ..tables import format_bytes
from .diagnosis import ADAPTER, base_of
from .download import (
    DISK_FULL,
    NOT_WRITABLE,
    RemoteFile,
    fetch_weights,
    first_line,
    repo_cache,
    status_of,
)
from .folder import are_one_set, choose_weights, indexed_names, weight_files

_TOKENIZERS = re.compile(r"tekken\.json|[^/]*\.model\.v\w+")
_SETTINGS = ("config.json", "generation_config.json", "preprocessor_config.json")


def fetch(repo_id: str, *, revision: str | None = None) -> Path:
    """Bring a model's files into the hub's cache; what is there already is not fetched again.

    Weights that were fetched are compared with the sha256 that the hub gives, and a note
    (`logging`, INFO) says so.

    Arguments:
        repo_id: "owner/name".
        revision: a branch, tag or commit; None is the main branch.

    Returns:
        The folder with the files. Without a network, or with `HF_HUB_OFFLINE=1`, the cached one.

    Raises:
        CheckpointError: no such repository, a gated one, no network and no cache, no weights that
            can be read, or a file that arrived damaged.
        CapacityError: the disk has no room for what is still to come.
    """
    from huggingface_hub import snapshot_download

    found = _files_of(repo_id, revision)
    if isinstance(found, Path):
        return found
    commit, files = found
    with _one_line(repo_id):
        _check_disk(repo_id, commit, files)
        for name, remote in files.items():
            if name.endswith(".safetensors"):
                fetch_weights(repo_id, name, commit=commit, remote=remote)
        patterns = [glob.escape(name) for name in files]
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))


def outline(repo_id: str, place: Path, *, revision: str | None = None) -> Path:
    """Bring what a plan needs: the small files, and of the weights only the headers, in files of
    the full length that hold no data and take no room. The hub's cache stays as it is.

    Returns:
        A new folder in `place` with the repository's name; without a network, or with
        `HF_HUB_OFFLINE=1`, the cached one.

    Raises:
        CheckpointError: as for `fetch`.
    """
    from huggingface_hub import HfApi, snapshot_download

    found = _files_of(repo_id, revision)
    if isinstance(found, Path):
        return found
    commit, files = found
    folder = place / repo_id.rpartition("/")[2]
    weights = [name for name in files if name.endswith(".safetensors")]
    with _one_line(repo_id):
        patterns = [glob.escape(name) for name in files if name not in weights]
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


def _files_of(repo_id: str, revision: str | None) -> Path | tuple[str, dict[str, RemoteFile]]:
    """(commit, {file that a model needs: what the hub says of it}); without a network the cached
    folder."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    except Exception as error:
        cached = _cached(repo_id, revision)
        if cached is not None and not _refused(error):
            return _whole(cached, repo_id, error) or _whole(cached, repo_id, error)
        raise _explained(repo_id, error) from error
    files = {
        file.rfilename: RemoteFile(file.size or 0, getattr(file.lfs, "sha256", None))
        for file in info.siblings or ()
    }
    base, commit = _base(repo_id, revision) if ADAPTER in files else "", info.sha or "main"
    try:
        names = needed_files(files, partial(_indexed, repo_id, commit), base)
        return commit, {name: files[name] for name in names}
    except CheckpointError as error:
        said = str(error).removeprefix(f"{repo_id}: ")
        raise CheckpointError(f"{repo_id}: {said}") from None


def _base(repo_id: str, revision: str | None) -> str:
    """The model that an adapter belongs to; "" where it cannot be asked."""
    from huggingface_hub import hf_hub_download

    try:
        return base_of(Path(hf_hub_download(repo_id, ADAPTER, revision=revision)))
    except Exception:  # the line is as true without it
        return ""


def _indexed(repo_id: str, commit: str, index: str) -> list[str]:
    """The names in an index of the hub, which does not go into the cache for that.

    Raises:
        CheckpointError: it names no files, or what is none of them; or it did not come.
    """
    from huggingface_hub import hf_hub_download

    with _one_line(repo_id), tempfile.TemporaryDirectory() as place:
        hf_hub_download(repo_id, index, revision=commit, local_dir=place)
        try:
            return indexed_names(Path(place), index)
        except (CheckpointError, ConfigError) as error:
            raise CheckpointError(f"{repo_id}: {str(error).removeprefix(f'{place}/')}") from None


def _whole(cached: Path, repo_id: str, error: Exception) -> Path:
    """The cached folder if all weights are there, else one line with what is not."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        weight_files(cached)
    except CheckpointError as problem:
        offline = isinstance(error, OfflineModeIsEnabled)
        what = str(problem).removeprefix(f"{cached}: ").partition(";")[0]
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        advice = "unset it" if offline else "check the network"
        raise CheckpointError(
            f"{repo_id}: only part of it is in the cache ({what}), and {why}; {advice} and run it"
            " again, it continues where it stopped"
        ) from error
    return cached


@contextmanager
def _one_line(repo_id: str) -> Iterator[None]:
    """Whatever the hub or the network answers becomes one line."""
    try:
        yield
    except (CheckpointError, CapacityError):
        raise
    except Exception as error:
        raise _explained(repo_id, error) from error


def needed_files(
    names: Iterable[str], indexed: Callable[[str], Iterable[str]], base: str = ""
) -> list[str]:
    """Which files of a repository a model needs, by their names.

    Arguments:
        names: of its files.
        indexed: gives the names in an index; asked where those of the weights are of several sets,
            as a single file beside shards, which is the same weights once more.
        base: for the line about an adapter: the model that it belongs to.

    The official layout if it is there, else the HF or MLX one, never both; no pickles, no code.

    Raises:
        CheckpointError: the repository has no weights or no configuration that can be read.
    """
    here = [name for name in names if "/" not in name]
    weights = choose_weights(here, base=base)
    files = weights.files
    if weights.index and not are_one_set(files):
        # A stale index names none of them, and says nothing: see `weight_files`.
        files = sorted({*indexed(weights.index)} & {*files}) or files
    wanted = [*files, weights.index]
    if weights.official:
        wanted.append("params.json")
    else:
        if not {"config.json", "params.json"} & set(here):
            raise CheckpointError(
                "neither params.json nor config.json; this is not a model repository"
            )
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


def _check_disk(repo_id: str, commit: str, files: dict[str, RemoteFile]) -> None:
    """Compare what is still to come with the free space where it will lie."""
    from huggingface_hub import try_to_load_from_cache

    place = repo_cache(repo_id)
    cached = [
        n for n in files if isinstance(try_to_load_from_cache(repo_id, n, revision=commit), str)
    ]
    missing = sum(remote.size for name, remote in files.items() if name not in cached)
    begun = sum(path.stat().st_size for path in place.glob("blobs/*.partial"))
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    needed, free = max(missing - begun, 0), shutil.disk_usage(there).free
    if needed > free:
        raise CapacityError(
            f"{repo_id}: {format_bytes(needed)} to download, {format_bytes(free)} free in {there};"
            " free some space or set HF_HOME to another disk"
        )


def _explained(repo_id: str, error: Exception) -> PixtralError:
    """One line for what the hub, the network or the disk answered."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    if isinstance(error, hub.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # "not in the cache either" says less than why it did not come
    status = status_of(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in DISK_FULL:
        return CapacityError(
            f"{repo_id}: the disk is full ({first_line(error)}); free some space or set HF_HOME to"
            " another disk, and run it again: it continues where it stopped"
        )
    if number in NOT_WRITABLE:
        text = (
            f"the cache cannot be written ({first_line(error)}); set HF_HOME to a folder that can"
        )
    elif isinstance(error, hub.GatedRepoError):
        text = (
            f"a gated repository; accept its terms at {constants.ENDPOINT}/{repo_id} and log in"
            " with `hf auth login`"
        )
    elif isinstance(error, hub.RevisionNotFoundError):
        text = "no such revision on the hub; check the branch, tag or commit"
    elif status == 403:
        text = (
            f"the hub refuses access (status 403); accept the terms at {constants.ENDPOINT}/"
            f"{repo_id}, and log in with `hf auth login` and a token that may read it"
        )
    elif isinstance(error, hub.RepositoryNotFoundError) or status in (401, 404):
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
        text = (
            f"no such folder here, and the hub cannot be reached or the download broke off"
            f" ({first_line(error)}); check the network and run it again, it continues where it"
            " stopped"
        )
    return CheckpointError(f"{repo_id}: {text}")
