"""What a person has chosen for every command, in one small file of their own.

`config.json` lies in `$XDG_CONFIG_HOME/pixtral-mlx`, or, where that is not set, in
`~/Library/Application Support/pixtral-mlx` on a Mac and `~/.config/pixtral-mlx` elsewhere.
"""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import PixtralError
from ..files import expanded, new_file

MINI = "mini"
READY_MADE = "mlx-community/pixtral-12b-4bit"
"""The 12B in 4 bits, as others have converted it: the shortest way to an answer."""
VARIABLE = "PIXTRAL_MLX_MODEL"


class Choice(NamedTuple):
    """A model that was chosen.

    Arguments:
        model: a folder, a hub id or "mini".
        source: who chose it, for people: "--model", "PIXTRAL_MLX_MODEL", the file of the settings,
            or "" where nobody did.
    """

    model: str
    source: str


def chosen_model(arguments: Namespace) -> Choice:
    """The model that a command asks: `--model`, else the variable, else the default that was set,
    else pixtral-mini.

    Raises:
        PixtralError: the settings cannot be read.
    """
    if arguments.model is not None:
        return Choice(arguments.model, "--model")
    return default_model()


def default_model() -> Choice:
    """The model that a command asks without `--model`.

    Raises:
        PixtralError: the settings cannot be read.
    """
    if named := os.environ.get(VARIABLE):
        return Choice(os.path.expanduser(named), VARIABLE)
    if kept := read_settings().get("default_model"):
        return Choice(kept, str(settings_file()))
    return Choice(MINI, "")


def set_default(model: str) -> None:
    """Keep the default model for later commands.

    Arguments:
        model: an absolute folder, a hub id or "mini".

    Raises:
        PixtralError: the settings cannot be read or written.
    """
    _write(read_settings() | {"default_model": model})


def known_folders() -> list[Path]:
    """Folders that `convert` wrote and that are still there, the newest last.

    Raises:
        PixtralError: the settings cannot be read.
    """
    return [
        folder for name in read_settings().get("folders", ()) if (folder := Path(name)).is_dir()
    ]


def remember_folder(folder: Path) -> None:
    """Let `models` list a folder; where the settings cannot be written, it is found by its name
    alone, as before.
    """
    place = os.path.abspath(folder)
    try:
        kept = read_settings()
        others = [name for name in kept.get("folders", ()) if name != place]
        _write(kept | {"folders": [*others, place]})
    except PixtralError:
        pass  # a conversion of an hour does not fail because of this


def settings_file() -> Path:
    """Where the settings are, or would be."""
    home = os.environ.get("XDG_CONFIG_HOME")
    if not home:
        home = "~/Library/Application Support" if sys.platform == "darwin" else "~/.config"
    return expanded(home) / "pixtral-mlx" / "config.json"


def read_settings() -> dict[str, Any]:
    """{"default_model": str, "folders": [str]}, as far as there is something.

    Raises:
        PixtralError: the file is damaged, or cannot be read.
    """
    file = settings_file()
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unusable(file, str(getattr(error, "strerror", None) or error)) from error
    if not isinstance(kept, dict):
        raise _unusable(file, "not a JSON object")
    model, folders = kept.get("default_model", ""), kept.get("folders", [])
    if not isinstance(model, str) or not isinstance(folders, list):
        raise _unusable(file, '"default_model" must be a string and "folders" a list')
    if not all(isinstance(folder, str) for folder in folders):
        raise _unusable(file, '"folders" must hold strings')
    return kept


def _write(kept: Mapping[str, Any]) -> None:
    file = settings_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PixtralError(f"{file}: cannot be written ({error.strerror})") from error
    with new_file(file, replace=True, error=PixtralError) as hidden:
        text = json.dumps(kept, indent=2, ensure_ascii=False) + "\n"
        hidden.write_text(text, encoding="utf-8", errors="backslashreplace")


def _unusable(file: Path, why: str) -> PixtralError:
    return PixtralError(f"{file}: {why}; correct this file or remove it")
