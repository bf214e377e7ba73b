"""What a name means: a folder, "mini", or an id on the hub."""

import os
import re
from os import PathLike
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ..errors import CheckpointError
from ..files import expanded
from .diagnosis import GGUF, INSTEAD

A_FILE = "a file, not a model folder; give the folder it is in"
MINI = Path(__file__).parents[1] / "mini" / "checkpoint"
"""pixtral-mini, which comes with the package."""
ADAPTERS = MINI.parent / "adapters"
SHIPPED_ADAPTERS: tuple[str, ...] = ("charts", "json", "pages")
"""What "mini" was taught beside; each is a folder in `ADAPTERS`."""

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_NO_MODELS = {"datasets", "spaces", "collections", "papers", "docs", "blog", "models", "api"}
_OF_A_REVISION = ("tree", "blob", "resolve", "raw", "commit", "blame", "commits")


class HubModel(NamedTuple):
    """A model of the hub.

    Arguments:
        id: "owner/name".
        revision: a branch, tag or commit; None is the main branch.
    """

    id: str
    revision: str | None = None


def resolve(path: str | PathLike[str], outline_in: Path | None = None) -> Path:
    """The folder that a name means: itself, the one of pixtral-mini in this package ("mini"), or a
    hub id's files after fetching what is needed.

    Arguments:
        outline_in: an empty folder; a hub id's files are put there, with the headers of the weights
            and no weights, which is enough to plan with.

    Raises:
        CheckpointError: no such folder, or the repository cannot be fetched.
    """
    name = str(path)
    if name == "mini":
        return MINI
    folder = expanded(name)
    if name and folder.is_dir():
        return folder
    if name and folder.is_file():
        gguf = folder.suffix.lower() == GGUF
        what = f"a GGUF file, which llama.cpp reads; {INSTEAD}" if gguf else A_FILE
        raise CheckpointError(f"{folder}: {what}")
    if name and folder.is_symlink():
        raise CheckpointError(
            f"{folder}: a link to {os.readlink(folder)}, which is not there; correct the link, or"
            " give the folder itself"
        )
    if (model := on_the_hub(name)) is not None:
        from .hub import fetch, outline

        if outline_in is None:
            return fetch(model.id, revision=model.revision)
        return outline(model.id, outline_in, revision=model.revision)
    raise CheckpointError(
        f"{name!r}: no such folder; give a model folder or a hub id such as"
        " mistralai/Pixtral-12B-2409"
    )


def shown_name(path: str | PathLike[str]) -> str:
    """What to call a model: "pixtral-mini", its hub id, or the name of its folder."""
    name = str(path)
    folder = MINI if name == "mini" else expanded(name)
    if not folder.is_dir():
        return name
    folder = folder.absolute()
    if folder == MINI:
        return "pixtral-mini"
    if folder.parent.name == "snapshots":  # of the hub's cache
        return folder.parents[1].name.removeprefix("models--").replace("--", "/", 1)
    return folder.resolve().name


def on_the_hub(name: str) -> HubModel | None:
    """The model that a hub id or the address of one of its pages means; None if it is neither.

    Raises:
        CheckpointError: an address of something else.
    """
    if _HUB_ID.fullmatch(name.rstrip("/")) and not name.lower().startswith(_HUB_HOSTS):
        return HubModel(name.rstrip("/"))
    if name.startswith("hf://"):
        owner, _, revision = name[5:].rstrip("/").partition("@")
        return HubModel(owner, revision or None) if _HUB_ID.fullmatch(owner) else None
    address = name if "://" in name else f"https://{name}"
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        return None
    mirror = urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname
    if parts.scheme not in ("http", "https") or host is None:
        return None
    if host not in (*_HUB_HOSTS, mirror):
        if "://" not in name:
            return None
        raise CheckpointError(
            f"{host}: models are fetched from the hub alone; give a model folder or a hub id such"
            " as mistralai/Pixtral-12B-2409"
        )
    return _of_page([unquote(step) for step in parts.path.split("/") if step])


def _of_page(steps: list[str]) -> HubModel:
    """The model of a page at this path of the hub."""
    model = "/".join(steps[:2]).removesuffix(".git")
    if _NO_MODELS & set(steps[:1]) or not _HUB_ID.fullmatch(model):
        raise CheckpointError(
            f"{'/'.join(steps)!r}: not the page of a model on the hub; give a model folder or a hub"
            " id such as mistralai/Pixtral-12B-2409"
        )
    if len(steps) > 3 and steps[2] in _OF_A_REVISION and steps[3] != "main":
        return HubModel(model, steps[3])
    return HubModel(model)
