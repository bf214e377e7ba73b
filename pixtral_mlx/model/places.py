"""Which layer, head, token, patch or site: numbers checked, with errors that say what exists."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..checks import check_index, is_whole
from ..inputs.image import PatchGrid

if TYPE_CHECKING:
    from .config import PixtralConfig
    from .prompt import Prompt

Where = Literal["vision", "text"]
Patch = int | tuple[int, int]


def patch_index(patch: Patch, grid: PatchGrid) -> int:
    """The row-major number of a patch given as a number or as (row, column).

    Raises:
        IndexError: it is outside the grid, or neither.
    """
    if isinstance(patch, Sequence | np.ndarray):
        if len(patch) != 2 or not all(is_whole(part) for part in patch):
            raise IndexError(f"patch {patch!r}: allowed are a number and (row, column)")
        row, column = (int(part) for part in patch)
        if not (0 <= row < grid.rows and 0 <= column < grid.columns):
            raise IndexError(
                f"patch {(row, column)}: the image has rows 0 to {grid.rows - 1} and columns 0 to "
                f"{grid.columns - 1}"
            )
        return row * grid.columns + column
    check_index("patch", patch, grid.patches)
    return int(patch)


def patch_range(prompt: "Prompt", image: int) -> tuple[int, int]:
    """Where an image's patches stand among those of all images: (start, stop)."""
    start = sum(grid.rows * grid.columns for grid in prompt.grids[:image])
    return start, start + image_grid(prompt, image).patches


def image_grid(prompt: "Prompt", image: int) -> PatchGrid:
    """The grid of one image.

    Raises:
        IndexError: the prompt has no such image.
    """
    if not prompt.grids:
        raise IndexError(f"image {image}: the prompt has no image")
    check_index("image", image, len(prompt.grids))
    return PatchGrid(*prompt.grids[image])


def sizes(where: Where, config: "PixtralConfig") -> tuple[int, int]:
    """How many layers and heads the encoder or the decoder has.

    Raises:
        IndexError: the model has no vision encoder.
    """
    if where == "text":
        return config.text.n_layers, config.text.n_heads
    if config.vision is None:
        raise IndexError("this model has no vision encoder")
    return config.vision.num_hidden_layers, config.vision.num_attention_heads
