"""Pictures drawn with Pillow: no browser, no display."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import ImageError
from ..files import new_file, refuse_existing
from ..inputs.pixels import to_pixels
from ..model.prompt import PatchGrid
from ..tables import format_share
from .letters import Lettering, right_to_left
from .light import LIGHT, lit, spotlit
from .words import Word, close, words_of

# One visual language wherever these tokens appear; safe for colour-blind readers (Okabe and Ito).
BREAK_COLOUR = "#e69f00"
END_COLOUR = "#d55e00"
GRID_COLOUR, FINE_GRID_COLOUR = (255, 255, 255, 150), (255, 255, 255, 60)
PAPER, INK, QUIET_INK = "#ffffff", "#222222", "#666666"

MAX_SIDE = 1600


def draw_patch_grid(image: Image.Image, grid: PatchGrid, merge: int = 1) -> Image.Image:
    """An image under its patch grid, with the tokens that end its rows and a caption.

    Arguments:
        image: RGB; stretched to the grid, as the model sees it.
        grid: rows and columns of its tokens.
        merge: side of the square of patches that each of them shows, see `Prompt.merge`.

    Returns:
        RGB, longest side about 1,600 pixels or less.
    """
    cell = max(8, min(48 * merge, MAX_SIDE // (max(grid.rows, grid.columns) + 2)))
    width, height, margin = grid.columns * cell, grid.rows * cell, max(cell, 24)
    seen = image.resize((width, height), Image.Resampling.BICUBIC)
    lines = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    pen = ImageDraw.Draw(lines)
    for side, colour in ((merge, FINE_GRID_COLOUR), (1, GRID_COLOUR)):
        for column in range(grid.columns * side + 1):
            x = column * cell // side
            pen.line((x, 0, x, height), fill=colour)
        for row in range(grid.rows * side + 1):
            y = row * cell // side
            pen.line((0, y, width, y), fill=colour)
    seen = Image.alpha_composite(seen.convert("RGBA"), lines).convert("RGB")

    font = ImageFont.load_default(18)
    what = "patches" if merge == 1 else f"squares of {merge} x {merge} patches"
    caption = (
        f"{grid.rows} rows x {grid.columns} columns = {grid.patches:,} {what}",
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


# The colour-blind-safe map cividis (Nunez, Anderton and Renslow 2018), by ten of its colours.
CIVIDIS = np.array([
    (0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115),
    (138, 134, 120), (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56),
])  # fmt: skip
UNCERTAIN = 0.5
"""A word one of whose tokens was less likely than this is marked."""

CARD, GAP, MARGIN, MOST_WORDS = 240, 20, 32, 48
WORD_SIZE, TEXT_SIZE, QUESTION_SIZE, MODEL_SIZE = 22, 24, 19, 15
QUESTION_LINES = 4
"""Of the question at most."""


def cividis(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1, any shape -> uint8 RGB, one more axis."""
    places = np.linspace(0, 1, len(CIVIDIS))
    channels = [np.interp(values, places, CIVIDIS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def draw_words(
    pieces: Sequence[str],
    logprobs: Sequence[float],
    images: Sequence[np.ndarray],
    look: Callable[[int, int], np.ndarray],
    *,
    question: str = "",
    model: str = "",
) -> Image.Image:
    """The question, the answer, and for every word where the model looked.

    Arguments:
        pieces, logprobs: text and log-probability of each token.
        images: (3, H, W), as in a prompt.
        look: (token, image) -> where the token looked in that image, shape (rows, columns).
        question, model: what was asked, and the name of the model; left out where empty.

    Raises:
        ImageError: there is no image or no word to draw.
    """
    words = words_of(pieces)
    if not images or not words:
        raise ImageError("nothing to draw: the answer needs a picture and at least one word")
    likely = [float(np.exp(min(logprobs[token] for token in word.tokens))) for word in words]
    asked = question.split()
    lettering = Lettering([*(word.text for word in words), *asked, model])
    shown, cards = words[:MOST_WORDS], []
    for word, probability in zip(shown, likely, strict=False):
        maps = [
            np.mean([look(token, image) for token in word.tokens], axis=0)
            for image in range(len(images))
        ]
        cards.append(_card(lettering, word.text, probability, images, maps))
    columns = min(5, len(cards))
    rows = [cards[i : i + columns] for i in range(0, len(cards), columns)]
    heights = [max(card.height for card in row) for row in rows]
    width = max(columns * (CARD + GAP) - GAP, 560) + 2 * MARGIN
    head = _heading(lettering, words, likely, width - 2 * MARGIN)
    before = _question(lettering, asked, width - 2 * MARGIN)
    height = before.height + head.height + sum(heights) + GAP * len(rows) + 3 * MARGIN + 40
    page = Image.new("RGB", (width, height), PAPER)
    page.paste(before, (MARGIN, MARGIN))
    page.paste(head, (MARGIN, MARGIN + before.height))
    top = MARGIN + before.height + head.height + GAP
    for row, row_height in zip(rows, heights, strict=True):
        for i, card in enumerate(row):
            page.paste(card, (MARGIN + i * (CARD + GAP), top))
        top += row_height + GAP
    _legend(page, top, len(words) - len(shown))
    if model:
        name = lettering.shortened(model, width // 2, MODEL_SIZE)
        place = width - MARGIN - lettering.width(name, MODEL_SIZE)
        lettering.draw(ImageDraw.Draw(page), (place, top), name, MODEL_SIZE, QUIET_INK)
    return page


def _question(lettering: Lettering, words: list[str], width: int) -> Image.Image:
    """The question as text, at most `QUESTION_LINES` of it; without words an empty picture."""
    space, lines, end = _font(QUESTION_SIZE).getlength(" "), list[list[str]](), width + 1.0
    for word in (lettering.shortened(word, width, QUESTION_SIZE) for word in words):
        length = lettering.width(word, QUESTION_SIZE)
        if end + length > width:
            lines.append([])
            end = 0.0
        lines[-1].append(word)
        end += length + space
    if len(lines) > QUESTION_LINES:
        lines = [*lines[: QUESTION_LINES - 1], [*lines[QUESTION_LINES - 1][:-1], "…"]]
    image = Image.new("RGB", (width, 30 * len(lines) + 6 * bool(lines)), PAPER)
    pen = ImageDraw.Draw(image)
    rightwards = not right_to_left("".join(words))
    for number, held in enumerate(lines):
        lengths = [lettering.width(word, QUESTION_SIZE) for word in held]
        x = 0.0 if rightwards else width - sum(lengths) - space * (len(held) - 1)
        for place in _as_read(held, rightwards):
            lettering.draw(pen, (x, 30 * number), held[place], QUESTION_SIZE, QUIET_INK)
            x += lengths[place] + space
    return image


def _card(
    lettering: Lettering,
    word: str,
    likely: float,
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
) -> Image.Image:
    """One word: the image it looked at most, lit where it looked, with the numbers.

    Arguments:
        likely: probability of its least likely token.
        maps: where it looked, one per image.
    """
    count = len(images)
    best = int(np.argmax([m.sum() for m in maps]))
    attention, pixels = maps[best], to_pixels(images[best])
    picture = Image.fromarray(pixels)
    scale = min(CARD / picture.width, CARD / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    seen = Image.fromarray(spotlit(small, attention))

    card = Image.new("RGB", (CARD, size[1] + (84 if count > 1 else 66)), PAPER)
    card.paste(seen, ((CARD - size[0]) // 2, 0))
    pen = ImageDraw.Draw(card)
    text = lettering.shortened(word, CARD, WORD_SIZE)
    lettering.draw(pen, (0, size[1] + 6), text, WORD_SIZE, INK)
    if likely < UNCERTAIN:
        end = lettering.width(text, WORD_SIZE)
        pen.line((0, size[1] + 33, end, size[1] + 33), fill=END_COLOUR, width=3)
    where = f"picture {best + 1}" if count > 1 else "the picture"
    on, most = format_share(attention.sum()), format_share(attention.max())
    numbers = f"p {likely:.2f}   {on} on {where}, max {most}"
    pen.text((0, size[1] + 42), numbers, fill=QUIET_INK, font=_font(13))
    if count > 1:
        shares = "   ".join(f"picture {n}: {format_share(m.sum())}" for n, m in enumerate(maps, 1))
        text = lettering.shortened(shares, CARD, 13)
        pen.text((0, size[1] + 60), text, fill=QUIET_INK, font=_font(13))
    return card


def _heading(
    lettering: Lettering, words: list[Word], likely: list[float], width: int
) -> Image.Image:
    """The answer as text, uncertain words underlined."""
    space, line = _font(TEXT_SIZE).getlength(" "), 38
    texts = [lettering.shortened(word.text, width, TEXT_SIZE) for word in words]
    lengths = [lettering.width(text, TEXT_SIZE) for text in texts]
    # Underlines do not touch one another.
    gaps = [space / 2 if close(*pair) else space for pair in itertools.pairwise(texts)] + [0.0]
    lines, end = [[]], 0.0
    for number, length in enumerate(lengths):
        if lines[-1] and end + length > width:
            lines.append([])
            end = 0.0
        lines[-1].append(number)
        end += length + gaps[number]
    image = Image.new("RGB", (width, line * len(lines)), PAPER)
    pen = ImageDraw.Draw(image)
    rightwards = not right_to_left("".join(texts))
    for y, held in zip(range(0, image.height, line), lines, strict=True):
        taken = sum(lengths[n] + gaps[n] for n in held) - gaps[held[-1]]
        x = 0.0 if rightwards else width - taken
        for place in _as_read([texts[n] for n in held], rightwards):
            n = held[place]
            lettering.draw(pen, (x, y), texts[n], TEXT_SIZE, INK)
            if likely[n] < UNCERTAIN:
                pen.line((x, y + 30, x + lengths[n], y + 30), fill=END_COLOUR, width=3)
            x += lengths[n] + gaps[n]
    return image


def _as_read(words: Sequence[str], rightwards: bool) -> list[int]:
    """The words of a line from left to right, as the text runs in its script.

    Words that run the other way stand among themselves in their own order; one without letters
    goes with the word before it.
    """
    runs: list[list[int]] = []
    other = False
    for n, word in enumerate(words):
        leftwards = right_to_left(word)
        goes_on, other = other, other if leftwards is None else leftwards == rightwards
        if other and goes_on:
            runs[-1].append(n)
        else:
            runs.append([n])
    # A run of several words runs against the text.
    return [n for run in runs for n in run[::-1]][:: 1 if rightwards else -1]


def _legend(page: Image.Image, top: int, left_out: int) -> None:
    pen, font = ImageDraw.Draw(page), _font(15)
    bar = Image.fromarray(
        lit(np.full((14, 160, 3), LIGHT), np.tile(np.linspace(0, 1, 160), (14, 1)))
    )
    page.paste(bar, (MARGIN, top + 3))
    pen.text((MARGIN + 172, top), "0 to the word's own maximum", fill=QUIET_INK, font=font)
    text = "underlined: less likely than one half"
    if left_out > 0:
        text += f"    {left_out} more words are not drawn"
    pen.text((MARGIN, top + 26), text, fill=QUIET_INK, font=font)


def _font(size: int) -> Any:
    """For our own words."""
    return ImageFont.load_default(size)


PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def check_new(path: Path, endings: Sequence[str] = PICTURES) -> None:
    """Raise unless a new file can get this name.

    Raises:
        ImageError: the name is taken, its folder is not there, or it has no known ending.
    """
    refuse_existing(path, ImageError)
    if path.suffix.lower() not in endings:
        named = [ending for ending in endings if ending != ".jpeg"]
        raise ImageError(f"{path}: allowed endings are {', '.join(named[:-1])} and {named[-1]}")
    if not path.parent.is_dir():
        raise ImageError(f"{path}: cannot be written, there is no folder {path.parent}")


def save_new(picture: Image.Image, path: Path) -> None:
    """Write a picture to a name that is not taken, complete or not at all.

    Raises:
        ImageError: as `check_new`, or it cannot be written.
        CapacityError: the disk is full.
    """
    check_new(path)
    with new_file(path, error=ImageError) as hidden:
        picture.save(hidden)
