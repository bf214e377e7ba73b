"""What `extract` does with pixtral-mini's drawn scenes: the machinery, and nothing about documents.

    python benchmarks/extraction.py [--scenes 100] [--pages 20] [--only NAME ...]

1. `json`: scenes read by mini with its adapter `json`: a first pass in JSON and a question for each
   field. Valid documents, values right, boxes that meet the evidence, seconds of both passes.
2. `absent`: shapes of which a scene has one or none, asked one by one. Those that are not there and
   null; inventions that nobody flagged; and what a threshold alone would have let pass.
3. `totals`: pictures that say how many cells they have, half of them wrongly.
4. `ranking`: how well confidence ranks right values above wrong ones, on mini rounded to 2 bits
   (AUROC); and how often an answer drawn at random is the same (`second_seed`).
5. `cost`: seconds of both passes where pages have more tokens: enlarged scenes.
6. `pdf`: PDFs of scenes, one page at a time, with a text of their own and without, one page turned:
   rows right and in order, pages right, boxes that meet the cell; and the same pictures alone.

Scenes begin at a seed that training never saw.
"""

import argparse
import io
import time
from collections import Counter
from random import Random

from drawn_pdfs import Sheet, drawn_pdf

import pixtral_mlx as px
from pixtral_mlx.mini import scene
from pixtral_mlx.mini.drawing import COLOURS, SHAPES
from pixtral_mlx.mini.questions import PLURALS
from pixtral_mlx.mini.recipes import described
from pixtral_mlx.mini.scene_layout import Layout, Thing, draw

FIRST_SEED = 9_500_000
ALWAYS = {"x-present": False}
THING = {"type": "string", "maxLength": 30, **ALWAYS}
ROWS, COLUMNS = 3, 5
"""Of the scenes in PDFs; their size in points is that of the picture in pixels."""
SIDE = 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=[*MEASURES, "pdf"])
    given = parser.parse_args()
    mini = px.load("mini", dtype="float32")
    print(f"float32 products in {px.machine().float32_products}\n")
    seeds = range(FIRST_SEED, FIRST_SEED + given.scenes)
    for name in given.only:
        start = time.perf_counter()
        if name == "pdf":
            measure_pdfs(mini, given.pages)
        else:
            MEASURES[name](mini, seeds)
        print(f"  ({time.perf_counter() - start:.0f} s)\n", flush=True)


def share(part: float, whole: float) -> str:
    """ "3 of 4 (75.0 %)"."""
    return f"{part:g} of {whole:g} ({100 * part / whole:.1f} %)" if whole else "none"


def meets(box, layout: Layout, cells) -> bool:
    """Whether a box reaches into one of some cells."""
    x, y, width, height = box
    for row, column in map(layout.place, cells):
        across = x * layout.columns < column + 1 and (x + width) * layout.columns > column
        if across and y * layout.rows < row + 1 and (y + height) * layout.rows > row:
            return True
    return False


# Scenes ----------------------------------------------------------------------------------------


def scene_schema(layout: Layout) -> dict:
    """What the adapter writes, with a question for each field."""
    last = f"What is in row {layout.rows}, column {layout.columns}?"
    fields = {
        "outline": {"enum": ["wide", "tall", "square"], "x-question": "Wide, tall or square?"},
        "rows": {"type": "integer", "maximum": 5, "x-question": "How many rows are there?"},
        "columns": {"type": "integer", "maximum": 5, "x-question": "How many columns are there?"},
        "first": {**THING, "x-question": "What is in row 1, column 1?"},
        "last": {**THING, "x-question": last},
        "code": {"type": ["string", "null"], "x-question": "What does it say?"},
    }
    named = {name: {**field, **ALWAYS} for name, field in fields.items()}
    question = "Describe the picture as JSON."
    return {"type": "object", "properties": named, "required": [*named], "x-question": question}


