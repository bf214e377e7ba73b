"""What holds for all tests."""

import os

# Parity is claimed in full float32, and MLX multiplies in TF32 by default on some GPUs. It asks
# once, when it computes the first product; processes that tests start inherit this. Not
# `setdefault`: what a person exports for their own runs must not fail the tests.
os.environ["MLX_ENABLE_TF32"] = "0"
