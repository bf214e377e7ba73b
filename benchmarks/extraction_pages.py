"""What `extract` does with several pages in one question: pixtral-mini with its adapter `pages`.

    python benchmarks/extraction_pages.py [--documents 40]

Documents are one, two or three small pages (`pixtral_mlx.mini.pages`), which the adapter has not
seen. The form asks for the colour of shapes that are there once, and of others that are not there:
with all pages in one question, which names the page, and with a page at a time, where no question
names one. It shows the machinery, and nothing about documents.
"""

import argparse
from collections import Counter
from random import Random

from extraction import share

import pixtral_mlx as px
from pixtral_mlx.mini.drawing import COLOURS, SHAPES
from pixtral_mlx.mini.pages import PATCH, Page, page
from pixtral_mlx.mini.questions import PLURALS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--documents", type=int, default=40)
    given = parser.parse_args()
    model = px.load("mini", adapter_path="pages", dtype="float32")
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