def measure_json(mini, seeds) -> None:
    """Two passes over scenes."""
    model = px.load("mini", adapter_path="json", dtype="float32")
    counts, seconds = Counter(), [0.0, 0.0]
    for seed in seeds:
        layout = scene(seed).layout
        found = px.extract(model, scene(seed).image, scene_schema(layout))
        wanted = described(layout)
        code = [i for i, thing in enumerate(layout.cells) if thing.name and not thing.colour]
        cells = {"first": [0], "last": [len(layout.cells) - 1], "code": code}
        seconds = [total + more for total, more in zip(seconds, found.seconds, strict=True)]
        for name, value in wanted.items():
            field = found.fields[f"/{name}"]
            right = field.value == value
            counts["values"] += 1
            counts["right"] += right
            counts["flagged", right] += field.needs_review
            if name in cells and field.value is not None:
                counts["boxes"] += 1
                counts["met"] += meets(field.box, layout, cells[name])
    wrong = counts["values"] - counts["right"]
    print("json: mini with its adapter, a pass in JSON and a question for each field")
    print(f"  valid {share(len(seeds), len(seeds))}")  # anything else is an error and ends this
    print(f"  values right {share(counts['right'], counts['values'])}")
    print(f"  wrong values that need review {share(counts['flagged', False], wrong)}")
    print(f"  right values that need review {share(counts['flagged', True], counts['right'])}")
    print(f"  boxes that meet the evidence {share(counts['met'], counts['boxes'])}")
    first, second = seconds
    print(f"  first pass {first:.1f} s, second {second:.1f} s ({100 * second / first:.0f} %)")


def measure_cost(mini, seeds) -> None:
    """The second pass beside the first, by the tokens of a page."""
    model = px.load("mini", adapter_path="json", dtype="float32")
    print("cost: the second pass beside the first, where a scene is enlarged")
    for times in (1, 2, 4):
        tokens, seconds = [], [0.0, 0.0]
        for seed in seeds[:10]:
            picture = scene(seed).image
            picture = picture.resize((times * picture.width, times * picture.height))
            tokens.append(px.patch_grid(*picture.size, model.config.vision).tokens)
            schema = scene_schema(scene(seed).layout)
            found = px.extract(model, picture, schema, one_by_one=False, max_tokens=200)
            seconds = [total + more for total, more in zip(seconds, found.seconds, strict=True)]
        first, second = seconds
        print(
            f"  {sum(tokens) / len(tokens):.0f} tokens a page: first pass {first:.1f} s, second "
            f"{second:.1f} s ({100 * second / first:.0f} %)"
        )


def measure_absent(mini, seeds) -> None:
    """Shapes that are there or not."""
    counts = Counter()
    for seed in seeds:
        layout = scene(seed).layout
        times = Counter(thing.name for thing in layout.cells)
        names = [shape for shape in SHAPES if times[shape] <= 1]
        fields = {
            name: {
                "enum": [*COLOURS, None], "x-question": f"What colour is the {name}?",
                "x-present": f"How many {PLURALS[name]} are there?",
            }
            for name in names
        }  # fmt: skip
        schema = {"type": "object", "properties": fields, "required": names}
        found = px.extract(mini, scene(seed).image, schema, one_by_one=True)
        blind = px.extract(
            mini, scene(seed).image, schema, one_by_one=True, double_check=False, min_confidence=0
        )
        for name in names:
            field = found.fields[f"/{name}"]
            cells = [i for i, thing in enumerate(layout.cells) if thing.name == name]
            if cells:
                counts["there"] += 1
                counts["right"] += field.value == layout.cells[cells[0]].colour
                counts["lost"] += field.value is None
                if field.value is not None:
                    counts["boxes"] += 1
                    counts["met"] += meets(field.box, layout, cells)
                continue
            counts["absent"] += 1
            counts["null"] += field.value is None
            counts["passed"] += field.value is not None and not field.needs_review
            sure = blind.fields[f"/{name}"].confidence
            counts[0.9] += sure >= 0.9
            counts[0.99] += sure >= 0.99
    print("absent: the colour of shapes that are there once or not at all, one by one")
    print(f"  absent and null {share(counts['null'], counts['absent'])}")
    print(f"  inventions that nobody flagged {share(counts['passed'], counts['absent'])}")
    print(f"  there and right {share(counts['right'], counts['there'])}")
    print(f"  there and taken for absent {share(counts['lost'], counts['there'])}")
    print(f"  boxes that meet the shape {share(counts['met'], counts['boxes'])}")
    for least in (0.9, 0.99):
        passed = share(counts[least], counts["absent"])
        print(f"  without that question, confidence >= {least} lets pass {passed} inventions")


