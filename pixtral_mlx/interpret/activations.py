"""What float16 cannot hold: the error that says so, and how large a model's activations become."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from ..cost.buffers import bounded_buffers
from ..errors import CheckpointError
from ..model.prompt import Prompt
from ..model.tap import Site, Tap
from ..model.vision_language_model import VisionLanguageModel

FLOAT16_MOST = 65504.0
"""The largest number of float16; those of bfloat16 and float32 end at 3.4e38."""


def nan_error(model: VisionLanguageModel) -> CheckpointError:
    """To be raised where a model has computed NaN: what to do about it, the likeliest first.

    In float16 that is another type, since one activation beyond `FLOAT16_MOST` is enough; otherwise
    a weight is damaged.
    """
    parts = [model.decoder.norm, *([model.vision_encoder.ln_pre] if model.vision_encoder else [])]
    look = "look for damaged weights with `pixtral-mlx inspect --check`"
    if any(part.weight.dtype == mx.float16 for part in parts):
        return CheckpointError(
            f"the model computes NaN in float16, which ends at {FLOAT16_MOST:,.0f}: use --dtype "
            f'bfloat16 (dtype="bfloat16"); if that does not help, {look}'
        )
    return CheckpointError(f"the model computes NaN: {look}")


@bounded_buffers()
def largest_activations(
    model: VisionLanguageModel, prompt: Prompt, progress: Callable[[int, int], None] | None = None
) -> dict[str, float]:
    """The largest absolute value that a tap sees in each layer: of the residual stream after it,
    and of its queries, keys and heads. What is inside a feed-forward is not seen.

    One layer after another: its weights are read for it and dropped after it, so that memory does
    not grow with their number. The model cannot be used any more.

    Arguments:
        model: from `px.load`; float16 would overflow before it can be seen how far.
        progress: called with (layers done, all layers), encoder and decoder together.

    Returns:
        By the names of residual streams in `tap`: `vision.embeddings`, `vision.0`, ...,
        `projector`, `text.embeddings`, `text.0`, ...; without pictures those of the decoder alone.

    Raises:
        CheckpointError: a layer computes NaN or infinity.
    """
    encoder = model.vision_encoder if prompt.images else None
    layers: dict[str, Any] = {f"text.{n}": layer for n, layer in enumerate(model.decoder.layers)}
    if encoder is not None:
        layers |= {f"vision.{n}": layer for n, layer in enumerate(encoder.layers)}
    modules = {
        **layers,
        "projector": model.projector,
        "text.embeddings": model.decoder.tok_embeddings,
    }
    found: dict[str, float] = {}

    def record(at: Site, value: mx.array, _: int) -> None:
        site = str(at)
        layer = site if at.layer is None else str(at._replace(what=""))
        most = float(mx.abs(value.astype(mx.float32)).max())
        if not isfinite(most):
            raise CheckpointError(f"{site} holds NaN or infinity, computed in {value.dtype}")
        found[layer] = max(most, found.get(layer, 0.0))
        if site in modules:
            _drop(modules[site])
        if site in layers and progress is not None:
            progress(len(layers.keys() & found.keys()), len(layers))

    tap = Tap(prompt, record=record)
    embeddings = model.embed(prompt, tap)[None]
    model.decoder.hidden(mx.array(prompt.tokens)[None], None, embeddings, tap)
    return found


def _drop(module: Any) -> None:
    """Forget its weights, which have been computed with."""
    module.update(tree_map(lambda _: mx.zeros((0,)), module.parameters()))
