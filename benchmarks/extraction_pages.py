"""What `extract` does with several pages in one question: pixtral-mini with its adapter `pages`.

    python benchmarks/extraction_pages.py [--documents 40] [--pages 20] [--adapter-path pages]

Documents are one, two or three small pages (`pixtral_mlx.mini.pages`), which the adapter has not
seen. The form asks for the colour of shapes that are there once, and of others that are not there:
with all pages in one question, which names the page, and with a page at a time, where no question
names one. Then PDFs of many pages, one of them turned, with a text of their own and without, read
one, two and three pages at a time: lists of all stars, all moons and so on, which run over the
pages, with the colour of each. It shows the machinery, and nothing about documents.
"""

import argparse
import io
from collections import Counter
from collections.abc import Sequence
from random import Random

from drawn_pdfs import Sheet, drawn_pdf
from extraction import share

import pixtral_mlx as px
from pixtral_mlx.mini.drawing import COLOURS, SHAPES
from pixtral_mlx.mini.pages import PATCH, Page, page
from pixtral_mlx.mini.questions import PLURALS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--pages", type=int, default=20, help="of a PDF (20)")
    parser.add_argument("--adapter-path", metavar="A", default="pages")
    given = parser.parse_args()
    model = px.load("mini", adapter_path=given.adapter_path, dtype="float32")
    print(f"float32 products in {px.machine().float32_products}")
    for count, at_once in ((1, 1), (2, 1), (3, 1), (2, 2), (3, 3)):
        counts = Counter()
        for number in range(given.documents):
            measure(model, Random(f"extract {count} {number}"), count, at_once, counts)
        print(f"{given.documents} documents of {count}, {at_once} in a question")
        print(f"  there: right {share(counts['right'], counts['there'])}")
        print(f"    of these the page is right {share(counts['page'], counts['right'])}")
        print(f"    and the box meets the shape {share(counts['met'], counts['right'])}")
        print(f"  not there: null {share(counts['null'], counts['absent'])}")
        if counts["elsewhere"]:
            told = share(counts["null elsewhere"], counts["elsewhere"])
            print(f"    of those that only another page has {told}")
        print(f"  wrong, and nobody is told {share(counts['passed'], counts['asked'])}", flush=True)
    for at_once in (1, 2, 3):
        for text in (False, True):
            counts = Counter()
            for listed in [SHAPES[i : i + LISTED] for i in range(0, len(SHAPES), LISTED)]:
                random = Random(f"extract PDF {at_once} {listed}")
                pages = pages_with(random, listed, given.pages, at_once)
                measure_pdf(model, pages, listed, at_once, counts, text=text)
            print(f"PDFs of {given.pages} pages, {at_once} at a time, "
                  f"with{'' if text else 'out'} a text of their own")  # fmt: skip
            print(f"  in the lists: right {share(counts['right'], counts['there'])}")
            print(f"    of these the page is right {share(counts['page'], counts['right'])}")
            print(f"    and the box meets the shape {share(counts['met'], counts['right'])}")
            print(f"  wrong or too many {counts['wrong']}, of which nobody is told "
                  f"{share(counts['passed'], counts['wrong'])}")  # fmt: skip
            print(f"  missing {counts['there'] - counts['found']}", flush=True)


def measure(model: px.Pixtral, random: Random, count: int, at_once: int, counts: Counter) -> None:
    """One document."""
    pages = [page(random, number + 1) for number in range(count)]
    fields, answers = {}, {}
    for shown in pages:
        about = f"Page {shown.number}: " if at_once > 1 else ""
        asked = [shown] if about else pages
        times = Counter(thing.name for each in asked for thing in each.layout.cells)
        own = {thing.name for thing in shown.layout.cells}
        once, never = ([s for s in SHAPES if times[s] == wanted] for wanted in (1, 0))
        for shape in [*[s for s in once if s in own][:1], random.choice(never)]:
            name = f"{shape}{shown.number}"
            fields[name] = {
                "enum": [*COLOURS, None],
                "x-question": f"{about}What colour is the {shape}?",
                "x-present": f"{about}How many {PLURALS[shape]} are there?",
            }
            answers[name] = shown, shape
    schema = {"type": "object", "properties": fields, "required": [*fields]}
    pictures = [each.picture for each in pages]
    found = px.extract(model, pictures, schema, one_by_one=True, pages_at_once=at_once)
    for name, (shown, shape) in answers.items():
        field = found.fields[f"/{name}"]
        cell = next((i for i, t in enumerate(shown.layout.cells) if t.name == shape), None)
        wanted = None if cell is None else shown.layout.cells[cell].colour
        right = field.value == wanted
        counts["asked"] += 1
        counts["passed"] += not right and not field.needs_review
        counts["absent" if cell is None else "there"] += 1
        if cell is None:
            elsewhere = any(thing.name == shape for each in pages for thing in each.layout.cells)
            counts["null"] += right
            counts["elsewhere"] += elsewhere
            counts["null elsewhere"] += elsewhere and right
        elif right:
            counts["right"] += 1
            counts["page"] += field.page == shown.number
            counts["met"] += field.page == shown.number and meets(field.box, shown, cell)


