"""`pixtral-mlx models`: the models on this machine, and which one is asked by default."""

import os
from argparse import Namespace
from pathlib import Path
from shlex import quote

from ..checkpoint.folder import load_config
from ..checkpoint.local import LocalModel, local_models
from ..checkpoint.names import on_the_hub
from ..errors import CheckpointError
from ..files import expanded
from ..tables import format_bytes, format_table
from .settings import MINI, READY_MADE, VARIABLE, Choice, default_model, known_folders, set_default
from .wrap import say, say_json


def run(arguments: Namespace) -> int:
    """List the models, or show or set the default one.

    Raises:
        CheckpointError: what is to be the default is no model.
    """
    if arguments.action is None:
        return _list(arguments)
    if arguments.model is not None:
        set_default(checked(arguments.model))
    choice = default_model()
    if arguments.json:
        say_json(choice._asdict())
    else:
        say(default_text(choice))
    if arguments.model is not None and choice.source == VARIABLE:
        say(f"{VARIABLE} is set and comes first: unset it to use {arguments.model}")
    elif arguments.model is not None:
        say("Ask it: pixtral-mlx generate photo.jpg 'What is this?'")
    return 0


def checked(name: str) -> str:
    """A model as the settings keep it: an absolute folder, a hub id or "mini"; nothing is
    downloaded.

    Raises:
        CheckpointError, ConfigError: it is none of these.
    """
    if name == MINI:
        return name
    folder = expanded(name)
    if folder.is_dir():
        load_config(folder)
        return os.path.abspath(folder)
    if (model := on_the_hub(name)) is not None:
        return model.id if model.revision is None else f"hf://{model.id}@{model.revision}"
    raise CheckpointError(
        f"{name!r}: no such folder, and not a hub id; `pixtral-mlx models` lists what is here"
    )


def _list(arguments: Namespace) -> int:
    choice, found = default_model(), list(local_models(known_folders()))
    if arguments.json:
        report = [
            {**model._asdict(), "folder": str(model.folder), "default": _is(model, choice)}
            for model in found
        ]
        say_json(report)
        return 0
    say("\n".join(models_text(found, choice)))
    return 0


def models_text(found: list[LocalModel], choice: Choice) -> list[str]:
    """A row for each model, what is wrong with some, and how to choose another default."""
    rows = [("  model", "size", "stored as", "found in")]
    for model in found:
        mark = "*" if _is(model, choice) else " "
        size = format_bytes(model.nbytes) if model.nbytes else "-"
        rows.append((f"{mark} {model.name}", size, model.storage or "unusable", model.place))
    lines = format_table(rows)
    lines += [f"{model.name}: {model.problem}" for model in found if model.problem]
    if not any(_is(model, choice) for model in found):
        lines.append(default_text(choice))
    if choice.model == MINI:
        usable = [model.name for model in found if not model.problem and model.name != MINI]
        name = quote(usable[-1]) if usable else READY_MADE
        lines.append(f"Choose another default (*): pixtral-mlx models default {name}")
    return lines


def default_text(choice: Choice) -> str:
    """One line: the default model, and who chose it."""
    return f"default: {choice.model}" + (f" (from {choice.source})" if choice.source else "")


def _is(model: LocalModel, choice: Choice) -> bool:
    """Whether it is the default, by its name or by its folder."""
    here = expanded(choice.model)
    return model.name == choice.model or (here.is_dir() and Path(here).samefile(model.folder))
