"""One layer of each part at Pixtral 12B's width with random weights: does this device compute it
correctly, and how long does it take?

What a small model never meets is met here: Metal's fused attention for heads of 64 and 128, and
its quantized matrix-vector kernel for widths that are multiples of 512. Sampled rows are compared
with NumPy's float64 (`exact_layer`), and on a GPU some layers whole with MLX on the CPU.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..cost.machine import machine
from ..model import device
from ..model.config import PIXTRAL_12B, PIXTRAL_12B_VISION, TextConfig, VisionConfig
from ..model.decoder import DecoderBlock
from ..model.rope import Rope2D
from ..model.vision import VisionBlock
from . import exact_layer
from .check import FAIL, OK, SKIPPED, Check

_TEXT, _VISION = PIXTRAL_12B.text, PIXTRAL_12B_VISION
_WIDTHS = {
    "vision": f"{_VISION.num_attention_heads} heads of {_VISION.head_dim}",
    "text": f"4 bits, {_TEXT.n_heads}/{_TEXT.n_kv_heads} heads of {_TEXT.head_dim}",
}

SHORT, LONG = 300, 4096
"""Tokens of context, and patches of an image: a small one of 15 x 20, the largest of 64 x 64."""
GRIDS = {64: (8, 8), SHORT: (15, 20), LONG: (64, 64)}
CHUNK = 512
"""Prompt tokens a step by default."""
DRAFT = 8
"""Queries of a step that checks a draft of seven."""

SHARPNESS = 3.0
"""Standard deviation of the attention's scores. At 1 a row would be the mean of thousands of values
and nearly zero, and no error of the attention would show."""
SAMPLED = 16
"""Rows that are compared with float64, beside the last ones."""

ROPE_ERROR = 2e-3
"""Allowed beside the products' own error where nothing is rounded: a float32 angle of 4,096 radians
is off by 2e-4, and Metal's `fast::sin` and `fast::cos` by as much again (a CPU measures 1e-4)."""
ROUNDING = {mx.bfloat16: 3e-2, mx.float16: 5e-3}
"""Allowed where activations are rounded between operations (a CPU measures 1.5e-2 in bfloat16)."""


class Case(NamedTuple):
    """One call of a layer.

    Arguments:
        part: "vision" or "text".
        dtype: of the activations; text matrices are in 4 bits, vision's as this.
        rows: patches, or tokens that are given at once.
        context: tokens before them, whose keys and values are in the cache.
    """

    part: str
    dtype: mx.Dtype
    rows: int
    context: int = 0

    def __str__(self) -> str:
        kind = str(self.dtype).rpartition(".")[2]
        if self.part == "vision":
            return f"vision {kind}, {self.rows:,} patches"
        behind = f" after {self.context:,}" if self.context else ""
        return f"text 4 bits {kind}, {self.rows:,} token{'s' * (self.rows > 1)}{behind}"


