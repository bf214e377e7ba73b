"""From a training state to a checkpoint in the official layout, and back."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..checkpoint import layouts
from ..files import new_file
from ..pixtral import Pixtral, load
from .learning import Pupil
from .state import read_state


def export(model: Pixtral, tokenizer_file: Path, folder: Path) -> None:
    """Write `params.json`, `consolidated.safetensors` in bfloat16 and `tekken.json`.

    Arguments:
        tokenizer_file: copied, unless it lies in `folder` already.
        folder: made if needed; files of these names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    params = json.dumps(model.config.to_params(), indent=2)
    with new_file(folder / "params.json", replace=True) as hidden:
        hidden.write_text(params + "\n", encoding="utf-8")
    if tokenizer_file.resolve() != (folder / "tekken.json").resolve():
        with new_file(folder / "tekken.json", replace=True) as hidden:
            shutil.copyfile(tokenizer_file, hidden)
    parameters = dict(tree_flatten(model.parameters()))
    weights = {
        source.theirs: source.transform.from_ours(parameters[name]).astype(mx.bfloat16)
        for name, source in layouts.to_ours("official", model.config).items()
    }
    with new_file(folder / "consolidated.safetensors", replace=True) as hidden:
        mx.save_safetensors(str(hidden), weights)


def pupil_of(state: Path) -> Pupil:
    """What a run has learnt, wherever it stands; errors as `read_state`."""
    found = read_state(state)
    pupil = Pupil(found.config)
    pupil.update(found.trees["pupil"])
    return pupil


def take_weights(pupil: Pupil, folder: Path) -> None:
    """Give a pupil the weights of a checkpoint; its heads stay as they are.

    Raises:
        CheckpointError: the folder cannot be used.
    """
    learnt = load(folder, dtype="float32")
    pupil.model.update(learnt.parameters())
    mx.eval(pupil.parameters())
