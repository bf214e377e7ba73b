"""The decoder: Mistral NeMo (paper, section 2.1; mistral-inference, `transformer.py`), and those of
Pixtral's heirs, which differ in their sizes and in what they do with positions.

`Decoder` fits the model protocol of mlx-lm (`__call__(inputs, cache, input_embeddings)` and
`.layers`), so mlx-lm's caches, samplers, `generate_step`, batching and speculative decoding
run on it unchanged.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .attention import attend
from .config import QueryScaling, TextConfig
from .feed_forward import FeedForward
from .rope import Rope1D
from .tap import NO_TAP, Tap
from .threads import begin_computing


class Attention(nn.Module):
    """Causal grouped-query attention; scale head_dim^-0.5, and H * head_dim need not be D."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.scale = config.head_dim**-0.5
        if config.yarn is not None and config.yarn.apply_scale:
            self.scale *= (1 + 0.1 * math.log(config.yarn.factor)) ** 2  # of queries and keys
        self.growth = config.llama_4_scaling
        self.wq = nn.Linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * config.head_dim, config.dim, bias=False)
        self.rope = Rope1D(config)

    def __call__(self, x: mx.array, mask: Any, cache: Any, tap: Any = NO_TAP) -> mx.array:
        """Arguments and result as in `DecoderBlock`."""
        B, L, _ = x.shape
        queries, keys, values = self.wq(x), self.wk(x), self.wv(x)
        queries = queries.reshape(B, L, self.n_heads, -1).transpose(0, 2, 1, 3)
        keys = keys.reshape(B, L, self.n_kv_heads, -1).transpose(0, 2, 1, 3)
        values = values.reshape(B, L, self.n_kv_heads, -1).transpose(0, 2, 1, 3)

        offset = 0 if cache is None else cache.offset
        rope = self.rope
        queries, keys = rope(queries, offset), rope(keys, offset)
        if self.growth is not None:
            queries = grown(queries, offset, self.growth)
        queries = tap("queries", queries)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)

        output = attend(queries, keys, values, scale=self.scale, mask=mask, cache=cache)
        heads = tap("heads", output.transpose(0, 2, 1, 3))
        return self.wo(heads.reshape(B, L, -1))


def grown(queries: mx.array, offset: int | mx.array, growth: QueryScaling) -> mx.array:
    """Queries times `1 + beta ln(1 + floor(position / original))` (transformers, `ministral3`).

    Arguments:
        queries: shape (B, H, L, head_dim).
        offset: position of the first; one number, or one for each row of the batch.
    """
    positions = mx.array(offset)[..., None] + mx.arange(queries.shape[2])
    contexts = mx.floor(positions / growth.original_max_position_embeddings)
    factors = 1 + growth.beta * mx.log(1 + contexts)
    return queries * factors.reshape(-1, 1, queries.shape[2], 1).astype(queries.dtype)


class DecoderBlock(nn.Module):
    """norm, attention, add; norm, feed-forward, add."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config.dim, config.hidden_dim)
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)

    def __call__(
        self, x: mx.array, mask: Any = None, cache: Any = None, tap: Any = NO_TAP
    ) -> mx.array:
        """One layer.

        Arguments:
            x: shape (B, L, D).
            mask: what `mlx_lm.models.base.create_attention_mask` made: None, "causal" or an array.
            cache: this layer's KV cache of mlx-lm, or None.
            tap: looks inside this layer, see `Tap.at`.

        Returns:
            Shape (B, L, D).
        """
        h = x + self.attention(self.attention_norm(x), mask, cache, tap)
        h = h + self.feed_forward(self.ffn_norm(h))
        return tap("", h, before=x)


class Decoder(nn.Module):
    """Tokens, or embeddings, in; logits of every position out."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = [DecoderBlock(config) for _ in range(config.n_layers)]
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        if not config.tied_embeddings:
            self.output = nn.Linear(config.dim, config.vocab_size, bias=False)

    def __call__(
        self,
        inputs: mx.array,
        cache: list[Any] | None = None,
        input_embeddings: mx.array | None = None,
        tap: Tap = NO_TAP,
    ) -> mx.array:
        """Logits of every position.

        Arguments:
            inputs: token ids, shape (B, L); not read where `input_embeddings` is given.
            cache: one KV cache of mlx-lm a layer, updated in place; None starts from nothing.
            input_embeddings: shape (B, L, D), in place of the embeddings of `inputs`.
            tap: looks inside, see `tap`.

        Returns:
            Shape (B, L, vocabulary).
        """
        return self.unembed(self.hidden(inputs, cache, input_embeddings, tap))

    def embed(self, inputs: mx.array) -> mx.array:
        """Embeddings of token ids: shape (...) -> (..., D)."""
        # Embeddings in mxfp4 and the like come out as bfloat16, whatever the model computes in.
        return self.tok_embeddings(inputs).astype(self.norm.weight.dtype)

    def hidden(
        self,
        inputs: mx.array,
        cache: list[Any] | None = None,
        input_embeddings: mx.array | None = None,
        tap: Tap = NO_TAP,
    ) -> mx.array:
        """The normalised last hidden state, shape (B, L, D): `__call__` without the output."""
        # mlx-lm costs 1.7 s to import, so that comes with the first use, not with this package.
        from mlx_lm.models.base import create_attention_mask

        begin_computing()
        x = self.embed(inputs) if input_embeddings is None else input_embeddings
        caches = [None] * len(self.layers) if cache is None else cache
        mask = create_attention_mask(x, caches[0])
        position = 0 if caches[0] is None else caches[0].offset
        x = tap.at("text", position=position)("embeddings", x)
        for i, (layer, layer_cache) in enumerate(zip(self.layers, caches, strict=True)):
            x = layer(x, mask, layer_cache, tap.at("text", i, position))
        return self.norm(x)

    def prefill(
        self,
        inputs: mx.array,
        cache: list[Any],
        input_embeddings: mx.array | None = None,
        tap: Tap = NO_TAP,
        *,
        parts: Iterable[slice],
    ) -> Iterator[tuple[int, mx.array]]:
        """Read a prompt part by part, so that activations are those of one part.

        Arguments:
            inputs, cache, input_embeddings, tap: as for `__call__`.
            parts: positions of each step, which follow one another.

        Returns:
            After each step (positions read, its hidden states as from `hidden`); keys and values
            are in the cache, the last layer's states are not computed until somebody asks.
        """
        for part in parts:
            rows = None if input_embeddings is None else input_embeddings[:, part]
            hidden = self.hidden(inputs[:, part], cache, rows, tap)
            mx.eval([layer.state for layer in cache])
            mx.clear_cache()
            yield part.stop, hidden

    def unembed(self, x: mx.array) -> mx.array:
        """Logits of normalised hidden states: shape (..., D) -> (..., vocabulary)."""
        if self.config.tied_embeddings:
            return self.tok_embeddings.as_linear(x)
        return self.output(x)
