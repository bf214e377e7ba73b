"""PatchGrid in a real notebook."""

import numpy as np
import pytest

from pixtral_mlx.mini import scene

SETUP = """
import pixtral_mlx_widgets as w
from pixtral_mlx.mini import scene
s = scene(3, 4, 5)
session = w.Session("mini", dtype="float32")
session.ask("How many rows are there?", images=[s.image])
session.wait(60)
grid = w.PatchGrid(session)
grid
"""
GRID = (8, 10)


@pytest.fixture
def grid(notebook):
    opened = notebook(SETUP)
    opened.canvas = opened.widget().locator("canvas.px-patches")
    opened.page.wait_for_function("document.querySelector('canvas.px-patches').width > 100")
    opened.page.wait_for_timeout(300)
    return opened


def test_the_picture_is_shown_patch_by_patch(grid):
    pixels = np.asarray(scene(3, 4, 5).image.convert("RGB").resize((160, 128)), float)
    for row, column in ((0, 6), (1, 4), (1, 7), (3, 7), (7, 3)):
        seen = grid.patch_colour(grid.canvas, (row, column), GRID)
        there = pixels[16 * row + 6, 16 * column + 6]
        assert np.abs(np.array(seen) - there).max() < 40, (row, column)


def test_row_ends_are_drawn_beside_the_rows_and_named(grid):
    ends = grid.widget().locator("canvas.px-ends")
    colours = [grid.colour(ends, 0.5, (row + 0.4) / GRID[0]) for row in range(GRID[0])]
    assert colours == [(230, 159, 0)] * 7 + [(213, 94, 0)]
    box = ends.bounding_box()
    ends.hover(position={"x": 3, "y": 3.5 / 8 * box["height"]})
    caption = grid.widget().locator(".px-caption")
    place = grid.kernel("session.prompt.spans[0].start + 3 * 11 + 10 + 1")
    grid.expect(caption).to_contain_text("[IMG_BREAK] ends")
    grid.expect(caption).to_contain_text(f"token {place}")


def test_what_is_zoomed_is_still_the_patch_under_the_pointer(grid):
    grid.canvas.dblclick(position=grid._middle(grid.canvas, (1, 7), GRID))
    grid.page.wait_for_timeout(300)
    pixels = np.asarray(scene(3, 4, 5).image.convert("RGB").resize((160, 128)), float)
    # Three times as large around that point, which stays: a patch is 0.3 of the width.
    middle = pixels[16 * 1 + 8, 16 * 7 + 8]
    seen = grid.colour(grid.canvas, 7.5 / 10, 1.5 / 8)
    assert np.abs(np.array(seen) - middle).max() < 40
    grid.canvas.click(position=grid._middle(grid.canvas, (1, 8), GRID))
    grid.eventually("grid.patch", [1, 7])  # it covers what was its neighbour
    grid.canvas.press("0")
    grid.page.wait_for_timeout(300)
    grid.canvas.click(position=grid._middle(grid.canvas, (1, 8), GRID))
    grid.eventually("grid.patch", [1, 8])


def test_hovering_tells_the_place_in_the_prompt(grid):
    grid.hover_patch(grid.canvas, (3, 7), GRID)
    caption = grid.widget().locator(".px-caption")
    start = grid.kernel("session.prompt.spans[0].position(3, 7)")
    assert start == 2 + 3 * 11 + 7
    grid.page.wait_for_function(
        f"document.querySelector('.px-caption').textContent.includes('token {start + 1} ')"
    )
    assert caption.text_content().startswith(
        "Patch row 4, column 8 (in Python: 3, 7): patch 38 of 80, token "
    )


def test_a_click_chooses_the_patch_in_python(grid):
    grid.click_patch(grid.canvas, (5, 2), GRID)
    grid.eventually("grid.patch", [5, 2])
    assert grid.kernel("session.selection['patch']") == [5, 2]
    grid.canvas.press("ArrowRight")
    grid.eventually("grid.patch", [5, 3])