def totals_picture(random: Random, wrong: bool) -> tuple[Layout, int]:
    """A grid whose only characters are two digits: the number of its cells, or another one."""
    sizes = [
        (rows, columns)
        for rows in range(2, 6)
        for columns in range(3, 6)
        if rows * columns >= 10 and len({*str(rows * columns)}) == 2
    ]
    rows, columns = random.choice(sizes)
    total = rows * columns
    while wrong and (total == rows * columns or len({*str(total)}) < 2):
        total = random.randint(10, 30)
    cells = [Thing(random.choice(SHAPES), random.choice([*COLOURS])) for _ in range(rows * columns)]
    start = random.randrange(rows) * columns + random.randrange(columns - 1)
    cells[start : start + 2] = [Thing(digit) for digit in str(total)]
    return Layout(rows, columns, tuple(cells), random.getrandbits(32)), total


def measure_totals(mini, seeds) -> None:
    """A rule that holds for half of the pictures."""
    size = {"type": "integer", "minimum": 1, "maximum": 5, **ALWAYS}
    schema = {
        "type": "object",
        "properties": {
            "rows": {**size, "x-question": "How many rows are there?"},
            "columns": {**size, "x-question": "How many columns are there?"},
            "total": {
                "type": "integer",
                "maximum": 99,
                "x-question": "What is the code?",
                **ALWAYS,
            },
        },
        "required": ["rows", "columns", "total"],
        "x-checks": ["total == rows * columns"],
    }
    counts = Counter()
    for seed in seeds:
        random, wrong = Random(seed), seed % 2 == 1
        layout, _ = totals_picture(random, wrong)
        found = px.extract(mini, draw(layout), schema, one_by_one=True)
        counts["wrong" if wrong else "sound"] += 1
        counts["flagged" if wrong else "alarms"] += bool(found.reasons)
    print("totals: rows, columns, and what the picture says their product is")
    print(f"  wrong totals flagged {share(counts['flagged'], counts['wrong'])}")
    print(f"  sound totals flagged {share(counts['alarms'], counts['sound'])}")


def measure_ranking(mini, seeds) -> None:
    """Confidence of a model that errs."""
    model = px.quantized_copy(mini, bits=2, group_size=64)
    right, wrong, agreed = [], [], Counter()
    for seed in seeds:
        fields, answers = {}, {}
        for number, question in enumerate(scene(seed).questions):
            if question.kind in ("which", "describe"):
                continue
            name = f"{question.kind}{number}"
            fields[name] = {**THING, "x-question": question.text}
            answers[name] = question.answer
        schema = {"type": "object", "properties": fields, "required": [*fields]}
        options = {"one_by_one": True, "double_check": False, "second_seed": seed}
        found = px.extract(model, scene(seed).image, schema, **options)
        for name, answer in answers.items():
            field = found.fields[f"/{name}"]
            (right if field.value == answer else wrong).append(field.confidence)
            agreed[field.value == answer] += bool(field.agrees)
    pairs = [(a > b) + (a == b) / 2 for a in right for b in wrong]
    print("ranking: mini at 2 bits, ordinary questions one by one")
    print(f"  right {share(len(right), len(right) + len(wrong))}")
    print(f"  AUROC of the confidence {sum(pairs) / max(len(pairs), 1):.3f}")
    for name, group in (("right", right), ("wrong", wrong)):
        same = share(agreed[group is right], len(group))
        print(f"  {name}: mean confidence {sum(group) / len(group):.3f}, drawn again {same}")


# PDFs ------------------------------------------------------------------------------------------


def sheet(layout: Layout, *, text: bool) -> Sheet:
    """A scene, with the words of its things in their cells."""
    picture = draw(layout)
    wide, high = picture.width / layout.columns, picture.height / layout.rows
    words = []
    for cell, thing in enumerate(layout.cells if text else ()):
        row, column = layout.place(cell)
        words.append((str(thing), column * wide + 2, (row + 0.6) * high))
    return Sheet(picture, words)


