"""The files of a training: the state that it goes on from, and the adapter."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checkpoint.adapter import Adapter
from ..checkpoint.adapter_files import SETTINGS, WEIGHTS, mlx_files
from ..checkpoint.arrays import load_arrays, save_arrays
from ..errors import CheckpointError
from ..files import new_file
from ..model.config import PixtralConfig

STATE, REPORT, CURVES, FEATURES = "state.safetensors", "report.json", "curves.png", "pictures"


@dataclass
class State:
    """How far a training has come.

    Arguments:
        made_with: options, rows and model; a training goes on with the same ones only.
        step: steps that are done.
        learning: {path: number}, of all that learns.
        moments: Adam's, {path: {"m": ..., "v": ...}}.
        steps: a record of each step.
        validations: a record of each validation.
        samples: answers before the first step.
        right: of the answers of the first validation, which were.
    """

    made_with: dict[str, Any]
    step: int = 0
    learning: dict[str, mx.array] = field(default_factory=dict)
    moments: dict[str, dict[str, mx.array]] = field(default_factory=dict)
    steps: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)


def write_state(folder: Path, state: State) -> None:
    """Write the state, whole or not at all; errors as `new_file`."""
    arrays = {f"learning.{path}": array for path, array in state.learning.items()}
    for path, moments in state.moments.items():
        arrays |= {f"{part}.{path}": array for part, array in moments.items()}
    about = {
        name: getattr(state, name)
        for name in ("made_with", "step", "steps", "validations", "samples", "right")
    }
    with new_file(folder / STATE, replace=True) as hidden:
        save_arrays(hidden, arrays, {"about": json.dumps(about)})


def read_state(folder: Path, made_with: dict[str, Any]) -> State:
    """Read what `write_state` wrote.

    Raises:
        CheckpointError: there is none, it is damaged, or it was made with something else.
    """
    file = folder / STATE
    if not file.is_file():
        raise CheckpointError(f"{folder}: holds no training to go on with: leave out --resume")
    try:
        arrays, metadata = load_arrays(file)
        about = json.loads(metadata["about"])
        state = State(**about)
        for array in arrays.values():  # of failures at once MLX would keep some for later
            mx.eval(array)
    except (OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{file}: damaged ({error}): begin anew in another folder") from error
    for name, value in made_with.items():
        if state.made_with.get(name) != value:
            raise CheckpointError(
                f"{file}: was made with {name} {state.made_with.get(name)!r}, and this is "
                f"{value!r}: give the same, or begin anew in another folder"
            )
    for name, array in arrays.items():
        part, _, path = name.partition(".")
        if part == "learning":
            state.learning[path] = array
        else:
            state.moments.setdefault(path, {})[part] = array
    return state


def write_adapter_files(
    folder: Path, adapter: Adapter, config: PixtralConfig, more: dict[str, Any]
) -> None:
    """The adapter in mlx-lm's files, in the place of the one before; errors as `new_file`."""
    settings, tensors = mlx_files(adapter, config)
    with new_file(folder / WEIGHTS, replace=True) as hidden:
        save_arrays(hidden, tensors, {"format": "mlx"})
    write_json(folder / SETTINGS, {**more, **settings})


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file, in the place of the one before; errors as `new_file`."""
    with new_file(file, replace=True) as hidden:
        text = json.dumps(content, indent=2, ensure_ascii=False)
        hidden.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")
