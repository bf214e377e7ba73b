"""The files of a training run: the state that it goes on from, and the log of its steps."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import CheckpointError
from ..files import new_file
from ..model.config import PixtralConfig

STATE_FILE, LOG_FILE = "state.safetensors", "log.jsonl"


@dataclass(frozen=True)
class State:
    """Where a run has come to.

    Arguments:
        config: sizes of the model.
        seed: of weights and lessons.
        stage, step: how many stages are complete, and how many steps of the next.
        trees: "pupil" (weights), "optimizer" and, while weights are averaged, "mean".
    """

    config: PixtralConfig
    seed: int
    stage: int
    step: int
    trees: dict[str, Any]


def write_state(folder: Path, state: State) -> None:
    """Write the state, complete or not at all; errors as `new_file`."""
    arrays: dict[str, mx.array] = dict(tree_flatten(state.trees))  # type: ignore[arg-type]
    numbers = {"seed": state.seed, "stage": state.stage, "step": state.step}
    metadata = {name: str(value) for name, value in numbers.items()}
    metadata["params"] = json.dumps(state.config.to_params())
    with new_file(folder / STATE_FILE, replace=True) as hidden:
        mx.save_safetensors(str(hidden), arrays, metadata)


def read_state(folder: Path) -> State:
    """Read what `write_state` wrote.

    Raises:
        CheckpointError: there is none.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder}: holds no training state; train first, or give its folder")
    arrays, metadata = mx.load(str(file), return_metadata=True)  # type: ignore[misc]
    return State(
        PixtralConfig.from_params(json.loads(metadata["params"])),  # type: ignore[arg-type]
        *(int(metadata[name]) for name in ("seed", "stage", "step")),  # type: ignore[arg-type]
        tree_unflatten(list(arrays.items())),  # type: ignore[union-attr]
    )


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Add one step to the log."""
    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        log.write(json.dumps(record) + "\n")


def forget_later_records(folder: Path, stages: Sequence[str], now: tuple[int, int]) -> None:
    """A run that was killed logged steps after its last state; they come again.

    Arguments:
        stages: their names, in order.
        now: (stage, step) of the state.
    """
    log = folder / LOG_FILE
    if not log.is_file():
        return
    lines = log.read_text(encoding="utf-8").splitlines()
    places = [(stages.index(r["stage"]), r["step"]) for r in map(json.loads, lines)]
    kept = [line for line, place in zip(lines, places, strict=True) if place <= now]
    with new_file(log, replace=True) as hidden:
        hidden.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
