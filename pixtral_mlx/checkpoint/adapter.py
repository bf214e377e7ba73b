"""Adapters: small matrices beside those of a model (LoRA, DoRA), which stays as it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..checks import listed
from ..errors import CheckpointError
from ..files import expanded
from ..model.threads import for_any_thread
from .checkpoint import Precision
from .names import ADAPTERS, SHIPPED_ADAPTERS, shown_name


class LowRank(NamedTuple):
    """What stands beside one matrix.

    Arguments:
        a: shape (inputs, rank).
        b: shape (rank, outputs), in our row order.
        m: the lengths of the rows, shape (outputs,), of DoRA; None for LoRA.
    """

    a: mx.array
    b: mx.array
    m: mx.array | None = None

    def astype(self, kind: mx.Dtype | None) -> "LowRank":
        """The same in another type; None is as it is."""
        if kind is None:
            return self
        return LowRank(*(None if part is None else part.astype(kind) for part in self))  # type: ignore


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter whose parts fit one model.

    Arguments:
        matrices: {our module path: LowRank}.
        scale: what the product of the two matrices is multiplied by.
        name: what to call it.
        identity: tells it from every other, for what is kept of a model that computes with it.
    """

    matrices: Mapping[str, LowRank]
    scale: float
    name: str = ""
    identity: str = ""

    @property
    def kind(self) -> str:
        """ "lora" or "dora"."""
        return "dora" if any(each.m is not None for each in self.matrices.values()) else "lora"

    @property
    def rank(self) -> int:
        """Of every pair of matrices."""
        return next(iter(self.matrices.values())).b.shape[0]

    def put_on(self, model: nn.Module, kinds: Precision | None = None) -> None:
        """Let a model compute with it; nothing of the model's own changes.

        Arguments:
            kinds: in which types to compute; None is as stored.
        """
        with for_any_thread():
            pairs = []
            modules = dict(model.named_modules())
            for path, parts in self.matrices.items():
                kind = None if kinds is None else kinds.of(path)
                pairs.append((path, beside(modules[path], self.scale, parts.astype(kind))))
            model.update_modules(tree_unflatten(pairs))
        model.eval()


def beside(linear: Any, scale: float, parts: LowRank) -> nn.Module:
    """mlx-lm's layer around a linear one, which stays as it is inside.

    Arguments:
        parts: LoRA, or with `m` DoRA.
    """
    # mlx-lm costs 1.7 s to import, so that comes with the first adapter.
    from mlx_lm.tuner.dora import DoRALinear
    from mlx_lm.tuner.lora import LoRALinear

    kind = LoRALinear if parts.m is None else DoRALinear
    # `from_base` mistakes the width of 3, 5 and 6 bits for DoRA; what it makes goes at once.
    layer: Any = kind.from_base(linear, r=parts.b.shape[0], scale=scale)
    layer.lora_a, layer.lora_b = parts.a, parts.b
    if parts.m is not None:
        layer.m = parts.m
    return layer


def adapter_folder(model: str | PathLike[str], adapter: str | PathLike[str]) -> Path:
    """The folder that an adapter's name means: itself, or, for "mini", one that comes with it.

    Raises:
        CheckpointError: no such folder.
    """
    is_mini = shown_name(model) == "pixtral-mini"
    if is_mini and str(adapter) in SHIPPED_ADAPTERS:
        return ADAPTERS / str(adapter)
    folder = expanded(adapter)
    if not str(adapter) or not folder.is_dir():
        named = f", or {listed(SHIPPED_ADAPTERS)}" if is_mini else ""
        raise CheckpointError(f"{str(adapter)!r}: no such folder; give an adapter folder{named}")
    return folder
