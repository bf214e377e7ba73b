"""The nine stages of training, one step after another, resumable at any of them.

1. `see`: the vision encoder alone names what each patch and its neighbour show.
2. `answer`: projector and decoder learn to answer; the vision encoder stays as it is.
3. `count`: the same, and half of the questions are about numbers, which take longest to learn.
4. `settle`: the same at a lower rate, with fewer of them.
5. `round`: half of the lessons with weights rounded to 4 bits, so that a conversion loses little.
6. `finish`: the same at a lower rate, with fewer numbers, and rounded in smaller groups too.
7. `average`: the same at a level rate, with numbers up to those that scenes ask for. It ends with
   the mean of the weights that it went through, which is more often right than any of them
   (Izmailov et al., 2018).
8. `converse`: most questions come after others about the same pictures, and every answer of such a
   conversation is learnt.
9. `anneal`: the same at a low rate that falls to nothing, three of four lessons rounded: weights
   that rounding does not hurt need not have a mean that it does not hurt.

Weights that are trained already go through `heads`, in which the throw-away heads alone learn
again, and through the last two.

The state folder holds `state.safetensors` (weights, optimizer, step), `log.jsonl` and the curves.
Started by `mlx.launch`, several processes share the work: each takes a lesson of its own.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from ..checkpoint.folder import load_config
from ..errors import CheckpointError
from ..inputs.tokenizer import Tokenizer
from ..model.config import PixtralConfig, VisionConfig
from . import learning
from .export import take_weights
from .lessons import (
    Feeder,
    Lesson,
    Words,
    text_lesson,
    text_random,
    text_scenes,
    vision_layouts,
    vision_lesson,
)
from .questions import HIGHEST
from .scene_layout import Layout
from .scenes import COUNTED
from .state import (
    STATE_FILE,
    State,
    forget_later_records,
    read_state,
    write_record,
    write_state,
)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Arguments:
        name: one of those above.
        steps: of the optimizer.
        rate: highest learning rate of the matrices; others move at a tenth.
        budget: patches ("see") or tokens in one lesson, about.
        lessons: that one step learns from. Each has another grid shape; a step with one shape only
            would teach to give that shape's number of rows to every question.
        counting: how much more often than usual it is asked to count.
        most: counts go up to this number.
        earlier: up to so many questions and answers come before each question.
    """

    name: str
    steps: int
    rate: float
    budget: int
    lessons: int = 1
    counting: float = 1.0
    most: int = HIGHEST
    earlier: int = 0


LAST = (
    Stage("converse", 2400, 0.006, 1500, 4, counting=2.0, most=COUNTED, earlier=6),
    Stage("anneal", 700, 0.003, 1500, 4, counting=3.0, most=COUNTED, earlier=6),
)

STAGES = (
    Stage("see", 600, 0.02, 1500),
    Stage("answer", 3000, 0.015, 1500, 4),
    Stage("count", 900, 0.008, 1500, 4, counting=3.0),
    Stage("settle", 550, 0.006, 1500, 4, counting=2.0),
    Stage("round", 800, 0.006, 1500, 4, counting=3.0),
    Stage("finish", 600, 0.004, 1500, 4, counting=2.5),
    Stage("average", 2000, 0.006, 1500, 4, counting=3.0, most=COUNTED),
    *LAST,
)
"""What the bundled checkpoint went through."""

CONTINUED = (Stage("heads", 150, 0.05, 1500, most=COUNTED), *LAST)
"""What weights go through that are trained already; another seed gives them new lessons."""

FIRST_LESSON = {
    "answer": 0, "count": 10**6, "settle": 2 * 10**6, "heads": 3 * 10**6, "round": 4 * 10**6,
    "finish": 5 * 10**6, "average": 6 * 10**6, "anneal": 7 * 10**6,
    "converse": 8 * 10**6,
}  # fmt: skip
"""Numbers of lessons, so that no stage sees those of another."""

ROUNDED: dict[str, tuple[int | None, ...]] = {
    "round": (None, 64), "finish": (None, 64, None, 32), "average": (None, 64, None, 32),
    "anneal": (None, 64, 32, 64),
}  # fmt: skip
"""Stages with rounded weights: the sizes of the groups in the lessons of a step; None is exact."""

