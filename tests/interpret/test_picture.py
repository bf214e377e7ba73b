"""The picture of a patch grid: what it shows must be what the tokens are."""

import numpy as np
import pytest
from PIL import Image

from pixtral_mlx.errors import ImageError
from pixtral_mlx.interpret.light import spotlit
from pixtral_mlx.interpret.picture import (
    BREAK_COLOUR,
    CARD,
    END_COLOUR,
    GAP,
    MARGIN,
    cividis,
    draw_patch_grid,
    draw_words,
    save_new,
)
from pixtral_mlx.model.prompt import PatchGrid


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
        ("new.png", "already exists"),
        ("new.exe", "allowed endings"),
        ("no/where.png", "cannot be"),
    ]:
        with pytest.raises(ImageError, match=message):
            save_new(picture, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["new.png"]


def test_cividis_runs_from_dark_to_light():
    colours = cividis(np.linspace(0, 1, 50)).astype(int)
    luminance = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    assert colours[0].tolist() == [0, 34, 78]
    assert colours[-1].tolist() == [254, 232, 56]


IMAGE = np.zeros((3, 48, 80), np.float32)


def looked_at(peaks):
    """Each token looked at one patch, in every image."""

    def look(token, image):
        attention = np.full((3, 5), 0.001, np.float32)
        attention[peaks[token]] = 0.5
        return attention

    return look


def test_each_word_is_lit_where_it_looked_and_marked_where_unsure():
    peaks = [(0, 0), (1, 3), (2, 4)]
    pieces, logprobs = ["Red", " circle", " left"], [-0.01, -3.0, -0.1]
    page = np.array(draw_words(pieces, logprobs, [IMAGE], looked_at(peaks))).astype(int)
    # The brightest spot of each card is the patch that its word looked at.
    scale = CARD / 80
    row_of_cards = page[:, :, 0].shape[0]
    assert row_of_cards > 48 * scale
    head = MARGIN + 38 + GAP
    for number, (row, column) in enumerate(peaks):
        left = MARGIN + number * (CARD + GAP)
        seen = page[head : head + int(48 * scale), left : left + CARD]
        patches = [
            [seen[int((r + 0.5) * 16 * scale), int((c + 0.5) * 16 * scale)] for c in range(5)]
            for r in range(3)
        ]
        brightness = np.array(patches)[..., :2].sum(axis=-1)
        assert np.unravel_index(brightness.argmax(), (3, 5)) == (row, column)
        below = page[head + int(48 * scale) :, left : left + CARD]
        underlined = (below == [213, 94, 0]).all(axis=-1).any()
        assert underlined == (number == 1)


def test_a_picture_has_its_own_colours_where_attention_is_and_is_dim_and_grey_elsewhere():
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:, :] = (220, 40, 60)
    pixels[16:, 32:] = (10, 120, 240)
    found = spotlit(pixels, np.array([[0.5, 0.0, 0.125], [0.0, 0.0, 0.5]])).astype(int)
    assert (found[:16, :16] == (220, 40, 60)).all() and (found[16:, 32:] == (10, 120, 240)).all()
    dim = round(0.4 * (0.299 * 220 + 0.587 * 40 + 0.114 * 60))
    assert (found[:16, 16:32] == dim).all()
    between = [(dim + own) / 2 for own in (220, 40, 60)]  # the root of a quarter is a half
    assert np.abs(found[:16, 32:] - between).max() <= 1
    assert (spotlit(pixels, np.zeros((2, 3)))[:16] == dim).all()


def test_nothing_is_cut_off_and_every_image_has_its_share():
    """One word makes the narrowest page: its legend still ends before the margin."""
    one, two = (
        draw_words([" Red"], [-2.0], images, looked_at([(0, 0)]))
        for images in ([IMAGE], [IMAGE, IMAGE])
    )
    assert (np.array(one)[:, -MARGIN // 2 :] == 255).all()
    assert two.height > one.height  # a line for the shares
    assert (np.array(two)[:, -MARGIN // 2 :] == 255).all()


def test_nothing_to_draw_is_said():
    for pieces, images in (([], [IMAGE]), (["Red"], [])):
        with pytest.raises(ImageError, match="nothing to draw"):
            draw_words(pieces, [-1.0], images, looked_at([(0, 0)]))


def test_merged_patches_are_drawn_inside_their_squares():
    black = Image.new("RGB", (10, 10))
    page = draw_patch_grid(black, PatchGrid(2, 3), merge=2)
    cell = 96  # pixels, and so is the margin
    fine, strong, inside = (
        page.getpixel((96 + x, 96 + 20)) for x in (cell + cell // 2, cell, cell + 20)
    )
    assert inside == (0, 0, 0) and 0 < fine[0] < strong[0]
    assert page.getpixel((96 + cell + 20, 96 + cell // 2)) == fine
