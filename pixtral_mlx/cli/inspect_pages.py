"""What the pages of a PDF or TIFF become: a line each."""

from pathlib import Path
from typing import Any

from ..cost.cost import prefill_operations
from ..cost.pace import operations_per_second
from ..errors import ImageError
from ..inputs.file_kind import is_pdf
from ..inputs.image_options import ImageOptions
from ..inputs.image_source import short_name
from ..inputs.pages import open_pages, page_numbers
from ..inputs.pixels import shrunk
from ..interpret.picture import MAX_SIDE, draw_patch_grid, save_new
from ..model.config import PIXTRAL_12B, PIXTRAL_12B_VISION
from ..model.prompt import PatchGrid, patch_grid
from ..tables import format_share, format_table
from .status import Status


def describe_pages(
    data: bytes,
    name: str,
    choice: str | None = None,
    output: str | None = None,
    options: ImageOptions | None = None,
) -> dict[str, Any]:
    """What Pixtral 12B makes of each page, and how long this machine is expected to read it.

    Arguments:
        data, name: of the PDF or TIFF, and what it is called.
        choice: of pages, see `open_pages`.
        output: a new file that takes a picture of the only page under its patch grid.
        options: how pictures are prepared.

    Raises:
        ImageError: it cannot be read, or the picture not written.
    """
    options, vision = options or ImageOptions(), PIXTRAL_12B_VISION
    numbers = page_numbers(data, name, choice, options.pdf_password)
    if output and len(numbers) != 1:
        raise ImageError(f"{name}: -o draws one page of {len(numbers)}: choose it with #page=1")
    speed = operations_per_second()
    pages, grids = [], []
    with Status() as status:
        status.step("drawing", "pages")
        for done, number in enumerate(numbers, 1):
            # One at a time: a long PDF would fill the memory.
            ((_, page),) = open_pages(data, name, vision, options, str(number))
            grid = patch_grid(page.width, page.height, vision, options.image_budget)
            grids.append(grid)
            if output:
                seen = shrunk(page, options, MAX_SIDE)
                save_new(draw_patch_grid(seen, grid), Path(output))
            pages.append(
                {
                    "page": number,
                    "width": page.width,
                    "height": page.height,
                    "rows": grid.rows,
                    "columns": grid.columns,
                    "tokens": grid.tokens,
                    "seconds": _operations([grid]) / speed.per_second,
                }
            )
            status.update(done, len(numbers))
    tokens = sum(grid.tokens for grid in grids)
    return {
        "pdf" if is_pdf(data) else "tiff": short_name(name),
        "pages": pages,
        "tokens": tokens,
        "context_share": tokens / PIXTRAL_12B.text.max_seq_len,
        "seconds": _operations(grids) / speed.per_second,
        "seconds_from": speed.source,
    }


def _operations(grids: list[PatchGrid]) -> float:
    sizes = [(grid.rows, grid.columns) for grid in grids]
    return prefill_operations(PIXTRAL_12B, sum(grid.tokens for grid in grids), sizes)


def pages_text(report: dict[str, Any]) -> str:
    """A table: a row a page, and all of them together."""
    rows = [("page", "pixels", "patches", "tokens", "seconds")]
    for page in report["pages"]:
        pixels, patches = (
            f"{page['width']} x {page['height']}",
            f"{page['rows']} x {page['columns']}",
        )
        rows.append((f"{page['page']}", pixels, patches, *_cost(page)))
    if len(report["pages"]) > 1:
        rows.append(("all", "", "", *_cost(report)))
    context = PIXTRAL_12B.text.max_seq_len
    name = report.get("pdf") or report.get("tiff")
    return "\n".join(
        [
            f"{name}: {report['tokens']:,} tokens, {format_share(report['context_share'])} "
            f"of {context:,}",
            *format_table(rows),
            "seconds: until Pixtral 12B has read it on this machine, an estimate from "
            f"{report['seconds_from']}",
        ]
    )


def _cost(part: dict[str, Any]) -> tuple[str, str]:
    seconds = part["seconds"]
    return f"{part['tokens']:,}", f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}"
