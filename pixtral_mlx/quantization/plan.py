"""Which matrix gets how many bits: a plan, decided before one weight is read.

Only two-dimensional weights are quantized, in groups of consecutive values of a row; norms, biases
and the patch convolution stay as they are. Nothing here touches a file or an array: `plan` takes
names and shapes, and `conversion` carries the answer out.

    print(format_plan(plan(tensors, ConversionOptions(bits=4))))
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

from ..checkpoint import layouts
from ..checkpoint.scheme import AFFINE_GROUPS, DTYPES, RECIPES, Scheme
from ..errors import ConfigError
from ..model.config import PixtralConfig
from ..tables import format_bytes, format_share, format_table
from .options import ConversionOptions


class Output(NamedTuple):
    """One tensor of the converted folder: its name, safetensors dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one tensor.

    Arguments:
        name: our parameter name, such as `decoder.layers.0.attention.wq.weight`.
        theirs: its name in the converted folder (mlx-vlm's).
        shape: sizes in our module.
        scheme: how it is quantized, or None.
        dtype: its type if kept, else that of its scales and biases; a key of `DTYPES`.
        reason: why it is kept; empty for a quantized one.
    """

    name: str
    theirs: str
    shape: tuple[int, ...]
    scheme: Scheme | None
    dtype: str
    reason: str = ""

    def outputs(self) -> tuple[Output, ...]:
        """The tensors written: one, or weight, scales and (affine only) biases."""
        kind, item = DTYPES[self.dtype]
        if self.scheme is None:
            return (Output(self.theirs, kind, self.shape, prod(self.shape) * item),)
        bits, group, mode = self.scheme
        rows, columns = self.shape
        packed, groups = (rows, columns * bits // 32), (rows, columns // group)
        stem = self.theirs.removesuffix(".weight")
        weight = Output(self.theirs, "U32", packed, prod(packed) * 4)
        if mode != "affine":
            return weight, Output(f"{stem}.scales", "U8", groups, prod(groups))
        size = prod(groups) * item
        scales, biases = (Output(f"{stem}.{n}", kind, groups, size) for n in ("scales", "biases"))
        return weight, scales, biases

    @property
    def nbytes(self) -> int:
        """Bytes written for this tensor."""
        return sum(output.nbytes for output in self.outputs())

    @property
    def action(self) -> str:
        """One phrase for tables: the scheme, or the dtype and why it is kept."""
        return str(self.scheme) if self.scheme else f"{self.dtype} ({self.reason})"


@dataclass(frozen=True)
class Plan:
    """What becomes of every tensor, in the order in which they are written."""

    tensors: tuple[TensorPlan, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors written, headers not counted."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(prod(tensor.shape) for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits written for each weight, scales and biases included."""
        return 8 * self.nbytes / self.parameters

    def quantization(self) -> dict[str, Any] | None:
        """The `quantization` entry of `config.json`, or None when nothing is quantized.

        The scheme of most weights stands at the top; every other matrix has an entry of its own
        under its module's path. Kept matrices need none: readers look for their `.scales`.
        """
        weights: dict[Scheme, int] = {}
        for tensor in self.tensors:
            if tensor.scheme:
                weights[tensor.scheme] = weights.get(tensor.scheme, 0) + prod(tensor.shape)
        if not weights:
            return None
        default = max(weights, key=lambda scheme: weights[scheme])
        entries = default.entry()
        for tensor in self.tensors:
            # mlx-vlm skips a matrix whose size is not a multiple of 64 unless it has an entry.
            odd = prod(tensor.shape) % 64 != 0
            if tensor.scheme and (tensor.scheme != default or odd):
                entries[tensor.theirs.removesuffix(".weight")] = tensor.scheme.entry()
        return entries


def plan(tensors: Iterable[tuple[str, str, tuple[int, ...]]], options: ConversionOptions) -> Plan:
    """Decide for every tensor.

    Arguments:
        tensors: (our name, name in the converted folder, shape) in writing order.
        options: what was asked for.

    Raises:
        ConfigError: something was to be quantized and no matrix fits the group size; the line
        names the sizes that fit.
    """
    tensors = list(tensors)
    layers = 1 + max((_layer(name) for name, _, _ in tensors), default=-1)
    planned = tuple(_plan_one(*tensor, options, layers) for tensor in tensors)
    matrices = [name for name, _, shape in tensors if _is_matrix(name, shape)]
    asked = any(_part_scheme(name, options, layers) for name in matrices)
    if asked and not any(tensor.scheme for tensor in planned):
        raise ConfigError(_nothing_fits(planned, options, layers))
    return Plan(planned, options.dtype)


def plan_for(config: PixtralConfig, options: ConversionOptions) -> Plan:
    """What a conversion of a model of these sizes writes; no file is needed.

    Raises:
        ConfigError: as for `plan`.
    """
    target = as_written(config)
    table = layouts.to_ours(layouts.written_layout(target), target)
    shapes = layouts.shapes(target)
    return plan([(name, table[name].theirs, shapes[name]) for name in in_order(table)], options)


def as_written(config: PixtralConfig) -> PixtralConfig:
    """The sizes of the output. mlx-vlm's Pixtral always has an output matrix and projector biases:
    a tied output is written out, and missing biases become zeros. Its Mistral 3 is as stated."""
    if config.vision is None or config.vision.merges:
        return config
    text = replace(config.text, tied_embeddings=False)
    return replace(config, text=text, vision=replace(config.vision, adapter_bias=True))


def in_order(names: Iterable[str]) -> list[str]:
    """Layer by layer, as the computation goes; the tables go name by name."""
    places: dict[str, int] = {}

    def place(name: str) -> tuple[int, int]:
        block, _, rest = name.partition(".layers.")
        layer = int(rest.split(".")[0]) if rest else 0
        return places.setdefault(f"{block}.layers" if rest else name, len(places)), layer

    return sorted(names, key=place)


def format_plan(plan: Plan) -> str:
    """The plan for people: what it comes to, each part, and then every tensor."""
    quantized = sum(prod(tensor.shape) for tensor in plan.tensors if tensor.scheme)
    head = (
        f"{plan.parameters:,} weights, {format_share(quantized / plan.parameters)} of them "
        f"quantized: {format_bytes(plan.nbytes)}, {plan.bits_per_weight:.2f} bits per weight"
    )
    rows = [("tensor", "shape", "becomes", "size")]
    for tensor in plan.tensors:
        shape = " x ".join(map(str, tensor.shape))
        rows.append((tensor.name, shape, tensor.action, format_bytes(tensor.nbytes)))
    return "\n".join([head, "", *format_table(_summary(plan)), "", *format_table(rows)])


def _summary(plan: Plan) -> list[tuple[str, ...]]:
    """A row for each part of the model and each way in which its tensors are stored."""
    found: dict[tuple[str, str], list[TensorPlan]] = {}
    for tensor in plan.tensors:
        part = tensor.name.partition(".")[0].replace("_", " ")
        found.setdefault((part, tensor.action), []).append(tensor)
    rows = [("part", "tensors", "weights", "become", "size")]
    for (part, action), tensors in found.items():
        weights = sum(prod(tensor.shape) for tensor in tensors)
        size = format_bytes(sum(tensor.nbytes for tensor in tensors))
        rows.append((part, f"{len(tensors):,}", f"{weights:,}", action, size))
    return rows


def _layer(name: str) -> int:
    """The number of the decoder layer a tensor belongs to, or -1."""
    found = re.match(r"decoder\.layers\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and name.endswith(".weight")


def _part_scheme(name: str, options: ConversionOptions, layers: int) -> Scheme | None:
    """What was asked for this matrix, whether or not its width fits."""
    if name.startswith("vision_encoder."):
        return options.vision
    if name.startswith("projector."):
        return options.projector
    if name == "decoder.tok_embeddings.weight":
        return options.embedding
    if name == "decoder.output.weight":
        return options.head
    scheme = options.text
    if scheme and options.recipe and name.endswith((".wv.weight", ".w2.weight")):
        layer, eighth = _layer(name), layers // 8
        if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
            return scheme._replace(bits=RECIPES[options.recipe].high)
    return scheme


def _plan_one(
    name: str, theirs: str, shape: tuple[int, ...], options: ConversionOptions, layers: int
) -> TensorPlan:
    scheme, reason = None, ""
    if not _is_matrix(name, shape):
        reason = "not a matrix"
    elif (scheme := _part_scheme(name, options, layers)) is None:
        reason = "as asked"
    elif shape[1] % scheme.group_size:
        reason = f"width {shape[1]} is not a multiple of {scheme.group_size}"
        scheme = None
    return TensorPlan(name, theirs, tuple(shape), scheme, options.dtype, reason)


def _nothing_fits(planned: tuple[TensorPlan, ...], options: ConversionOptions, layers: int) -> str:
    """The error line for a plan in which no width fits."""
    matrices = [t for t in planned if _is_matrix(t.name, t.shape)]
    wanted = [t for t in matrices if _part_scheme(t.name, options, layers)]
    widths = sorted({t.shape[1] for t in wanted})
    groups = {s.group_size for t in wanted if (s := _part_scheme(t.name, options, layers))}
    fits = [g for g in AFFINE_GROUPS if any(width % g == 0 for width in widths)]
    if fits:
        advice = f"use --mode affine with --group-size {' or '.join(map(str, fits))}"
    elif any(width % 16 == 0 for width in widths):
        advice = "only groups of 16 fit: use --mode nvfp4"
    else:
        advice = "no group size fits: use --bits 16 to keep every weight"
    return (
        f"nothing can be quantized in groups of {', '.join(map(str, sorted(groups)))}: "
        f"the matrices are {', '.join(map(str, widths))} wide; {advice}"
    )
