"""What a name means: a folder, "mini", or an id on the hub."""

import re
from os import PathLike
from pathlib import Path

from ..errors import CheckpointError
from ..files import expanded

MINI = Path(__file__).parents[1] / "mini" / "checkpoint"
"""pixtral-mini, which comes with the package."""

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


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
    if name and folder.exists():
        raise CheckpointError(f"{folder}: a file, not a model folder; give the folder it is in")
    if _HUB_ID.fullmatch(name):
        from .hub import fetch, outline

        return fetch(name) if outline_in is None else outline(name, outline_in)
    raise CheckpointError(
        f"{name!r}: no such folder; give a model folder or a hub id such as"
        " mistralai/Pixtral-12B-2409"
    )
