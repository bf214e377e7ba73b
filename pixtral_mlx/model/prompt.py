"""What the model receives: token ids, the pixels of the images, and where each image stands."""

from dataclasses import dataclass, field

import numpy as np

from ..inputs.image import PatchGrid


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
        grids: (rows, columns) of each image.
        spans: where each image stands.
    """

    tokens: list[int]
    images: list[np.ndarray] = field(default_factory=list)
    grids: list[PatchGrid] = field(default_factory=list)
    spans: list[ImageSpan] = field(default_factory=list)


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
