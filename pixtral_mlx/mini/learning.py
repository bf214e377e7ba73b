"""What a step of training computes: losses, gradients and the two optimizers.

Matrices move by Muon (Jordan, 2024), which learns to find a row and a column in a third of the
steps that Adam takes; embeddings, norms, the output and the heads move by Adam.
"""

from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map

from ..model.config import PixtralConfig, TextConfig, VisionConfig
from ..model.decoder import Attention
from ..model.vision import VisionEncoder
from ..pixtral import Pixtral
from .lessons import NAMES, TINTS, Lesson
from .scene_layout import LARGEST

WATCHED_LAYER = 1
"""The decoder layer after which the place of each patch is asked for."""

PLACE_WEIGHT = 0.3
"""Share of that in the loss."""

LOOKING_LAYER = 3
"""The decoder layer that is taught to look at the evidence."""

LOOK_WEIGHT = 0.3
"""Share of that in the loss."""


def mini_config(words: int) -> PixtralConfig:
    """Sizes of pixtral-mini, for a tokenizer of `words` ids."""
    text = TextConfig(
        dim=128, n_layers=5, head_dim=32, hidden_dim=256, n_heads=4, n_kv_heads=2, norm_eps=1e-5,
        rope_theta=1e9, vocab_size=words, max_seq_len=8192,
    )  # fmt: skip
    vision = VisionConfig(
        hidden_size=128, num_channels=3, image_size=1024, patch_size=16, rope_theta=1e2,
        intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, image_token_id=10,
    )  # fmt: skip
    return PixtralConfig(text, vision)


class Heads(nn.Module):
    """Linear heads that are thrown away after training.

    `patches` names what a patch shows and its neighbour; `places` says in which row, column and
    picture the decoder believes a patch to be.
    """

    def __init__(self, config: PixtralConfig):
        super().__init__()
        if config.vision is None:
            raise ValueError("heads need a model with a vision encoder: give it one")
        self.patches = [
            nn.Linear(config.vision.hidden_size, size)
            for size in (len(NAMES), len(TINTS)) * 2
        ]  # fmt: skip
        self.places = [nn.Linear(config.text.dim, size) for size in (LARGEST, LARGEST, 2)]


class Pupil(nn.Module):
    """The model and its heads, as one tree of parameters."""

    def __init__(self, config: PixtralConfig):
        super().__init__()
        self.model = Pixtral(config)
        self.heads = Heads(config)


class _Recorder:
    """Stands where a KV cache stands while the prefix is read, and keeps what would be in it."""

    offset = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = keys, values
        return keys, values


class _Continuation:
    """Stands where a KV cache stands while the questions are read: all see one prefix."""

    def __init__(self, recorder: _Recorder, questions: int):
        self.offset = recorder.keys.shape[2]
        self.keys = mx.repeat(recorder.keys, questions, axis=0)
        self.values = mx.repeat(recorder.values, questions, axis=0)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return (
            mx.concatenate([self.keys, keys], axis=2),
            mx.concatenate([self.values, values], axis=2),
        )


def encode_batch(vision: VisionEncoder, pixels: mx.array) -> mx.array:
    """Features of pictures of one size: (B, 3, H, W) -> (B, N, D)."""
    return vision(list(pixels)).reshape(pixels.shape[0], -1, vision.config.hidden_size)


def vision_loss(pupil: Pupil, lesson: Lesson) -> tuple[mx.array, mx.array]:
    """Loss of the first stage, and the share of patches (own, neighbour) that are named right."""
    vision = pupil.model.vision_encoder
    if vision is None:
        raise ValueError("the first stage trains the vision encoder: the model does not have one")
    features = encode_batch(vision, mx.array(lesson.pixels[0]))
    losses, right = [], []
    for i, head in enumerate(pupil.heads.patches):
        labels = mx.array(lesson.labels[:, :, i])
        loss, hits = _classified(head(features), labels)
        losses.append(loss)
        right.append(hits)
    own, neighbour = mx.minimum(right[0], right[1]), mx.minimum(right[2], right[3])
    return sum(losses, mx.array(0.0)), mx.stack([own, neighbour])


