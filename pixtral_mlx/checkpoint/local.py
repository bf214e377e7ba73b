"""The models that are on this machine: in the hub's cache, in LM Studio's folder, or elsewhere."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import PixtralError
from .checkpoint import open_checkpoint
from .diagnosis import hub_id, whole_models
from .folder import load_config
from .names import MINI

LM_STUDIO = ("~/.lmstudio", "~/.cache/lm-studio")
LM_STUDIO_POINTER = "~/.lmstudio-home-pointer"
"""The file in which LM Studio says where its folder is, if somebody moved it."""


class LocalModel(NamedTuple):
    """A model folder of this machine.

    Arguments:
        name: what `--model` takes: "mini", a hub id, or a folder.
        folder: where it is.
        place: what keeps it: "package", "converted", "hub cache" or "LM Studio".
        nbytes: of its weights; 0 if there is a problem.
        storage: how they are stored: "4 bits, groups of 64", "BF16".
        problem: why it cannot be opened, in one line; or "".
    """

    name: str
    folder: Path
    place: str
    nbytes: int = 0
    storage: str = ""
    problem: str = ""


def local_models(converted: Iterable[Path]) -> Iterator[LocalModel]:
    """Every model here that this package opens, each folder once; headers are read, no weights.

    Arguments:
        converted: folders that are known from before; one of another architecture is listed with
            what is wrong with it. Elsewhere, such folders are others' models, and left out.
    """
    seen = set[Path]()
    for name, folder, place in _candidates(converted):
        if (real := folder.resolve()) in seen:
            continue
        seen.add(real)
        if place != "converted" and not _is_ours(folder):
            continue
        try:
            checkpoint = open_checkpoint(folder)
        except (PixtralError, OSError) as error:
            problem = str(error).removeprefix(f"{folder}: ")
            yield LocalModel(name, folder, place, problem=problem)
            continue
        schemes = {str(scheme) for scheme in checkpoint.schemes.values()}
        kinds = schemes or {ref.dtype for ref in checkpoint.tensors.values()}
        yield LocalModel(name, folder, place, checkpoint.nbytes, "; ".join(sorted(kinds)))


def _candidates(converted: Iterable[Path]) -> Iterator[tuple[str, Path, str]]:
    """(name, folder, place) of what may be a model."""
    yield "mini", MINI, "package"
    yield from ((str(folder), folder, "converted") for folder in converted)
    yield from ((name, folder, "hub cache") for name, folder in _cached())
    for place in _lm_studio():
        yield from ((str(folder), folder, "LM Studio") for folder in whole_models(place / "models"))


def _is_ours(folder: Path) -> bool:
    """Whether its configuration is one of a model that this package opens."""
    try:
        load_config(folder)
    except (PixtralError, OSError):
        return False
    return True


def _cached() -> Iterator[tuple[str, Path]]:
    """(hub id, its newest files) of every model in the hub's cache, by name."""
    from huggingface_hub import constants

    for repository in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        commit = repository / "refs" / "main"
        named = commit.read_text().strip() if commit.is_file() else ""
        snapshots = list((repository / "snapshots").glob(named or "*"))
        if snapshots:
            newest = max(snapshots, key=lambda folder: folder.stat().st_mtime)
            yield hub_id(repository.name), newest


def _lm_studio() -> list[Path]:
    """The folders that LM Studio may use."""
    pointer = Path(LM_STUDIO_POINTER).expanduser()
    moved = [pointer.read_text(encoding="utf-8").strip()] if pointer.is_file() else []
    return [Path(place).expanduser() for place in (*moved, *LM_STUDIO) if place]
