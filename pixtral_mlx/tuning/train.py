"""The steps of a training: losses, gradients, Adam, validations and states on the disk."""

import math
import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import PixtralError
from ..model.vision_language_model import VisionLanguageModel
from .batches import make_batch, order_of
from .dataset import Example
from .loss import batch_loss
from .low_rank import adapter_of
from .options import TuningOptions
from .pictures import EncodedPictures
from .state import State, write_adapter_files, write_state
from .validation import Scores, scores

LONGEST_GRADIENT = 1.0
"""A longer one is made so long."""

Report = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with what is done ("reading", "training", "validating", then "validated"), how much of it,
of how much, and figures."""


class Training:
    """A model that learns from examples.

    Arguments:
        model: with low-rank matrices beside its linear layers, all else frozen.
        examples: to learn from, and to validate with.
        state: how far it has come; empty, or read from `folder`.
        folder: where states and the adapter are kept.
        about: further entries of `adapter_config.json`.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        examples: tuple[list[Example], list[Example]],
        pictures: EncodedPictures,
        options: TuningOptions,
        state: State,
        folder: Path,
        about: Mapping[str, Any],
    ):
        self.model, self.options, self.state, self.folder = model, options, state, folder
        self.train, self.valid = examples
        self._pictures, self._about = pictures, dict(about)
        vision = model.config.vision
        self._image_token = -1 if vision is None else vision.image_token_id
        self._lengths = [len(each.tokens) for each in self.train]
        self._order = lru_cache(maxsize=2)(
            partial(order_of, self._lengths, options.batch_size, options.seed)
        )
        again = options.grad_checkpoint
        self._gradient = nn.value_and_grad(model, lambda b: batch_loss(model, b, again))
        self._adam = optim.Adam(0.0, bias_correction=True)
        if state.learning:
            model.update(tree_unflatten([*state.learning.items()]))
        if state.moments:  # not before the first step
            self._adam.state = {
                **state.moments,
                "step": mx.array(state.step, mx.uint64),
                "learning_rate": mx.array(0.0),
            }
            self._adam._initialized = True
        state.learning = dict(tree_flatten(model.trainable_parameters()))

    def run(self, report: Report) -> None:
        """Go on to the last step; at the end, and at intervals, validate and save.

        Raises:
            PixtralError: the loss or the gradient is not a number; the last state stays.
        """
        state, options = self.state, self.options
        if not state.validations:
            self._validate(report)
            self.save()
        while state.step < options.iters:
            start = time.perf_counter()
            loss = self._step()
            state.step += 1
            seconds = time.perf_counter() - start
            state.steps.append({"step": state.step, "loss": loss, "seconds": round(seconds, 4)})
            last = state.step == options.iters
            report("training", state.step, options.iters, state.steps[-1])
            if last or state.step % options.steps_per_eval == 0:
                self._validate(report)
            if last or state.step % min(options.save_every, options.steps_per_eval) == 0:
                self.save()

    def scores(self, examples: list[Example]) -> Scores:
        """How well the model answers some examples now."""
        return scores(
            self.model,
            examples,
            self._pictures,
            batch_size=self.options.batch_size,
            image_token=self._image_token,
        )

    def save(self) -> None:
        """The state, and then the adapter, which a kill in between leaves one interval behind."""
        adam: Any = self._adam.state
        self.state.moments = {path: adam[path] for path in self.state.learning if path in adam}
        write_state(self.folder, self.state)
        adapter = adapter_of(self.model)
        write_adapter_files(self.folder, adapter, self.model.config, self._about)

    def _validate(self, report: Report) -> None:
        report("validating", 0, 0, {})
        found = self.scores(self.valid)
        if not self.state.validations:
            self.state.right = list(found.right)
        record = {"step": self.state.step, "loss": found.loss, "accuracy": found.accuracy}
        self.state.validations.append(record)
        self.last = found
        report("validated", self.state.step, self.options.iters, record)

    def _step(self) -> float:
        """One step of Adam; the mean loss over the tokens of its answers, in nats."""
        total, count, gradients = 0.0, 0, dict[str, mx.array]()
        for part in range(self.options.grad_accumulation_steps):
            batch = make_batch(self._examples(part), self._pictures, self._image_token)
            loss, found = self._gradient(batch)
            flat: Any = tree_flatten(found)
            gradients = {name: g + gradients[name] if gradients else g for name, g in flat}
            mx.eval(loss, gradients)
            total, count = total + float(loss.item()), count + len(batch.targets)
        gradients = {name: g / count for name, g in gradients.items()}
        length: Any
        gradients, length = optim.clip_grad_norm(gradients, LONGEST_GRADIENT)
        if not (math.isfinite(total) and math.isfinite(length.tolist())):
            kept = self.state.step - self.state.step % min(
                self.options.save_every, self.options.steps_per_eval
            )
            raise PixtralError(
                f"step {self.state.step + 1}: the loss or its gradient is not a number; the "
                f"adapter of step {kept} is kept: a smaller --learning-rate or --scale helps"
            )
        rate = self.options.rate_at(self.state.step, self.model.config.text.dim)
        self._adam.learning_rate = mx.array(rate)
        self.state.learning = self._adam.apply_gradients(gradients, self.state.learning)
        self.model.update(tree_unflatten([*self.state.learning.items()]))
        mx.eval(self.state.learning, self._adam.state)
        return total / count

    def _examples(self, part: int) -> list[Example]:
        """Those of one batch of the next step."""
        batches = -(-len(self.train) // self.options.batch_size)
        number = self.state.step * self.options.grad_accumulation_steps + part
        epoch, place = divmod(number, batches)
        return [self.train[i] for i in self._order(epoch)[place]]
