"""Comparisons of a loaded model with the golden arrays, point by point in the order of the paper.

Used by the parity tests, and by the tests that put mistakes into the model and expect these
comparisons to fail.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ["MLX_ENABLE_TF32"] = "0"  # what they claim; MLX asks when it computes the first product

import cases
import checkpoints
import mlx.core as mx
import numpy as np
from mlx_lm.models.base import create_attention_mask

import pixtral_mlx as px

GOLDEN = Path(__file__).parent / "golden"
OPTIONS = px.ImageOptions(orient=False, grey16="clip")  # as the reference

# (largest absolute error, root mean square) allowed in float32.
PIXELS = (2e-5, 1e-5)
VISION = (5e-5, 1e-5)
PROJECTOR = (1e-5, 2e-6)
DECODER = (5e-5, 1e-5)
LOGITS = (2e-3, 1e-4)

measured: dict[str, tuple[float, float]] = {}  # point -> the worst that was seen, for reports


class Golden:
    """The golden arrays of one case and the prompt that a model makes of its conversation."""

    def __init__(self, name: str):
        self.name = name
        with np.load(GOLDEN / f"{name}.npz") as file:
            self.arrays = dict(file)
        self.messages = cases.HEIRS[name][2]() if name in cases.HEIRS else cases.CASES[name]()

    def close(self, point: str, ours, tolerance: tuple[float, float], rows: str = "") -> None:
        """Raises AssertionError, naming the point, unless `ours` is within the tolerance."""
        expected = self.arrays[point]
        ours = np.array(ours)
        if rows in self.arrays:
            ours = ours[self.arrays[rows]]
        assert ours.shape == expected.shape, f"{self.name}: {point}: {ours.shape}"
        error = ours.astype(np.float64) - expected
        largest, rms = float(np.abs(error).max()), float(np.sqrt((error**2).mean()))
        kind = point.rstrip("0123456789_")
        measured[kind] = tuple(np.maximum(measured.get(kind, (0, 0)), (largest, rms)))
        within = largest <= tolerance[0] and rms <= tolerance[1]  # false for NaN
        assert within, f"{self.name}: {point}: {largest:.1e} / {rms:.1e} rms, allowed {tolerance}"


def load(folder, **settings):
    """A model in float32 from a checkpoint of `make_official` with these settings."""
    return px.load(checkpoints.make_official(folder, seed=cases.SEED, **settings), dtype="float32")


def check_inputs(model, golden: Golden):
    """Token ids and pixels; returns the prompt."""
    prompt = model.encode(golden.messages, image_options=OPTIONS)
    same = np.array_equal(prompt.tokens, golden.arrays["tokens"])
    assert same, f"{golden.name}: tokens: {len(prompt.tokens)} that differ"
    for i, pixels in enumerate(prompt.images):
        thinned = "patch_rows" in golden.arrays
        golden.close(f"pixels_{i}", pixels[:, 5::61, 3::13] if thinned else pixels, PIXELS)
    return prompt


def check_vision(model, golden: Golden, prompt) -> None:
    """Patch embedding, ln_pre, every layer, and the encoder's own result."""
    encoder, rows = model.vision_encoder, "patch_rows"
    x = mx.concatenate([encoder.embed(image) for image in prompt.images])
    golden.close("patch_embedding", x, VISION, rows)
    x = encoder.ln_pre(x)
    golden.close("ln_pre", x, VISION, rows)
    grids = [prompt.encoder_grid(image) for image in range(len(prompt.images))]
    angles = encoder.rope.angles(grids)
    cosine, sine = mx.cos(angles), mx.sin(angles)
    lengths = [grid.patches for grid in grids]
    for i, layer in enumerate(encoder.layers):
        x = layer(x, cosine, sine, lengths)
        golden.close(f"vision_{i}", x, VISION, rows)
    golden.close(f"vision_{len(encoder.layers) - 1}", encoder(prompt.images), VISION, rows)


def check_projector(model, golden: Golden) -> None:
    """The projector alone, on the golden features."""
    last = f"vision_{len(model.vision_encoder.layers) - 1}"
    grids = None
    if model.config.vision.merges:
        pixels = [array for name, array in golden.arrays.items() if name.startswith("pixels_")]
        grids = [model.vision_encoder.grid(image) for image in pixels]
    golden.close("projector", model.projector(mx.array(golden.arrays[last]), grids), PROJECTOR)


def check_decoder(model, golden: Golden, prompt) -> None:
    """Merged embeddings and every decoder layer."""
    rows = "token_rows"
    x = model.embed(prompt)
    golden.close("merged", x, VISION, rows)
    x = x[None]
    mask = create_attention_mask(x, None)
    for i, layer in enumerate(model.decoder.layers):
        x = layer(x, mask, None)
        golden.close(f"decoder_{i}", x[0], DECODER, rows)


def check_logits(model, golden: Golden, prompt) -> None:
    """Logits of every position."""
    golden.close("logits", model.logits(prompt), LOGITS, "token_rows")


def check_greedy(model, golden: Golden, prompt) -> None:
    """The greedy continuation, through the public generation."""
    if "greedy" not in golden.arrays:
        return
    expected = golden.arrays["greedy"].tolist()
    reply = model.generate(prompt, max_tokens=len(expected))
    assert reply.tokens == expected, f"{golden.name}: greedy: {reply.tokens}"


def check_all(model, golden: Golden) -> None:
    """Everything, in the order in which it is computed."""
    prompt = check_inputs(model, golden)
    if prompt.images:
        check_vision(model, golden, prompt)
        check_projector(model, golden)
    check_decoder(model, golden, prompt)
    check_logits(model, golden, prompt)
    check_greedy(model, golden, prompt)


def main() -> None:
    """`python tests/golden_checks.py`: the worst errors over all cases, as a table."""
    with tempfile.TemporaryDirectory() as folder:
        model = load(Path(folder) / "official")
        for name in cases.CASES:
            check_all(model, Golden(name))
    print("| point | measured (max / rms) |\n|---|---|")
    for point, (largest, rms) in measured.items():
        print(f"| {point} | {largest:.1e} / {rms:.1e} |")


if __name__ == "__main__":
    main()
