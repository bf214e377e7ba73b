"""How weights may be stored: bit widths, groups, modes, and named mixtures."""

from typing import Any, NamedTuple

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
DEFAULT_GROUP = 64
KEEP_BITS = 16
"""Asking for this many bits keeps the weights in the plan's dtype."""

FLOAT_MODES = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
"""Modes with one bit width and one group size: mode -> (bits, group). Their scale is one byte."""

MODES = ("affine", *FLOAT_MODES)
DTYPES = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}
"""Types for what is not quantized, and for scales and biases: name -> (safetensors name, bytes)."""


class Recipe(NamedTuple):
    """Two bit widths in one model: `high` where rounding hurts most, `low` elsewhere."""

    low: int
    high: int
    summary: str


RECIPES = {
    f"mixed_{low}_{high}": Recipe(
        low,
        high,
        f"{low} bits; {high} for the head, the projector, and wv and w2 of the first and last "
        "eighth of the layers and of every third layer between",
    )
    for low, high in ((2, 6), (3, 6), (4, 6))
}
"""Named mixtures. The choice of matrices is that of mlx-lm and llama.cpp (`use_more_bits`)."""


class Scheme(NamedTuple):
    """How one matrix is quantized; what `mx.quantize` takes."""

    bits: int
    group_size: int
    mode: str = "affine"

    def entry(self) -> dict[str, Any]:
        """The scheme as `config.json` spells it."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def __str__(self) -> str:
        kind = f"{self.bits} bits" if self.mode == "affine" else self.mode
        return f"{kind}, groups of {self.group_size}"