ENDS_OF_ROWS = {
    "type": "object",
    "properties": {
        "rows": {
            "type": "array", "x-question": "How many rows are there?",
            "items": {
                "type": "object",
                "properties": {
                    "begins": {**THING, "x-question": "What is in row {n}, column 1?"},
                    "ends": {**THING, "x-question": f"What is in row {{n}}, column {COLUMNS}?"},
                },
                "required": ["begins", "ends"],
            },
        }
    },
    "required": ["rows"],
}  # fmt: skip
"""Of each row of a scene, what it begins and ends with."""


def measure_pdfs(mini, pages: int) -> None:
    """Rows that go on over pages."""
    layouts, seed = [], FIRST_SEED
    while len(layouts) < pages:
        layout = scene(seed, rows=ROWS, columns=COLUMNS).layout
        layouts += [layout] if draw(layout).size == (COLUMNS * SIDE, ROWS * SIDE) else []
        seed += 1
    budget = px.patch_grid(COLUMNS * SIDE, ROWS * SIDE, mini.config.vision).tokens
    wanted = [
        {"begins": str(layout.cell(row, 0)), "ends": str(layout.cell(row, COLUMNS - 1))}
        for layout in layouts
        for row in range(ROWS)
    ]
    print(f"pdf: {pages} pages, one at a time, {len(wanted)} rows of two values")
    alone = [
        row
        for layout in layouts
        for row in px.extract(mini, draw(layout), ENDS_OF_ROWS, one_by_one=True).data["rows"]
    ]
    tell(wanted, alone, "  the pictures alone: values right")
    for text in (False, True):
        sheets = [sheet(layout, text=text) for layout in layouts]
        data = drawn_pdf(sheets, turned=pages // 2)
        found = px.extract(
            mini, io.BytesIO(data), ENDS_OF_ROWS, one_by_one=True, pages_at_once=1,
            image_options=px.ImageOptions(image_budget=budget),
        )  # fmt: skip
        print(f"  with{'' if text else 'out'} a text of its own:")
        tell(wanted, found.data["rows"], "    values right")
        tell_places(found, layouts, wanted, text=text)


def tell_places(found: px.Extraction, layouts: list[Layout], wanted: list, *, text: bool) -> None:
    """Pages and boxes of what was found, and whether the text agrees."""
    counts = Counter()
    for pointer, field in found.fields.items():
        _, _, number, name = pointer.split("/")
        page, row = divmod(int(number), ROWS)
        right = int(number) < len(wanted) and field.value == wanted[int(number)][name]
        cell = layouts[0].columns * row + (0 if name == "begins" else COLUMNS - 1)
        counts["fields"] += 1
        counts["page"] += field.page == page + 1
        counts["met"] += right and meets(field.box, layouts[page], [cell])
        counts["right"] += right
        counts["snapped"] += right and field.text is not None
        counts["unsaid"] += not right and any("does not say" in r for r in field.reasons)
    print(f"    pages right {share(counts['page'], counts['fields'])}")
    print(f"    of right values, boxes that meet the cell {share(counts['met'], counts['right'])}")
    if text:
        print(f"    right values snapped to words {share(counts['snapped'], counts['right'])}")
        wrong = counts["fields"] - counts["right"]
        print(f"    wrong values that the text does not say {share(counts['unsaid'], wrong)}")
    print(f"    pages named in the row {len(found.row()['pages'])}")


def tell(wanted: list, found: list, what: str) -> None:
    """How many values are right, those of rows that are missing counted as wrong."""
    right = sum(
        one[name] == other[name] for one, other in zip(wanted, found, strict=False) for name in one
    )
    print(f"{what} {share(right, 2 * len(wanted))}, rows {len(found)} of {len(wanted)}")


MEASURES = {
    "json": measure_json, "absent": measure_absent, "totals": measure_totals,
    "ranking": measure_ranking, "cost": measure_cost,
}  # fmt: skip

if __name__ == "__main__":
    main()