def _classified(logits: mx.array, labels: mx.array) -> tuple[mx.array, mx.array]:
    """Mean cross-entropy and share of hits where `labels` is not negative: 0 and 1 if nowhere."""
    known = (labels >= 0).astype(mx.float32)
    total = mx.maximum(known.sum(), 1)
    losses = nn.losses.cross_entropy(logits, mx.maximum(labels, 0))
    hits = (logits.argmax(-1) == labels).astype(mx.float32)
    return (losses * known).sum() / total, 1 - ((1 - hits) * known).sum() / total


def text_loss(pupil: Pupil, lesson: Lesson) -> tuple[mx.array, mx.array]:
    """Loss on the answers, and the shares of (answers, places) that are right.

    The vision encoder is left as it is.
    """
    model = pupil.model
    prefix = _prefix_embeddings(model, lesson)
    recorders = [_Recorder() for _ in model.decoder.layers]
    x, watched = prefix, prefix
    for i, (layer, recorder) in enumerate(zip(model.decoder.layers, recorders, strict=True)):
        x = layer(x, "causal", recorder)
        watched = x if i == WATCHED_LAYER else watched
    questions = lesson.tokens.shape[0] // prefix.shape[0]
    caches = [_Continuation(recorder, questions) for recorder in recorders]
    tokens = mx.array(lesson.tokens)
    logits, looked = _answers(pupil, lesson, caches)
    learnt = mx.array(lesson.learnt)[:, 1:]
    losses = nn.losses.cross_entropy(logits, tokens[:, 1:]) * learnt
    wrong = ((logits.argmax(-1) != tokens[:, 1:]) * learnt).sum(axis=1)
    place_loss, placed = _place_loss(pupil, watched, lesson)
    loss = losses.sum() / learnt.sum() + PLACE_WEIGHT * place_loss + LOOK_WEIGHT * looked
    return loss, mx.stack([(wrong == 0).astype(mx.float32).mean(), placed])


def rounded_text_loss(pupil: Pupil, lesson: Lesson, group_size: int) -> tuple[mx.array, mx.array]:
    """As `text_loss`, with projector and decoder as a conversion to 4 bits leaves them.

    Gradients pass the rounding as if it were not there (Bengio et al., 2013), so the weights learn
    to be right after it.
    """
    parts = [part for part in (pupil.model.projector, pupil.model.decoder) if part is not None]
    kept = [part.parameters() for part in parts]
    for part, parameters in zip(parts, kept, strict=True):
        part.update(tree_map(partial(_rounded, group_size), parameters))
    try:
        return text_loss(pupil, lesson)
    finally:
        for part, parameters in zip(parts, kept, strict=True):
            part.update(parameters)


def _rounded(group_size: int, array: mx.array) -> mx.array:
    """What `convert` makes of it: matrices in 4 bits, everything else as it is."""
    if array.ndim != 2:
        return array
    near = mx.dequantize(*mx.quantize(array, group_size, 4), group_size=group_size, bits=4)
    return array + mx.stop_gradient(near - array)


def _answers(pupil: Pupil, lesson: Lesson, caches: list[Any]) -> tuple[mx.array, mx.array]:
    """Logits of the questions' tokens, and the loss of looking elsewhere than at the evidence.

    Before it looks, the end of the question must know the row and column that were named; the
    heads that read them from patches read them there too.
    """
    decoder = pupil.model.decoder
    x = decoder.embed(mx.array(lesson.tokens[:, :-1]))
    heads, looked = pupil.heads.places, mx.array(0.0)
    for i, (layer, cache) in enumerate(zip(decoder.layers, caches, strict=True)):
        if i == LOOKING_LAYER:
            looked = _look_loss(layer.attention, layer.attention_norm(x), cache, lesson)
            for i, head in enumerate(heads[:2]):
                labels = mx.array(lesson.target[:, :-1, i])
                looked = looked + _classified(head(x), labels)[0]
        x = layer(x, "causal", cache)
    return decoder.output(decoder.norm(x)), looked


