"""What the notebooks of the course share. Whoever imports it computes in full float32.

`exercises`: new scenes, accuracy, and checks of answers
`figures`: pictures of patches, bars and tables
`pictures`: maps and curves
`inside`: what is measured inside the model
`budget`: bytes and seconds
`documents`: forms that are filled in
`teaching`: rows to learn a word from
`live`: the page that needs no Python, in a frame
"""

import os

# The course computes things by hand and compares: MLX multiplies float32 in TF32 by default on some
# GPUs. It asks once, when it computes the first product, and every notebook imports this before.
os.environ["MLX_ENABLE_TF32"] = "0"

from .exercises import (
    Verdict,
    accuracy,
    answers,
    check_bits,
    check_grids,
    check_mask,
    check_quiet,
    check_rebuild,
    check_shift,
    colour_number,
    dtype_for,
    is_mini,
    large_scenes,
    numbers,
    questions,
    relative_error,
    scenes,
    shared,
    tolerance,
    whole_numbers,
)
from .live import live_page

__all__ = [
    "Verdict", "accuracy", "answers", "check_bits", "check_grids", "check_mask", "check_quiet",
    "check_rebuild", "check_shift", "colour_number", "dtype_for", "is_mini", "large_scenes",
    "live_page", "numbers", "questions", "relative_error", "scenes", "shared", "tolerance",
    "whole_numbers",
]  # fmt: skip
