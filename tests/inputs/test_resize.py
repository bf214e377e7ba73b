"""The resize in blocks against the same arithmetic written out for the whole picture at once."""

import cases
import numpy as np
import pytest
from checkpoints import official_params
from PIL import Image

from pixtral_mlx import ImageOptions
from pixtral_mlx.inputs import pixels, resize
from pixtral_mlx.inputs.pixels import MEAN, STD, cubic_taps, preprocess, to_rgb
from pixtral_mlx.model.config import PixtralConfig
from pixtral_mlx.model.prompt import patch_grid

VISION = PixtralConfig.from_params(official_params(vision={"image_size": 128})).vision


def written_out(image: Image.Image) -> np.ndarray:
    """All rows, then all columns, then normalised: (3, H, W)."""
    source = np.asarray(to_rgb(image, ImageOptions()))
    grid = patch_grid(*image.size, VISION)
    exact = pixels.EXACT_CENTRES and min(image.size) >= 4
    rows, row_weights = cubic_taps(image.height, grid.rows * 16, exact)
    columns, column_weights = cubic_taps(image.width, grid.columns * 16, exact)
    tall, wide = np.float32(0), np.float32(0)
    for row, weight in zip(rows, row_weights, strict=True):
        tall = tall + weight[:, None, None] * source[row]
    for column, weight in zip(columns, column_weights, strict=True):
        wide = wide + weight[:, None] * tall[:, column]
    return ((wide / np.float32(255) - MEAN) / STD).transpose(2, 0, 1)


def sizes() -> list[tuple[int, int]]:
    """Of which an axis stays, both, or none; larger, smaller and very thin."""
    drawn = np.exp(np.random.RandomState(8).uniform(0, np.log(900), (30, 2))).astype(int)
    chosen = [(128, 128), (128, 96), (128, 50), (70, 128), (48, 32), (1, 3000), (3000, 1), (512, 9)]
    return [*chosen, *(tuple(map(int, size)) for size in drawn)]


@pytest.mark.parametrize("block", [1, 700, 1 << 16])
@pytest.mark.parametrize("exact", [True, False])
def test_blocks_give_the_same_to_the_last_bit(exact, block, monkeypatch):
    monkeypatch.setattr(pixels, "EXACT_CENTRES", exact)
    monkeypatch.setattr(resize, "_BLOCK_PIXELS", block)
    for number, (width, height) in enumerate(sizes()):
        mode = ("RGB", "L", "RGBA", "I;16")[number % 4]
        image = cases.picture(width, height, mode, seed=number)
        found = preprocess(image, VISION, ImageOptions())
        assert found.flags.c_contiguous and found.dtype == np.float32
        assert np.array_equal(found, written_out(image)), (mode, width, height)


def test_an_upright_picture_in_its_own_size_is_not_interpolated(monkeypatch):
    image = cases.picture(128, 96)
    expected = written_out(image)
    monkeypatch.setattr(pixels, "cubic_taps", None)
    assert np.array_equal(preprocess(image, VISION, ImageOptions()), expected)
