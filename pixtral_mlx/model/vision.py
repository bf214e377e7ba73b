"""The vision encoder, PixtralViT (paper, section 2.2; mistral-inference, `vision_encoder.py`).

Images of any size and shape, patch by patch, no class token, no final norm.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import ImageError
from .attention import attend_within, together
from .config import VisionConfig
from .feed_forward import FeedForward
from .rope import Rope2D
from .tap import NO_TAP, Tap
from .threads import begin_computing


class VisionAttention(nn.Module):
    """Attention among the patches of one image: every patch sees every other."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.hidden_size
        self.n_heads = config.num_attention_heads
        self.scale = config.head_dim**-0.5
        self.wq = nn.Linear(width, width, bias=False)
        self.wk = nn.Linear(width, width, bias=False)
        self.wv = nn.Linear(width, width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)

    def __call__(
        self,
        x: mx.array,
        cosine: mx.array,
        sine: mx.array,
        lengths: Sequence[int],
        tap: Any = NO_TAP,
    ) -> mx.array:
        """Arguments and result as in `VisionBlock`."""
        queries = tap("queries", Rope2D.rotate(self._heads(self.wq(x)), cosine, sine))
        keys = tap("keys", Rope2D.rotate(self._heads(self.wk(x)), cosine, sine))
        values = self._heads(self.wv(x))
        heads = tap("heads", attend_within(queries, keys, values, lengths, scale=self.scale))
        return self.wo(heads.reshape(x.shape))

    def _heads(self, x: mx.array) -> mx.array:
        """(N, D) -> (1, H, N, D / H)."""
        return x.reshape(1, x.shape[0], self.n_heads, -1).transpose(0, 2, 1, 3)


class VisionBlock(nn.Module):
    """norm, attention, add; norm, feed-forward, add."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.attention = VisionAttention(config)
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size)
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.ffn_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)

    def __call__(
        self,
        x: mx.array,
        cosine: mx.array,
        sine: mx.array,
        lengths: Sequence[int],
        tap: Any = NO_TAP,
    ) -> mx.array:
        """One layer.

        Arguments:
            x: patches of all images, shape (N, D).
            cosine, sine: of the RoPE-2D angles, float32, shape (N, head_dim / 2).
            lengths: patches of each image; they sum to N.
            tap: looks inside this layer, see `Tap.at`.

        Returns:
            Shape (N, D).
        """
        h = x + self.attention(self.attention_norm(x), cosine, sine, lengths, tap)
        h = h + self.feed_forward(self.ffn_norm(h))
        return tap("", h, before=x)


class VisionEncoder(nn.Module):
    """Pixels in, one feature per patch out."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.patch_conv = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=False,
        )
        self.ln_pre = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.layers = [VisionBlock(config) for _ in range(config.num_hidden_layers)]
        self.rope = Rope2D(config)

    def __call__(self, images: Sequence, tap: Tap = NO_TAP) -> mx.array:
        """Encode images; none sees another.

        Arguments:
            images: arrays of shape (channels, height, width), NumPy or MLX, normalised; both
                sides are multiples of the patch size.
            tap: looks inside, see `tap`.

        Returns:
            Features of all patches, image after image, row by row: shape (N, D).

        Raises:
            ImageError: no image, or one whose shape does not fit.
        """
        last = deque(self.steps(images, tap), maxlen=1)
        if not last:
            raise ImageError("the vision encoder was given no picture: pass at least one")
        return last[0]

    def steps(self, images: Sequence, tap: Tap = NO_TAP) -> Iterator[mx.array]:
        """`__call__` layer by layer, for callers that have other things to do in between.

        Arguments and errors as for `__call__`.

        Yields:
            The states after each layer, which nobody has computed yet; at last the features.
        """
        begin_computing()
        sizes = [rows * columns for rows, columns in map(self.grid, images)]
        # Edits may look at all images at once. Otherwise group after group, each into its place,
        # so that with the number of images only the features grow.
        features, start = None, 0
        for group in [images] if tap.edits else together(images, sizes):
            part = mx.array(0)
            for part in self._encode(group, tap, after=features):
                yield part
            if features is None:
                rest = sum(sizes) - part.shape[0]
                features = mx.pad(part, [(0, rest), (0, 0)]) if rest else part
            else:
                features[start : start + part.shape[0]] = part
            start += part.shape[0]
        if features is not None:
            yield features

    def _encode(self, images: Sequence, tap: Tap, after: mx.array | None) -> Iterator[mx.array]:
        """The states of some images in the same matrices, after each layer; nothing is computed
        before `after` is."""
        pixels = [_as_mlx(image) for image in images]
        if after is not None:
            pixels = mx.depends(pixels, [after])
        x = self.ln_pre(mx.concatenate([self.embed(image) for image in pixels]))
        grids = [self.grid(image) for image in images]
        angles = self.rope.angles(grids)
        cosine, sine = mx.cos(angles), mx.sin(angles)
        lengths = tap.lengths([rows * columns for rows, columns in grids])
        x = tap.at("vision")("embeddings", x)
        for i, layer in enumerate(self.layers):
            x = layer(x, cosine, sine, lengths, tap.at("vision", i))
            yield x

    def embed(self, image) -> mx.array:
        """Patch embedding of one image: (channels, height, width) -> (patches, D)."""
        pixels = _as_mlx(image).astype(self.patch_conv.weight.dtype)
        return self.patch_conv(pixels.transpose(1, 2, 0)[None]).reshape(-1, self.ln_pre.weight.size)

    def grid(self, image) -> tuple[int, int]:
        """(rows, columns) of patches of one image.

        Raises:
            ImageError: the array is not (channels, height, width) in whole patches.
        """
        patch, channels = self.config.patch_size, self.config.num_channels
        shape = tuple(image.shape)
        fits = len(shape) == 3 and shape[0] == channels and shape[1] > 0 and shape[2] > 0
        if not fits or shape[1] % patch or shape[2] % patch:
            raise ImageError(
                f"an image array has shape {shape}; allowed: ({channels}, height, width) with "
                f"sides that are multiples of {patch}: use model.encode to prepare images"
            )
        return shape[1] // patch, shape[2] // patch


def _as_mlx(image: Any) -> mx.array:
    """`mx.array` would copy one that is MLX's already."""
    return image if isinstance(image, mx.array) else mx.array(image)
