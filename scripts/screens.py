"""Take a picture of every widget as it opens: on a small scene, and on a page of 1600 x 1200.

    python scripts/screens.py docs/screens/after
    python scripts/screens.py /tmp/look --width 504 --dark --only VisionAttention

Each is drawn by a browser without a window from the widget's own page, and is kept below 100 kB.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

import pixtral_mlx_widgets as w
from pixtral_mlx.mini import scene
from pixtral_mlx_widgets.page import FLAGS, find_browser

ON_A_SCENE = (
    "PatchGrid", "SequenceStrip", "RopeExplorer", "VisionAttention", "MaskView", "AnswerLens",
    "Ablation", "MemoryView", "QuantizationView", "Studio", "Stage",
)  # fmt: skip
ON_A_PAGE = ("PatchGrid", "SequenceStrip", "VisionAttention", "AnswerLens")
LARGEST_BYTES = 100_000
WHOLE_WIDTH = ".px-page { max-width: none; margin: 0; padding: 12px; }"
"""As wide as a notebook's cell, which is what `--width` stands for."""


def main(arguments: list[str] | None = None) -> int:
    """Take them all; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=1320, help="of the cell, in pixels")
    parser.add_argument("--dark", action="store_true", help="the dark theme")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some widgets only")
    options = parser.parse_args(arguments)
    browser = find_browser()
    if browser is None:
        print("screens.py: no browser was found: see PIXTRAL_BROWSER", file=sys.stderr)
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pages = list(written(Path(folder), options.only))
        for name, png in photographed(pages, browser, options.width, options.dark):
            data = light(png)
            (options.folder / f"{name}.png").write_bytes(data)
            print(f"{len(data) / 1e3:6.1f} kB  {name}", flush=True)
    return 0


def written(folder: Path, only: list[str] | None) -> Iterator[Path]:
    """The widgets' pages, one after the other."""
    for kinds, question, picture, ending in (
        (ON_A_SCENE, "Describe the picture.", scene(1, 4, 5).image, ""),
        (ON_A_PAGE, "What does it say?", document(), "-document"),
    ):
        kinds = [kind for kind in kinds if not only or kind in only]
        if not kinds:
            continue
        session = w.Session("mini", dtype="float32")
        session.ask(question, images=[picture], max_tokens=24)
        session.wait()
        for kind in kinds:
            path = folder / f"{file_name(kind)}{ending}.html"
            stage = {"stage": True} if kind == "Stage" else {}
            view: Any = getattr(w, "Studio" if stage else kind)(session, **stage)
            view.to_html(path)
            yield path
        session.close()


def file_name(kind: str) -> str:
    """PatchGrid -> patch-grid."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in kind).lstrip("-")


def document() -> Image.Image:
    """A page of 1600 x 1200 with colours, a table and small print: 64 x 48 patches."""
    page = Image.new("RGB", (1600, 1200), "#fdfcf7")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default
    pen.rectangle((0, 0, 1600, 150), fill="#0b5d4b")
    pen.text((70, 44), "Harbour Bakery", fill="#ffffff", font=font(60))
    pen.text((1180, 60), "Invoice 2026-118", fill="#ffe08a", font=font(36))
    pen.text((70, 200), "To: Ada Sommer, 12 Quay Street", fill="#222222", font=font(32))
    for i, (name, many, price) in enumerate(GOODS):
        top = 300 + 78 * i
        if i % 2 == 0:
            pen.rectangle((60, top, 1540, top + 77), fill="#eef4ee")
        pen.text((90, top + 20), name, fill="#222222", font=font(34))
        pen.text((900, top + 20), many, fill="#222222", font=font(34))
        pen.text((1300, top + 20), price, fill="#222222", font=font(34))
    pen.rectangle((1060, 960, 1540, 1050), fill="#c8102e")
    pen.text((1090, 980), "Total", fill="#ffffff", font=font(44))
    pen.text((1300, 980), "76.40 EUR", fill="#ffffff", font=font(44))
    pen.ellipse((110, 910, 330, 1130), fill="#f2b705")
    pen.text((178, 990), "PAID", fill="#5b4300", font=font(40))
    pen.text((430, 1140), "Payable within 14 days. Thank you!", fill="#666666", font=font(24))
    return page


GOODS = (
    ("Rye loaf", "4", "18.00"), ("Croissant", "12", "21.60"), ("Cinnamon roll", "6", "13.20"),
    ("Apple cake", "1", "16.80"), ("Oat biscuits", "2", "4.80"), ("Delivery", "1", "2.00"),
)  # fmt: skip


def photographed(
    pages: list[Path], browser: str, width: int, dark: bool
) -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of each page's widget."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=browser, args=[*FLAGS])
        page = running.new_context(
            viewport={"width": width + 24, "height": 900},
            color_scheme="dark" if dark else "light",
        ).new_page()
        for path in pages:
            page.goto(path.as_uri())
            page.add_style_tag(content=WHOLE_WIDTH)
            page.wait_for_timeout(900)
            yield path.stem, page.locator(".px-widget").first.screenshot()
        running.close()


def light(png: bytes) -> bytes:
    """A picture in few colours, and smaller if that is not enough, below `LARGEST_BYTES`."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    while True:
        file = io.BytesIO()
        colours = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        colours.save(file, "PNG", optimize=True)
        if file.tell() <= LARGEST_BYTES:
            return file.getvalue()
        picture = picture.resize(
            (round(picture.width * 0.85), round(picture.height * 0.85)), Image.Resampling.LANCZOS
        )


if __name__ == "__main__":
    sys.exit(main())
