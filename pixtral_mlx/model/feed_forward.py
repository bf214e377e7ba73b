"""The gated feed-forward network that the vision encoder and the decoder share."""

from functools import partial

import mlx.core as mx
import mlx.nn as nn


@partial(mx.compile, shapeless=True)  # one operation of the graph instead of two
def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """`silu(gate) * x`, both of one shape."""
    return nn.silu(gate) * x


class FeedForward(nn.Module):
    """SwiGLU: `w2(silu(w1 x) * w3 x)` (paper, section 2.2: "gating in FFN").

    Arguments:
        width: `D`, of the residual stream.
        hidden: inner width.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """Map `x`, shape (..., D), to the same shape."""
        return self.w2(swiglu(self.w1(x), self.w3(x)))
