"""The picture of a patch grid: what it shows must be what the tokens are."""

import pytest
from PIL import Image

from pixtral_mlx.errors import ImageError
from pixtral_mlx.image import PatchGrid
from pixtral_mlx.picture import BREAK_COLOUR, END_COLOUR, draw_patch_grid, save_new


def _boxes(picture, colour, row):
    """How many separate runs of a colour lie on a row of pixels."""
    wanted = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    line = [picture.getpixel((x, row)) == wanted for x in range(picture.width)]
    return sum(1 for a, b in zip([False, *line], line, strict=False) if b and not a)


@pytest.mark.parametrize(
    "grid", [PatchGrid(1, 1), PatchGrid(3, 5), PatchGrid(64, 64), PatchGrid(1, 64)]
)
def test_every_row_ends_in_its_token(grid):
    picture = draw_patch_grid(Image.new("RGB", (10, 10), "blue"), grid)
    assert max(picture.size) <= 1900
    cell = max(8, min(48, 1600 // (max(grid.rows, grid.columns) + 2)))
    margin = max(cell, 24)
    for row in range(grid.rows):
        middle = margin + row * cell + cell // 2
        last = row == grid.rows - 1
        assert _boxes(picture, BREAK_COLOUR, middle) == (0 if last else 1)
        assert _boxes(picture, END_COLOUR, middle) == (1 if last else 0)
    # Inside a patch the picture is seen as it is.
    inside = (margin + cell // 2, margin + cell // 2)
    assert picture.getpixel(inside) == (0, 0, 255)


def test_a_file_is_written_whole_and_nothing_is_overwritten(tmp_path):
    picture = Image.new("RGB", (4, 4))
    save_new(picture, tmp_path / "new.png")
    assert [path.name for path in tmp_path.iterdir()] == ["new.png"]
    for name, message in [
        ("new.png", "exists already"),
        ("new.exe", "allowed endings"),
        ("no/where.png", "cannot be"),
    ]:
        with pytest.raises(ImageError, match=message):
            save_new(picture, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["new.png"]
