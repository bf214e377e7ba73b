"""The loss on the answers of a batch; logits exist only where an answer is being written."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..model.vision_language_model import VisionLanguageModel
from .batches import Batch


def embeddings(model: VisionLanguageModel, batch: Batch) -> mx.array:
    """As `VisionLanguageModel.embed`, of a batch: shape (B, L, D)."""
    words = model.decoder.embed(batch.tokens)
    if batch.features is None or model.projector is None:
        return words
    features = model.projector(batch.features, batch.grids).astype(words.dtype)
    # Each position is taken from where it stands: the gradient of that along one axis is cheap.
    every = mx.concatenate([words.reshape(-1, words.shape[-1]), features])
    return every[mx.array(batch.sources)].reshape(words.shape)


def token_losses(
    model: VisionLanguageModel, batch: Batch, *, again: bool = False
) -> tuple[mx.array, mx.array]:
    """Cross-entropy of each token of the answers, in nats, and whether it is the likeliest.

    Arguments:
        again: compute each layer twice rather than keep what is inside.

    Returns:
        Two arrays of shape (tokens of answers,).
    """
    x = embeddings(model, batch)
    for layer in model.decoder.layers:
        x = (twice(layer) if again else layer)(x, "causal")
    asked = x.reshape(-1, x.shape[-1])[mx.array(batch.asked)]
    logits = model.decoder.unembed(model.decoder.norm(asked)).astype(mx.float32)
    targets = mx.array(batch.targets)
    return nn.losses.cross_entropy(logits, targets), logits.argmax(-1) == targets


def twice(layer: nn.Module) -> Callable[[mx.array, Any], mx.array]:
    """A layer of which only the input is kept; the gradient computes it again."""

    def inside(learning: Any, x: mx.array) -> mx.array:
        layer.update(learning)
        return layer(x, "causal")

    once = mx.checkpoint(inside)
    return lambda x, _: once(layer.trainable_parameters(), x)


def batch_loss(model: VisionLanguageModel, batch: Batch, again: bool) -> mx.array:
    """The sum over all tokens of the answers, in nats."""
    return token_losses(model, batch, again=again)[0].sum()