@dataclass(frozen=True)
class LayerCheck:
    """What one call gave.

    Arguments:
        name: of the case.
        seconds: of the best of some runs; of the only one on a CPU.
        error: of the worst sampled row against float64, relative to what the layer adds.
        cpu_error: of the worst of all rows against MLX on the CPU; None where that is what ran, or
            would take too long.
        allowed: the most of either.
    """

    name: str
    seconds: float
    error: float
    cpu_error: float | None
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether it is right; NaN is not."""
        return self.error <= self.allowed and (
            self.cpu_error is None or self.cpu_error <= self.allowed
        )

    def facts(self) -> dict[str, Any]:
        """All of it by name, for JSON."""
        return {**asdict(self), "passed": self.passed}


class TextLayer:
    """A decoder layer in 4 bits, and its exact output at some positions.

    A position sees only what is before it, so one exact row serves every call that computes it.

    Arguments:
        tokens: how long the sequence is; 300 or 4,096.
    """

    def __init__(self, config: TextConfig = PIXTRAL_12B.text, *, tokens: int = LONG):
        self.config, self.tokens = config, tokens
        self.block = DecoderBlock(config)
        nn.quantize(self.block, group_size=64, bits=4)
        fill(self.block, {"attention.wq": SHARPNESS})
        self.x = noise((tokens, config.dim), 1)
        ends = [end for end in (SHORT, LONG) if end <= tokens]
        self.sampled = sample(tokens, [n for end in ends for n in range(end - DRAFT, end)])

    @cached_property
    def exact(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `exact_layer.text_layer`."""
        x = exact_layer.as_float64(self.x)
        return exact_layer.text_layer(self.block, self.config, x, self.sampled)

    def __call__(self, case: Case) -> mx.array:
        """The layer's output for `case`, shape (rows, D); lazy."""
        from mlx_lm.models.base import create_attention_mask
        from mlx_lm.models.cache import KVCache

        self.block.set_dtype(case.dtype)
        cache = KVCache()
        if case.context:
            held = (each[:, : case.context] for each in self.exact[1:])
            cache.update_and_fetch(*(mx.array(each)[None].astype(case.dtype) for each in held))
        x = self.x[None, case.context : case.context + case.rows].astype(case.dtype)
        return self.block(x, create_attention_mask(x, cache), cache)[0]

    def wanted(self, case: Case) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Of the rows that are sampled: their numbers in the call, what they are given, and what
        they should give."""
        computed = range(case.context, case.context + case.rows)
        held = [i for i, position in enumerate(self.sampled) if position in computed]
        positions = [self.sampled[i] for i in held]
        given = exact_layer.as_float64(self.x[mx.array(positions)])
        return [position - case.context for position in positions], given, self.exact[0][held]


class VisionLayer:
    """An encoder layer, and its exact output at some patches."""

    def __init__(self, config: VisionConfig = PIXTRAL_12B_VISION):
        self.config, self.rope = config, Rope2D(config)
        self.block = VisionBlock(config)
        fill(self.block, {"attention.wq": SHARPNESS})

    def __call__(self, case: Case) -> mx.array:
        """The layer's output for `case`, shape (rows, D); lazy."""
        self.block.set_dtype(case.dtype)
        angles = self.rope.angles([GRIDS[case.rows]])
        x = noise((case.rows, self.config.hidden_size), 2).astype(case.dtype)
        return self.block(x, mx.cos(angles), mx.sin(angles), [case.rows])

    def wanted(self, case: Case) -> tuple[list[int], np.ndarray, np.ndarray]:
        """As of `TextLayer`."""
        patches = sample(case.rows, [0, case.rows - 1])
        x = exact_layer.as_float64(noise((case.rows, self.config.hidden_size), 2))
        grid = GRIDS[case.rows]
        exact = exact_layer.vision_layer(self.block, self.config, x, grid, patches)
        return patches, x[patches], exact


Layer = TextLayer | VisionLayer


def check_kernels() -> Iterator[Check]:
    """One check for each part and type, over all its sizes."""
    wanted = cases(gpu=device.on_gpu())
    pairs = zip(wanted, check_layers(wanted), strict=True)
    for (part, dtype), group in groupby(pairs, lambda pair: pair[0][:2]):
        kind = str(dtype).rpartition(".")[2]
        yield _kernel_check(f"{part} layer, {kind}", part, [layer for _, layer in group])
    left_out = set(cases(gpu=True)) - set(wanted)
    if left_out:
        text = (
            f"{len(left_out)} calls that take minutes on a CPU: 16 bits, and up to "
            f"{max(case.rows for case in left_out):,} patches or tokens at once"
        )
        yield Check("larger layers", SKIPPED, text)


def _kernel_check(name: str, part: str, group: list[LayerCheck]) -> Check:
    wrong = [layer for layer in group if not layer.passed]
    errors = [e for layer in group for e in (layer.error, layer.cpu_error) if e is not None]
    slowest = max(group, key=lambda layer: layer.seconds)
    text = (
        f"{_WIDTHS[part]}: {len(group) - len(wrong)} of {len(group)} sizes right, error "
        f"{max(errors):.1e} at most ({group[0].allowed:.1e} allowed); {slowest.name}: "
        f"{slowest.seconds:.2g} s"
    )
    facts = {"layers": [layer.facts() for layer in group]}
    if wrong:
        told = "; ".join(f"{layer.name}: error {layer.error:.1e}" for layer in wrong[:3])
        return Check(name, FAIL, f"{text}; wrong: {told}", "answers may be wrong: report it", facts)
    return Check(name, OK, text, "", facts)


