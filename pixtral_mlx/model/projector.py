"""The projector between the two transformers (official name: `vision_language_adapter`)."""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ..errors import ImageError
from .config import TextConfig, VisionConfig


class Projector(nn.Module):
    """Linear, exact (erf) GELU, Linear (paper, section 2.3; official weights have biases).

    The widths of the official 12B are 1024 -> 5120 -> 5120. In Mistral Small 3.1 and later a norm
    comes first, and then squares of 2 x 2 patches become one feature each.
    """

    def __init__(self, vision: VisionConfig, text: TextConfig):
        super().__init__()
        width, self.side = vision.hidden_size, vision.spatial_merge_size
        if vision.add_pre_mm_projector_layer_norm:
            self.norm = nn.RMSNorm(width, eps=text.norm_eps)
        if vision.merges:
            self.merge = nn.Linear(width * self.side**2, width, bias=False)
        self.w_in = nn.Linear(width, text.dim, bias=vision.adapter_bias)
        self.w_out = nn.Linear(text.dim, text.dim, bias=vision.adapter_bias)

    def __call__(
        self, features: mx.array, grids: Sequence[tuple[int, int]] | None = None
    ) -> mx.array:
        """Map vision features to decoder embeddings.

        Arguments:
            features: of all images one after the other, shape (patches, vision width).
            grids: (rows, columns) of patches of each image; needed where patches are merged.

        Returns:
            Shape (tokens, dim): one row a patch, or one a square of patches.

        Raises:
            ImageError: the grids are not those of the features, or have half squares.
        """
        if "norm" in self:
            features = self.norm(features)
        if "merge" in self:
            features = self.merge(self._squares(features, grids or ()))
        return self.w_out(nn.gelu(self.w_in(features)))

    def _squares(self, features: mx.array, grids: Sequence[tuple[int, int]]) -> mx.array:
        """The patches of each square in one row, channel by channel: (patches, D) ->
        (squares, D * side * side), in the order of `torch.nn.functional.unfold`."""
        side, sizes = self.side, [rows * columns for rows, columns in grids]
        whole = not any(rows % side or columns % side for rows, columns in grids)
        if sum(sizes) != features.shape[0] or not whole:
            raise ImageError(
                f"grids are {list(map(tuple, grids))} for {features.shape[0]} patches; allowed: "
                f"(rows, columns) of each image's patches, in multiples of {side}"
            )
        parts, start = [], 0
        for (rows, columns), size in zip(grids, sizes, strict=True):
            image = features[start : start + size]
            image = image.reshape(rows // side, side, columns // side, side, -1)
            parts.append(image.transpose(0, 2, 4, 1, 3).reshape(size // side**2, -1))
            start += size
        return mx.concatenate(parts)