WARM_UP = 100
"""Steps until the full rate."""

SAVE_EVERY = 100


def rate_at(stage: Stage, step: int) -> float:
    """Up in `WARM_UP` steps, level to the middle, then down in a straight line to almost zero;
    level to the end where weights are averaged."""
    left = 1.0 if stage.name == "average" else 1 - step / stage.steps
    return stage.rate * min((step + 1) / WARM_UP, 1.0, max(left / 0.6, 0.01))


class Course:
    """One training run.

    Arguments:
        folder: of the run; continued if it holds a state.
        tokenizer_file: the checkpoint's.
        config: sizes of a new run; None for those of `weights`, or of pixtral-mini.
        stages: what is done, in this order.
        seed: of weights and lessons; None takes the one that the state began with.
        workers: processes that draw lessons.
        weights: checkpoint folder to begin with instead of chance.

    Raises:
        CheckpointError: the state began with another seed, or there is none and `seed` is None.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer_file: Path,
        *,
        config: PixtralConfig | None = None,
        stages: tuple[Stage, ...] = STAGES,
        seed: int | None = 0,
        workers: int = 1,
        weights: Path | None = None,
    ):
        self.folder, self.stages, self.workers = folder, stages, workers
        self._tokenizer_file = tokenizer_file
        self._group = mx.distributed.init()
        begun = (folder / STATE_FILE).is_file()
        state = read_state(folder) if begun or seed is None else None
        if state is not None:
            if seed not in (None, state.seed):
                raise CheckpointError(
                    f"{folder}: began with seed {state.seed}, not {seed}: give that seed, or "
                    "another state folder"
                )
            seed, config = state.seed, state.config
        elif config is None:
            config = load_config(weights) if weights else _new_config(tokenizer_file)
        self.seed, self.config = seed or 0, config
        mx.random.seed(self.seed)
        self.pupil = learning.Pupil(self.config)
        if weights is not None:
            take_weights(self.pupil, weights)
        self.stage, self.step = 0, 0
        self._begin_stage()
        if state is not None:
            self._restore(state)

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
            lessons = feeder.lessons(self.step * stage.lessons, stage.steps * stage.lessons)
            while self.step < stage.steps:
                record = self._learn(stage, [next(lessons) for _ in range(stage.lessons)])
                if self._group.rank() == 0:
                    write_record(self.folder, record)
                if report:
                    report(record)
                if self.step % SAVE_EVERY == 0 or self.step == stage.steps:
                    self.save()
            if stage.name == "see":
                _divide_by_rms(self.pupil, self._maker(stage)(0))
            if stage.name == "average":
                self.pupil.update(self._mean)
            self.stage, self.step = self.stage + 1, 0
            if self.stage < len(self.stages):
                self._begin_stage()
            self.save()

    def _begin_stage(self) -> None:
        """Choose what moves, and start its optimizer afresh."""
        name = self.stages[self.stage].name
        model = self.pupil.model
        self.pupil.unfreeze()
        if name == "see":
            model.projector.freeze()  # type: ignore[union-attr]
            model.decoder.freeze()
        elif name == "heads":
            model.freeze()
        else:
            model.vision_encoder.freeze()  # type: ignore[union-attr]
        self.optimizer = learning.make_optimizer()
        self.optimizer.init(self.pupil.trainable_parameters())
        self._mean: dict[str, Any] = {}
        # Lessons take turns among the losses.
        self._gradients = [nn.value_and_grad(self.pupil, loss) for loss in self._losses(name)]

    def _losses(self, name: str) -> list[Callable[[Lesson], tuple[mx.array, mx.array]]]:
        if name == "see":
            return [partial(learning.vision_loss, self.pupil)]
        plain = partial(learning.text_loss, self.pupil)
        rounded = partial(learning.rounded_text_loss, self.pupil)
        sizes = ROUNDED.get(name, (None,))
        return [partial(rounded, group_size=size) if size else plain for size in sizes]

    def _maker(self, stage: Stage) -> Callable[[int], Lesson]:
        if self.config.vision is None:
            raise ValueError("scenes need eyes: give a configuration with a vision encoder")
        share = (self._group.rank(), self._group.size())
        return partial(
            make_lesson, stage, self.config.vision, self._tokenizer_file, self.seed, share
        )

    def _learn(self, stage: Stage, lessons: list[Lesson]) -> dict[str, Any]:
        start = time.perf_counter()
        learning.set_rate(self.optimizer, rate_at(stage, self.step))
        turns = itertools.cycle(self._gradients)
        found = [gradients(lesson) for lesson, gradients in zip(lessons, turns, strict=False)]
        mean = partial(tree_map, lambda *each: sum(each) / len(each))
        (loss, right), gradients = mean(*found)
        gradients = nn.average_gradients(gradients, self._group)
        self.optimizer.update(self.pupil, gradients)
        self.step += 1
        if stage.name == "average":
            self._average(self.step - stage.steps // 4)
        mx.eval(self.pupil.parameters(), self.optimizer.state, self._mean, loss, right)
        return {
            "stage": stage.name, "step": self.step, "steps": stage.steps, "loss": loss.item(),
            "right": right.tolist(), "seconds": time.perf_counter() - start,
        }  # fmt: skip

    def _average(self, number: int) -> None:
        """Let the present weights, the `number`-th of them, into their mean."""
        if number == 1:
            self._mean = self.pupil.trainable_parameters()
        elif number > 1:
            self._mean = tree_map(
                lambda mean, now: mean + (now - mean) / number,
                self._mean, self.pupil.trainable_parameters(),
            )  # fmt: skip

    def save(self) -> None:
        """Write the state."""
        if self._group.rank() == 0:
            trees = {"pupil": self.pupil.parameters(), "optimizer": self.optimizer.state}
            if self._mean:
                trees["mean"] = self._mean
            write_state(self.folder, State(self.config, self.seed, self.stage, self.step, trees))

    def _restore(self, state: State) -> None:
        self.stage, self.step = state.stage, state.step
        if self.stage < len(self.stages):
            self._begin_stage()
        self.pupil.update(state.trees["pupil"])
        self.optimizer.state = state.trees["optimizer"]
        self._mean = state.trees.get("mean", {})
        if self._group.rank() == 0:
            names = [stage.name for stage in self.stages]
            forget_later_records(self.folder, names, (self.stage, self.step))


def _new_config(tokenizer_file: Path) -> PixtralConfig:
    return learning.mini_config(Tokenizer(tokenizer_file).n_words)


def make_lesson(
    stage: Stage, vision: VisionConfig, tokenizer_file: Path, seed: int, share: tuple[int, int],
    lesson: int,
) -> Lesson:  # fmt: skip
    """One lesson, for one of several processes.

    Arguments:
        share: (number of this process, how many there are).
        lesson: its number in the stage.
    """
    number = lesson * share[1] + share[0]
    if stage.name == "see":
        return vision_lesson(seed, number, vision, stage.budget)
    return text_lesson(
        seed, number + FIRST_LESSON[stage.name], vision,
        tokenizer=_words(tokenizer_file, vision), budget=stage.budget,
        progress=_progress(stage, lesson), counting=stage.counting, most=stage.most,
        earlier=stage.earlier,
    )  # fmt: skip


def layouts(stage: Stage, seed: int, steps: int | None = None) -> Iterator[Layout]:
    """What the pictures show that a stage draws in one process: those of `make_lesson`, in order.

    Arguments:
        steps: the first so many; all if None.
    """
    for lesson in range((stage.steps if steps is None else steps) * stage.lessons):
        if stage.name == "see":
            yield from vision_layouts(seed, lesson, stage.budget)
            continue
        random = text_random(seed, lesson + FIRST_LESSON[stage.name])
        scenes = text_scenes(random, progress=_progress(stage, lesson), budget=stage.budget)[1]
        yield from itertools.chain.from_iterable(scenes)


def _progress(stage: Stage, lesson: int) -> float:
    """How far pictures have grown; see `text_lesson`."""
    return lesson / (stage.steps * stage.lessons) if stage.name == "answer" else 1.0


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