LISTED = 2
"""Shapes that one document is asked for."""
SIZE = (8 * PATCH, 6 * PATCH)
"""Of the pages of a PDF, in points: all alike, since one budget of tokens is for all of them."""


def pages_with(random: Random, listed: Sequence[str], count: int, at_once: int) -> list[Page]:
    """So many pages; of those that are looked at together, each shape of a list is on one at most,
    and there once: what colour "the star" has can be asked of one only."""
    pages: list[Page] = []
    while len(pages) < count:
        shown = page(random, len(pages) + 1)
        together = [*pages[len(pages) // at_once * at_once :], shown]
        times = Counter(thing.name for each in together for thing in each.layout.cells)
        if shown.picture.size == SIZE and all(times[shape] <= 1 for shape in listed):
            pages.append(shown)
    return pages


def measure_pdf(
    model: px.Pixtral, pages: Sequence[Page], listed: Sequence[str], at_once: int, counts: Counter,
    *, text: bool,
) -> None:  # fmt: skip
    """One PDF."""
    lists = {
        shape: {
            "type": "array",
            "x-question": f"How many {PLURALS[shape]} are there?",
            "items": {
                "enum": [*COLOURS], "x-question": f"What colour is the {shape}?",
                "x-present": f"Is there a {shape}?",
            },
        }
        for shape in listed
    }  # fmt: skip
    schema = {"type": "object", "properties": lists, "required": [*listed]}
    sheets = [Sheet(each.picture, words_of(each) if text else ()) for each in pages]
    found = px.extract(
        model, io.BytesIO(drawn_pdf(sheets, turned=len(pages) // 2)), schema,
        one_by_one=True, pages_at_once=at_once,
        image_options=px.ImageOptions(
            image_budget=px.patch_grid(*SIZE, model.config.vision).tokens
        ),
    )  # fmt: skip
    there = {
        (thing.name, (each.number - 1) // at_once): (each, cell)
        for each in pages
        for cell, thing in enumerate(each.layout.cells)
        if thing.name in listed
    }
    counts["there"] += len(there)
    for pointer, field in found.fields.items():
        shape = pointer.split("/")[1]
        seen = there.pop((shape, ((field.page or 0) - 1) // at_once), None)
        counts["found"] += seen is not None
        if seen is None or field.value != seen[0].layout.cells[seen[1]].colour:
            counts["wrong"] += 1
            counts["passed"] += not field.needs_review
            continue
        shown, cell = seen
        counts["right"] += 1
        counts["page"] += field.page == shown.number
        counts["met"] += field.page == shown.number and meets(field.box, shown, cell)


def words_of(shown: Page) -> list[tuple[str, float, float]]:
    """What is in the cells of a page, for a `Sheet`."""
    words = []
    for cell, thing in enumerate(shown.layout.cells):
        row, column = shown.patches(cell)[0]
        words.append((str(thing), column * PATCH + 2.0, (row + 1.2) * PATCH))
    return words


def meets(box: tuple[float, float, float, float], shown: Page, cell: int) -> bool:
    """Whether a box reaches into a cell of a page."""
    x, y, width, height = box
    rows, columns = (side / PATCH for side in (shown.picture.height, shown.picture.width))
    return any(
        x * columns < column + 1 and (x + width) * columns > column
        and y * rows < row + 1 and (y + height) * rows > row
        for row, column in shown.patches(cell)
    )  # fmt: skip


if __name__ == "__main__":
    main()
