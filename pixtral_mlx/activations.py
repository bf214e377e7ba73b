"""What float16 cannot hold: the error that says so, and how large a model's activations become."""

from typing import TYPE_CHECKING

import mlx.core as mx

from .errors import CheckpointError

if TYPE_CHECKING:
    from .model import Pixtral

FLOAT16_MOST = 65504.0
"""The largest number of float16; those of bfloat16 and float32 end at 3.4e38."""


def nan_error(model: "Pixtral") -> CheckpointError:
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
