"""The three stages of training, one step after another, resumable at any of them.

1. `see`: the vision encoder alone names what each patch and its neighbour show.
2. `answer`: projector and decoder learn to answer; the vision encoder stays as it is.
3. `polish`: everything together, at a lower rate.

The state folder holds `state.safetensors` (weights, optimizer, step), `log.jsonl` and the curves.
Started by `mlx.launch`, several processes share the work: each takes a lesson of its own.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..config import PixtralConfig, VisionConfig
from ..errors import CheckpointError
from ..tokenizer import Tokenizer
from . import learning
from .export import take_weights
from .lessons import Feeder, Lesson, Words, text_lesson, vision_lesson


@dataclass(frozen=True)
class Stage:
    """One stage.

    Arguments:
        name: "see", "answer" or "polish".
        steps: of the optimizer.
        rate: highest learning rate of the matrices; others move at a tenth.
        budget: patches ("see") or tokens in one lesson, about.
    """

    name: str
    steps: int
    rate: float
    budget: int


STAGES = (
    Stage("see", 500, 0.02, 1500),
    Stage("answer", 3000, 0.02, 3000),
    Stage("polish", 700, 0.006, 2500),
)
"""What the bundled checkpoint went through."""

WARM_UP = 50
"""Steps until the full rate."""

SAVE_EVERY = 100


def rate_at(stage: Stage, step: int) -> float:
    """Up in `WARM_UP` steps, level to the middle, then down in a straight line to almost zero."""
    left = 1 - step / stage.steps
    return stage.rate * min((step + 1) / WARM_UP, 1.0, max(left / 0.6, 0.01))


class Course:
    """One training run.

    Arguments:
        state: folder of the run; continued if it holds a state.
        tokenizer_file: the checkpoint's.
        config: sizes; None for those of pixtral-mini.
        stages: what is done, in this order.
        seed: of weights and lessons; None takes the one that the state began with.
        workers: processes that draw lessons.
        weights: checkpoint folder to begin with instead of chance.

    Raises:
        CheckpointError: the state began with another seed, or there is none and `seed` is None.
    """

    def __init__(
        self,
        state: Path,
        tokenizer_file: Path,
        *,
        config: PixtralConfig | None = None,
        stages: tuple[Stage, ...] = STAGES,
        seed: int | None = 0,
        workers: int = 1,
        weights: Path | None = None,
    ):
        self.folder, self.stages, self.workers = state, stages, workers
        self.seed = _begun_with(state) if seed is None else seed
        self._tokenizer_file = tokenizer_file
        self._group = mx.distributed.init()
        self.config = config or learning.mini_config(Tokenizer(tokenizer_file).n_words)
        mx.random.seed(self.seed)
        self.pupil = learning.Pupil(self.config)
        if weights is not None:
            take_weights(self.pupil, weights)
        self.stage, self.step = 0, 0
        self._begin_stage()
        if (state / "state.safetensors").is_file():
            self._restore()

    @property
    def steps_done(self) -> int:
        """Steps since the beginning, over all stages."""
        return sum(stage.steps for stage in self.stages[: self.stage]) + self.step

    def run(self, report: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Train to the end.

        Arguments:
            report: called after each step with its record, the same that goes into the log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        while self.stage < len(self.stages):
            stage = self.stages[self.stage]
            feeder = Feeder(self._maker(stage), workers=self.workers)
            for lesson in feeder.lessons(self.step, stage.steps):
                record = self._learn(stage, lesson)
                self._log(record)
                if report:
                    report(record)
                if self.step % SAVE_EVERY == 0 or self.step == stage.steps:
                    self.save()
            self.stage, self.step = self.stage + 1, 0
            if self.stage < len(self.stages):
                self._begin_stage()
            self.save()

    def _begin_stage(self) -> None:
        """Choose what moves, and start its optimizer afresh."""
        name = self.stages[self.stage].name
        model = self.pupil.model
        if name == "answer" and self.step == 0:
            _divide_by_rms(self.pupil, self._maker(self.stages[0])(0))
        self.pupil.unfreeze()
        if name == "see":
            model.projector.freeze()  # type: ignore[union-attr]
            model.decoder.freeze()
        if name == "answer":
            model.vision_encoder.freeze()  # type: ignore[union-attr]
        self.optimizer = learning.make_optimizer()
        self.optimizer.init(self.pupil.trainable_parameters())
        self._gradients = nn.value_and_grad(self.pupil, self._loss(name))

    def _loss(self, name: str) -> Callable[[Lesson], tuple[mx.array, mx.array]]:
        if name == "see":
            return partial(learning.vision_loss, self.pupil)
        return partial(learning.text_loss, self.pupil, frozen=name == "answer")

    def _maker(self, stage: Stage) -> Callable[[int], Lesson]:
        if self.config.vision is None:
            raise ValueError("scenes need eyes: give a configuration with a vision encoder")
        share = (self._group.rank(), self._group.size())
        return partial(
            make_lesson, stage, self.config.vision, self._tokenizer_file, self.seed, share
        )

    def _learn(self, stage: Stage, lesson: Lesson) -> dict[str, Any]:
        start = time.perf_counter()
        learning.set_rate(self.optimizer, rate_at(stage, self.step))
        (loss, right), gradients = self._gradients(lesson)
        gradients = nn.average_gradients(gradients, self._group)
        self.optimizer.update(self.pupil, gradients)
        mx.eval(self.pupil.parameters(), self.optimizer.state, loss, right)
        self.step += 1
        return {
            "stage": stage.name, "step": self.step, "steps": stage.steps, "loss": loss.item(),
            "right": right.tolist(), "seconds": time.perf_counter() - start,
        }  # fmt: skip

    def _log(self, record: dict[str, Any]) -> None:
        if self._group.rank() == 0:
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")

    def save(self) -> None:
        """Write the state, whole or not at all."""
        if self._group.rank():
            return
        trees = {"pupil": self.pupil.parameters(), "optimizer": self.optimizer.state}
        arrays: dict[str, mx.array] = dict(tree_flatten(trees))  # type: ignore[arg-type]
        place = {"stage": str(self.stage), "step": str(self.step), "seed": str(self.seed)}
        partial_file = self.folder / "partial.safetensors"
        mx.save_safetensors(str(partial_file), arrays, place)
        os.replace(partial_file, self.folder / "state.safetensors")

    def _restore(self) -> None:
        file = self.folder / "state.safetensors"
        arrays, place = _read_state(file)
        if int(place["seed"]) != self.seed:
            raise CheckpointError(
                f"{file}: began with seed {place['seed']}, not {self.seed}: give that seed, or "
                "another state folder"
            )
        self.stage, self.step = int(place["stage"]), int(place["step"])
        if self.stage < len(self.stages):
            self._begin_stage()
        self.pupil.load_weights(
            [(n.removeprefix("pupil."), a) for n, a in arrays.items() if n.startswith("pupil.")]
        )
        prefix = "optimizer."
        self.optimizer.state = tree_unflatten(
            [(n.removeprefix(prefix), a) for n, a in arrays.items() if n.startswith(prefix)]
        )
        self._forget_later_records()

    def _forget_later_records(self) -> None:
        """A run that was killed logged steps after its last state; they come again."""
        log = self.folder / "log.jsonl"
        if self._group.rank() or not log.is_file():
            return
        names = [stage.name for stage in self.stages]
        lines = log.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        now = (self.stage, self.step)
        kept = [
            line
            for line, record in zip(lines, records, strict=True)
            if (names.index(record["stage"]), record["step"]) <= now
        ]
        log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _begun_with(state: Path) -> int:
    """The seed in a state.

    Raises:
        CheckpointError: there is no state.
    """
    file = state / "state.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{state}: holds no training state; train first, or give its folder")
    return int(_read_state(file)[1]["seed"])


def _read_state(file: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    arrays, place = mx.load(str(file), return_metadata=True)  # type: ignore[misc]
    return dict(arrays), place  # type: ignore[arg-type,return-value]


def make_lesson(
    stage: Stage, vision: VisionConfig, tokenizer_file: Path, seed: int, share: tuple[int, int],
    step: int,
) -> Lesson:  # fmt: skip
    """The lesson of one step, for one of several processes.

    Arguments:
        share: (number of this process, how many there are).
        step: of the stage.
    """
    number = step * share[1] + share[0]
    if stage.name == "see":
        return vision_lesson(seed, number, vision, stage.budget)
    return text_lesson(
        seed, number if stage.name == "answer" else number + 10**6, vision,
        tokenizer=_words(tokenizer_file, vision), budget=stage.budget,
        progress=step / stage.steps if stage.name == "answer" else 1.0,
    )  # fmt: skip


_WORDS: dict[Path, Words] = {}


def _words(file: Path, vision: VisionConfig) -> Words:
    """One tokenizer a process; building it takes seconds."""
    if file not in _WORDS:
        _WORDS[file] = Words(Tokenizer(file, vision))
    return _WORDS[file]


def _divide_by_rms(pupil: learning.Pupil, lesson: Lesson) -> None:
    """Fold the size of the vision features into the projector, which then sees unit variance."""
    vision, projector = pupil.model.vision_encoder, pupil.model.projector
    if vision is None or projector is None:
        raise ValueError("the second stage needs a vision encoder and a projector")
    features = learning.encode_batch(vision, mx.array(lesson.pixels[0]))
    rms = float(np.sqrt(np.mean(np.square(np.array(features)))))
    projector.w_in.weight = projector.w_in.weight / rms
