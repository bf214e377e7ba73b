"""How many prompt tokens a step reads: as many as asked for, fewer where a GPU takes too long.

macOS may end the process, with SIGABRT, when a GPU works too long at a stretch while the display is
on (ml-explore/mlx issue 3267). So on a GPU a step begins at the size that should take half of
`GPU_JOB_SECONDS`, by arithmetic, and becomes smaller when the clock says that it takes longer.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import mlx.core as mx

from ..model.config import PixtralConfig, TextConfig
from ..model.device import on_gpu
from .chips import this_chip
from .cost import decoder_operations, prefill_operations
from .machine import GPU_JOB_SECONDS

STEP_SECONDS = GPU_JOB_SECONDS / 2
SHARE_OF_PEAK = 0.5
"""Of a GPU's operations per second that a prefill is taken to reach; an estimate."""
FEWEST_TOKENS = 32
"""A step below this reads the weights too often to be worth while."""


class Pace:
    """The steps in which one prompt is read.

    Sizes are `most` halved some times, and never grow again: steps of another size round otherwise,
    so that they change as seldom as possible.

    Arguments:
        config: of the decoder.
        most: tokens a step at most.

    `size` is that of the next step.
    """

    def __init__(self, config: TextConfig, most: int):
        self.size, self._paused = most, 0.0
        if on_gpu():
            self._halve(expected_seconds(config, most))

    def parts(self, tokens: int) -> Iterator[slice]:
        """Slices of `tokens` positions, one after the other; the time until the next one is asked
        for, without pauses, is what a step took."""
        done = 0
        while done < tokens:
            part, start = slice(done, min(done + self.size, tokens)), time.perf_counter()
            self._paused = 0.0
            yield part
            done = part.stop
            if on_gpu() and part.stop - part.start == self.size:
                self._halve(time.perf_counter() - start - self._paused)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Meanwhile others compute."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def _halve(self, seconds: float) -> None:
        """As often as a step of this size, which takes so many seconds, needs it."""
        while seconds > STEP_SECONDS and self.size >= 2 * FEWEST_TOKENS:
            self.size, seconds = self.size // 2, seconds / 2


def expected_seconds(config: TextConfig, tokens: int) -> float:
    """An estimate of how long this machine's GPU takes to read so many tokens; 0 if its chip is not
    in the table."""
    chip = this_chip(str(mx.device_info().get("device_name", "")))
    if chip is None:
        return 0.0
    return decoder_operations(config, tokens) / (SHARE_OF_PEAK * chip.operations_per_second)


class Speed(NamedTuple):
    """How fast prompts are expected to be read.

    Arguments:
        per_second: operations, a multiplication and an addition being two.
        source: what the estimate comes from, for people.
    """

    per_second: float
    source: str


def run_seconds(
    config: PixtralConfig,
    tokens: int,
    grids: Sequence[tuple[int, int]],
    *,
    step_bytes: float,
    steps: int,
    per_second: float,
    bandwidth: float,
) -> float:
    """An estimate of how long a prompt and its answer take: the prefill by its operations, a decode
    step by its operations or by the bytes that it reads, whichever takes longer.

    Arguments:
        config: of the model.
        tokens, grids: of the prompt, as for `prefill_operations`.
        step_bytes: that a decode step reads.
        steps: tokens of the answer.
        per_second: operations, see `operations_per_second`.
        bandwidth: of the memory, in bytes per second.
    """
    step = max(decoder_operations(config.text, 1) / per_second, step_bytes / bandwidth)
    return prefill_operations(config, tokens, grids) / per_second + steps * step


def operations_per_second() -> Speed:
    """An estimate for this machine: of a chip in the table from its published numbers, of another
    one from a multiplication of matrices (0.1 s)."""
    name = str(mx.device_info().get("device_name", ""))
    chip = this_chip(name) if on_gpu() else None
    if chip is not None:
        return Speed(SHARE_OF_PEAK * chip.operations_per_second, f"what an {name} is")
    side = 1024
    matrix = mx.ones((side, side), mx.bfloat16 if on_gpu() else mx.float32)
    mx.eval(matrix @ matrix)
    start = time.perf_counter()
    mx.eval(matrix @ (matrix @ matrix))
    seconds = time.perf_counter() - start
    return Speed(SHARE_OF_PEAK * 4 * side**3 / seconds, "how fast it multiplies matrices")