def cases(*, gpu: bool) -> list[Case]:
    """What a GPU computes in seconds, or what a CPU does, where 16 bits and thousands of rows would
    take minutes."""
    decoded = [(1, SHORT - 1), (DRAFT, SHORT - DRAFT), (1, LONG - 1), (DRAFT, LONG - DRAFT)]
    if not gpu:
        few = [Case("vision", mx.float32, SHORT), Case("vision", mx.bfloat16, 64)]
        return few + [Case("text", mx.float32, *each) for each in decoded]
    read = [(SHORT, 0), (CHUNK, LONG - CHUNK), (LONG, 0)]
    pictures = [(kind, rows) for kind in (mx.bfloat16, mx.float32) for rows in (SHORT, LONG)]
    kinds = (mx.bfloat16, mx.float16, mx.float32)
    return [
        *(Case("vision", *each) for each in pictures),
        *(Case("text", kind, *each) for kind in kinds for each in decoded + read),
    ]


def check_layers(
    wanted: Sequence[Case], *, text: TextLayer | None = None, vision: VisionLayer | None = None
) -> Iterator[LayerCheck]:
    """Compute each case on MLX's default device and compare; one after the other, as asked for.

    Arguments:
        text, vision: the layers; made if None.
    """
    layers: dict[str, Layer] = {}
    for case in wanted:
        if case.part not in layers:
            layers["text"] = text or TextLayer()
            layers["vision"] = vision or VisionLayer()
        yield check_layer(layers[case.part], case)


def check_layer(layer: Layer, case: Case) -> LayerCheck:
    """Compute one case on MLX's default device and compare."""
    rows, given, exact = layer.wanted(case)
    seconds, found = timed(layer, case)
    cpu_error = None
    if (
        device.on_gpu()
        and case.dtype == mx.float32
        and case.rows <= (DRAFT if case.part == "text" else LONG)
    ):
        with mx.stream(mx.cpu), device.assumed(gpu=False):
            other = exact_layer.as_float64(layer(case))
        cpu_error = worst(exact_layer.as_float64(found), other, np.zeros(1))
    error = worst(exact_layer.as_float64(found)[rows], exact, given)
    return LayerCheck(str(case), seconds, error, cpu_error, allowed(case.dtype))


def allowed(dtype: mx.Dtype) -> float:
    """The largest relative error of a layer, by what is rounded and how products are computed."""
    return ROUNDING.get(dtype, ROPE_ERROR) + 10 * machine().float32_error


def worst(found: np.ndarray, exact: np.ndarray, given: np.ndarray) -> float:
    """The largest error of a row, relative to what a layer adds to it."""
    errors = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact - given, axis=1)
    return float(errors.max())


def timed(layer: Layer, case: Case) -> tuple[float, mx.array]:
    """Seconds of the best of four runs on a GPU, where the first compiles; of one on a CPU."""
    best, found = float("inf"), mx.zeros(0)
    for _ in range(4 if device.on_gpu() else 1):
        mx.eval(layer.block.parameters())
        start = time.perf_counter()
        found = layer(case)
        mx.eval(found)
        best = min(best, time.perf_counter() - start)
    return best, found


def sample(count: int, always: Sequence[int]) -> list[int]:
    """Some of `count` rows, in order."""
    some = np.random.default_rng(0).choice(count, min(count, SAMPLED), replace=False)
    return sorted({*map(int, some), *always})


def noise(shape: Sequence[int], seed: int) -> mx.array:
    """Normal numbers that every type holds exactly: bfloat16's, given as float32."""
    random = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return mx.array(random).astype(mx.bfloat16).astype(mx.float32)


def fill(block: nn.Module, gains: dict[str, float]) -> None:
    """Random weights of which bfloat16 holds each exactly; a matrix keeps the size of what it is
    given, or multiplies it by its gain.

    Scales and biases differ from group to group, so that a mistake in their places shows.
    """
    random, arrays = np.random.default_rng(3), []
    leaves: Any = tree_flatten(block.parameters())
    shapes = {name: tuple(array.shape) for name, array in leaves}
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        if len(shape) == 1:
            values = 1 + random.standard_normal(shape) / 8
        elif f"{module}.scales" not in shapes:
            gain = gains.get(module, 1) / shape[1] ** 0.5
            values = gain * random.standard_normal(shape, np.float32)
        elif kind == "weight":
            arrays.append((name, mx.array(random.integers(0, 2**32, shape, np.uint32))))
            continue
        else:
            # Integers of 4 bits have a mean of 7.5 and a standard deviation of 4.6.
            step = gains.get(module, 1) / (4.6 * (64 * shape[1]) ** 0.5)
            values = step * random.uniform(0.5, 1.5, shape)
            values = values if kind == "scales" else -7.5 * values
        arrays.append((name, mx.array(values.astype(np.float32)).astype(mx.bfloat16)))
    block.load_weights(arrays)