def _look_loss(attention: Attention, x: mx.array, cache: Any, lesson: Lesson) -> mx.array:
    """Mean cross-entropy between the share of the attention to the prefix that falls on the
    evidence and the share that should, for the query heads of one key head: the first finds
    things by what they are, the second by their place."""
    B, L, _ = x.shape
    K = attention.n_kv_heads
    queries = attention.wq(x).reshape(B, L, attention.n_heads, -1).transpose(0, 2, 1, 3)
    queries = attention.rope(queries, cache.offset).reshape(B, K, -1, L, queries.shape[-1])
    by_name, by_place = (
        attention.scale * queries[:, i] @ cache.keys[:, i : i + 1].swapaxes(-1, -2)
        for i in (0, K - 1)
    )
    scores = mx.where(mx.array(lesson.by_place)[:, None, 1:, None], by_place, by_name)
    evidence = mx.array(lesson.evidence)[:, None, 1:]
    share = mx.array(lesson.share)[:, None, 1:]
    there, elsewhere = (
        mx.logsumexp(mx.where(part, scores, -1e9), axis=-1) for part in (evidence, ~evidence)
    )
    known = mx.any(evidence, axis=-1).astype(mx.float32)
    everywhere = mx.logsumexp(scores, axis=-1)
    losses = (everywhere - share * there - (1 - share) * elsewhere) * known
    return losses.sum() / mx.maximum(known.sum() * scores.shape[1], 1)


def _prefix_embeddings(model: Pixtral, lesson: Lesson) -> mx.array:
    """As `Pixtral.embed`, for a batch of prompts with pictures of the same sizes."""
    if model.vision_encoder is None or model.projector is None:
        raise ValueError("the later stages need a vision encoder and a projector")
    features = mx.concatenate(
        [encode_batch(model.vision_encoder, mx.array(p)) for p in lesson.pixels], axis=1
    )
    features = model.projector(mx.stop_gradient(features))
    embeddings = model.decoder.embed(mx.array(lesson.prefix))
    batch = mx.broadcast_to(embeddings, (features.shape[0], *embeddings.shape))
    # Rather than writing into the batch, take each position from where it is: the gradient of a
    # gather along one axis is cheap.
    image = np.array(lesson.places)[:, 1] >= 0
    order = np.where(image, np.cumsum(image) - 1 + len(image), np.arange(len(image)))
    return mx.take(mx.concatenate([batch, features], axis=1), mx.array(order), axis=1)


def _place_loss(pupil: Pupil, hidden: mx.array, lesson: Lesson) -> tuple[mx.array, mx.array]:
    losses, right = [], []
    for i, head in enumerate(pupil.heads.places):
        labels = mx.broadcast_to(mx.array(lesson.places[:, i]), hidden.shape[:2])
        loss, hits = _classified(head(hidden), labels)
        losses.append(loss)
        right.append(hits)
    return sum(losses, mx.array(0.0)), mx.minimum(right[0], right[1])


def make_optimizer() -> optim.MultiOptimizer:
    """Muon for the matrices of the blocks and the projector, Adam for everything else."""
    muon = optim.Muon(0.0, weight_decay=0.0)
    adam = optim.Adam(0.0, betas=[0.9, 0.98], bias_correction=True)
    return optim.MultiOptimizer([muon, adam], [_is_matrix])


def _is_matrix(path: str, array: mx.array) -> bool:
    block = ".layers." in path or ".projector." in path
    return array.ndim == 2 and block


def set_rate(optimizer: optim.MultiOptimizer, rate: float) -> None:
    """Learning rate of the matrices; the others move at a tenth of it."""
    muon, adam = optimizer.optimizers
    muon.learning_rate, adam.learning_rate = mx.array(rate), mx.array(rate / 10)


def scaled(tree: Any, factor: float) -> Any:
    """Every array of a tree times a number."""
    return tree_map(lambda array: array * factor, tree)
