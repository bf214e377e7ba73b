"""Pictures drawn with Pillow: no browser, no display."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .errors import ImageError
from .image import PatchGrid

# One visual language wherever these tokens appear; safe for colour-blind readers (Okabe and Ito).
BREAK_COLOUR = "#e69f00"
END_COLOUR = "#d55e00"
GRID_COLOUR = (255, 255, 255, 150)
PAPER, INK = "#ffffff", "#222222"

MAX_SIDE = 1600


def draw_patch_grid(image: Image.Image, grid: PatchGrid) -> Image.Image:
    """An image under its patch grid, with the tokens that end its rows and a caption.

    Arguments:
        image: RGB; stretched to the grid, as the model sees it.
        grid: rows and columns of patches.

    Returns:
        RGB, longest side about 1,600 pixels or less.
    """
    cell = max(8, min(48, MAX_SIDE // (max(grid.rows, grid.columns) + 2)))
    width, height, margin = grid.columns * cell, grid.rows * cell, max(cell, 24)
    seen = image.resize((width, height), Image.Resampling.BICUBIC)
    lines = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    pen = ImageDraw.Draw(lines)
    for column in range(grid.columns + 1):
        pen.line((column * cell, 0, column * cell, height), fill=GRID_COLOUR)
    for row in range(grid.rows + 1):
        pen.line((0, row * cell, width, row * cell), fill=GRID_COLOUR)
    seen = Image.alpha_composite(seen.convert("RGBA"), lines).convert("RGB")

    font = ImageFont.load_default(18)
    caption = (
        f"{grid.rows} rows x {grid.columns} columns = {grid.patches:,} patches",
        f"+ {grid.rows:,} row ends = {grid.tokens:,} tokens",
    )
    text_width = max(int(font.getlength(line)) for line in (*caption, "[IMG_BREAK]   [IMG_END]   "))
    page_width = max(width + margin // 4 + cell, text_width) + 2 * margin
    page = Image.new("RGB", (page_width, height + 2 * margin + 84), PAPER)
    page.paste(seen, (margin, margin))
    pen = ImageDraw.Draw(page)
    left = margin + width + margin // 4
    for row in range(grid.rows):
        colour = END_COLOUR if row == grid.rows - 1 else BREAK_COLOUR
        top = margin + row * cell
        pen.rounded_rectangle((left + 1, top + 1, left + cell - 2, top + cell - 2), 2, fill=colour)
    top = margin + height + 12
    for line in caption:
        pen.text((margin, top), line, fill=INK, font=font)
        top += 26
    x = margin
    for name, colour in (("[IMG_BREAK]", BREAK_COLOUR), ("[IMG_END]", END_COLOUR)):
        pen.rounded_rectangle((x, top + 4, x + 14, top + 18), 2, fill=colour)
        pen.text((x + 20, top), name, fill=INK, font=font)
        x += 34 + int(font.getlength(name))
    return page


def save_new(picture: Image.Image, path: Path) -> None:
    """Write a picture to a name that is not taken, complete or not at all.

    Raises:
        ImageError: the name is taken, has no known ending, or cannot be written.
    """
    if path.exists():
        raise ImageError(f"{path}: exists already: choose another name or remove it first")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ImageError(f"{path}: allowed endings are .png, .jpg and .webp")
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        picture.save(partial)
        partial.rename(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ImageError(f"{path}: cannot be written ({error.strerror or error})") from error
