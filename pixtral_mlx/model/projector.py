"""The projector between the two transformers (official name: `vision_language_adapter`)."""

import mlx.core as mx
import mlx.nn as nn

from .config import TextConfig, VisionConfig


class Projector(nn.Module):
    """Linear, exact (erf) GELU, Linear (paper, section 2.3; official weights have biases).

    The widths of the official 12B are 1024 -> 5120 -> 5120.
    """

    def __init__(self, vision: VisionConfig, text: TextConfig):
        super().__init__()
        self.w_in = nn.Linear(vision.hidden_size, text.dim, bias=vision.adapter_bias)
        self.w_out = nn.Linear(text.dim, text.dim, bias=vision.adapter_bias)

    def __call__(self, features: mx.array) -> mx.array:
        """Map vision features (N, vision width) to decoder embeddings (N, dim)."""
        return self.w_out(nn.gelu(self.w_in(features)))
