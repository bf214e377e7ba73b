"""Pixtral with random weights, made in memory: to measure a machine without the real ones.

>>> random_model(PIXTRAL_12B)  # the full size in 4 bits, 7.7 GB
>>> random_model(scaled(PIXTRAL_12B, 0.1))
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from .checkpoint.checkpoint import fill, precision
from .checkpoint.layouts import module_of
from .checks import number
from .inputs.tokenizer_file import shipped_tekken
from .model.config import PixtralConfig
from .model.threads import for_any_thread
from .pixtral import Pixtral
from .quantization.options import ConversionOptions
from .quantization.plan import plan_for


def scaled(config: PixtralConfig, share: float) -> PixtralConfig:
    """The same widths with a share of the layers, at least one of each.

    Raises:
        ValueError: a share that is not above 0 and at most 1.
    """
    number("share", share, 0, 1, above=True)
    text = replace(config.text, n_layers=max(1, round(share * config.text.n_layers)))
    vision = config.vision
    if vision is not None:
        layers = max(1, round(share * vision.num_hidden_layers))
        vision = replace(vision, num_hidden_layers=layers)
    return PixtralConfig(text, vision)


def random_model(config: PixtralConfig, *, bits: int = 4, dtype: Any = None) -> Pixtral:
    """A model that answers with noise at the speed of a trained one.

    Matrices are quantized as a conversion would quantize them; weights come into being when they
    are first used, so that a check of memory comes before them.

    Arguments:
        config: the sizes; Pixtral 12B's tokenizer must fit them (131,072 words).
        bits: of the text matrices, as in `convert`.
        dtype: as for `load`; None is bfloat16.

    Raises:
        CheckpointError: mistral-common does not bring the tokenizer.
        ValueError: bits that cannot be.
    """
    kinds = precision(dtype)
    plan = plan_for(config, ConversionOptions(bits=bits))
    schemes = {module_of(tensor.name): tensor.scheme for tensor in plan.tensors if tensor.scheme}
    model = Pixtral(config, shipped_tekken())

    def weights() -> Iterator[tuple[str, mx.array]]:
        leaves: Any = tree_flatten(model.parameters())  # in their quantized shapes by then
        for name, array in leaves:
            yield name, _noise(name, array, bits, kinds.of(name) or mx.bfloat16)

    with for_any_thread():
        fill(model, schemes, weights())
    return model


def _noise(name: str, array: mx.array, bits: int, kind: mx.Dtype) -> mx.array:
    """Values that keep activations near 1: matrices have a standard deviation of 1 / sqrt(width),
    quantized ones by the spread of uniform integers of so many bits."""
    shape = array.shape
    if array.dtype == mx.uint32:
        return mx.random.randint(0, 2**32 - 1, shape, mx.uint32)
    step = 12**0.5 / (2**bits - 1) / 64  # as for a width of 4096
    if name.endswith(".scales"):
        return mx.full(shape, step, dtype=kind)
    if name.endswith(".biases"):
        return mx.full(shape, -step * (2**bits - 1) / 2, dtype=kind)
    if name.endswith(".bias"):
        return mx.zeros(shape, dtype=kind)
    if array.ndim == 1:
        return mx.ones(shape, dtype=kind)
    width = array.size // shape[0]
    return (mx.random.normal(shape) * width**-0.5).astype(kind)
