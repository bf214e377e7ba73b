"""What the model receives: token ids, the pixels of the images, and where each image stands.

An image of any size becomes a grid of patches; here is the arithmetic of that grid. Where patches
are merged, the grid of a prompt is that of the tokens, each of which shows a square of patches.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..checks import check_index, is_whole
from .config import VisionConfig

Patch = int | tuple[int, int]
"""A row-major number, or (row, column)."""


class PatchGrid(NamedTuple):
    """Rows and columns of patches; equal to the plain tuple `(rows, columns)`.

    In a prompt they are those of its `[IMG]` tokens: where a model merges patches, each "patch" of
    the grid is a square of the encoder's.
    """

    rows: int
    columns: int

    @property
    def patches(self) -> int:
        """How many patches the image becomes."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """How many tokens it takes in the prompt: one per patch and one after each row."""
        return self.rows * (self.columns + 1)

    def index(self, patch: Patch) -> int:  # type: ignore[override]  (a tuple's own finds values)
        """The row-major number of a patch given as a number or as (row, column).

        Raises:
            IndexError: it is outside the grid, or neither.
        """
        if isinstance(patch, Sequence | np.ndarray):
            if len(patch) != 2 or not all(is_whole(part) for part in patch):
                raise IndexError(f"patch {patch!r}: allowed: a number, or (row, column)")
            row, column = (int(part) for part in patch)
            if not (0 <= row < self.rows and 0 <= column < self.columns):
                raise IndexError(
                    f"patch {(row, column)}: the picture has rows 0 to {self.rows - 1} and "
                    f"columns 0 to {self.columns - 1}, counted from zero"
                )
            return row * self.columns + column
        check_index("patch", patch, self.patches)
        return int(patch)


def patch_grid(
    width: int, height: int, config: VisionConfig, image_budget: int | None = None
) -> PatchGrid:
    """The grid of an image of `width` x `height` pixels: one `[IMG]` token for each of its cells.

    Python's `round` (halves go to the even number) is part of the definition.

    With an `image_budget`, an image that would take more tokens (breaks and end included) is
    resized as by a model whose `image_size`, the longest side, is smaller: the largest whole number
    of pixels at which it takes at most so many. Its shape is kept as well as patches allow, it is
    resized once, and one that is within the budget stays as it is.
    """
    longest = config.image_size
    if image_budget is not None:
        # The tokens never fall while the side grows, and at one pixel they are the fewest.
        sides = range(1, longest + 1)
        longest = bisect_right(
            sides, image_budget, key=lambda side: _grid(width, height, side, config).tokens
        )
    return _grid(width, height, max(longest, 1), config)


def _grid(width: int, height: int, longest: int, config: VisionConfig) -> PatchGrid:
    ratio = max(height / longest, width / longest)
    if ratio > 1:
        # An extreme shape would otherwise round its short side to nothing.
        width, height = max(round(width / ratio), 1), max(round(height / ratio), 1)
    size = config.token_size
    return PatchGrid((height - 1) // size + 1, (width - 1) // size + 1)


@dataclass(frozen=True)
class ImageSpan:
    """Where one image stands in a prompt.

    Arguments:
        start: index of its first token; there is no start token, this is the first patch.
        grid: its rows and columns.
        breaks: whether `[IMG_BREAK]` stands after each row but the last, as it should.
    """

    start: int
    grid: PatchGrid
    breaks: bool = True

    @property
    def stop(self) -> int:
        """Index after its last token, `[IMG_END]`."""
        return self.position(self.grid.rows - 1, self.grid.columns) + 1

    def position(self, row: int, column: int) -> int:
        """Index in the prompt of the patch at `row`, `column`; `column == grid.columns` is the
        break after the row."""
        return self.start + row * (self.grid.columns + self.breaks) + column

    def patch_positions(self) -> list[int]:
        """Indices in the prompt of all patches, row by row."""
        rows, columns = self.grid
        return [self.position(row, column) for row in range(rows) for column in range(columns)]

    def break_positions(self) -> list[int]:
        """Indices in the prompt of the `[IMG_BREAK]` tokens; the end token is not one."""
        rows = range(self.grid.rows - 1) if self.breaks else ()
        return [self.position(row, self.grid.columns) for row in rows]


@dataclass(frozen=True)
class Prompt:
    """What the model receives.

    Arguments:
        tokens: ids of the whole prompt.
        images: float32 arrays (3, H, W), in the order in which they stand in the prompt.
        grids: (rows, columns) of the `[IMG]` tokens of each image.
        spans: where each image stands.
        merge: side of the square of patches that one token stands for; 1 where none are merged.
    """

    tokens: list[int]
    images: list[np.ndarray] = field(default_factory=list)
    grids: list[PatchGrid] = field(default_factory=list)
    spans: list[ImageSpan] = field(default_factory=list)
    merge: int = 1

    def grid(self, image: int) -> PatchGrid:
        """The grid of the `[IMG]` tokens of one image.

        Raises:
            IndexError: the prompt has no such image.
        """
        if not self.grids:
            raise IndexError(f"image {image}: the prompt has no picture")
        check_index("image", image, len(self.grids))
        return PatchGrid(*self.grids[image])

    def encoder_grid(self, image: int) -> PatchGrid:
        """The grid of the patches that the encoder sees of one image.

        Raises:
            IndexError: the prompt has no such image.
        """
        rows, columns = self.grid(image)
        return PatchGrid(rows * self.merge, columns * self.merge)

    def patch_range(self, image: int) -> range:
        """Where an image's patches stand among those of all images, in the encoder.

        Raises:
            IndexError: the prompt has no such image.
        """
        features = self.feature_range(image)
        return range(features.start * self.merge**2, features.stop * self.merge**2)

    def feature_range(self, image: int) -> range:
        """Where an image's features stand among those of all images, after the projector.

        Raises:
            IndexError: the prompt has no such image.
        """
        count = self.grid(image).patches
        start = sum(rows * columns for rows, columns in self.grids[:image])
        return range(start, start + count)


def image_tokens(grid: PatchGrid, ids: tuple[int, int, int]) -> list[int]:
    """`([IMG]*w + [IMG_BREAK])*h`, the last token replaced by `[IMG_END]`.

    Arguments:
        grid: rows (h) and columns (w).
        ids: of `[IMG]`, `[IMG_BREAK]` and `[IMG_END]`.
    """
    patch, row_break, end = ids
    tokens = ([patch] * grid.columns + [row_break]) * grid.rows
    tokens[-1] = end
    return tokens
