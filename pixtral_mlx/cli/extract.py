"""`pixtral-mlx extract`: documents to rows of data, with what a person needs to check them."""

import csv
import hashlib
import io
import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import FormError, PixtralError
from ..extraction.corrections import apply
from ..extraction.extract import OPTIONS, extract
from ..extraction.leaves import leaves
from ..extraction.options import ExtractionOptions
from ..extraction.reading import as_schema
from ..extraction.ready_made import read_schema, ready_made
from ..extraction.review import page_name, write_page
from ..files import new_file
from ..inputs.image_source import short_name
from .batch import MOST_NAMED, Contents, Item, find_items, left
from .flags import given_options
from .question import image_options, load_model
from .row_file import RowFile, RowStream, open_rows
from .settings import chosen_model
from .status import Status
from .streams import leaving_at_once
from .usage import one_line
from .wrap import say

NAMES = "source", "data"
"""What a row calls the document, and what was found."""

_CELLS = "source", "needs_review", "reasons", "error"


def run(arguments: Namespace) -> int:
    """Read each document into a row; what is in the output already is not read again."""
    if arguments.list_schemas:
        return _list_schemas()
    if arguments.apply is not None:
        return _apply(arguments)
    schema = _schema(arguments)
    options, pictures = _options(arguments), image_options(arguments)
    if not arguments.output:
        raise ValueError("there is no output: give -o out.jsonl")
    items = find_items(arguments.files, pictures.pdf_password)
    made_with = {"model": chosen_model(arguments).model, "schema": _digest(schema),
                 "options": _chosen(options, pictures)}  # fmt: skip
    with open_rows(arguments.output, made_with, overwrite=arguments.overwrite, names=NAMES) as rows:
        waiting = left(items, rows, contents := Contents())
        if waiting:
            model = load_model(arguments)
            with Status() as status:
                for number, item in enumerate(waiting):
                    done = len(items) - len(waiting) + number
                    status.step(f"{done + 1} of {len(items)}: {short_name(item.file)}", "questions")
                    with leaving_at_once():
                        asked = {**options, "image_options": pictures, "progress": status.update}
                        row = _row(model, item, schema, asked, contents, arguments.review)
                    rows.add(row)
        _say_missing_pages(arguments, rows.rows)
        if arguments.csv:
            _write_csv(Path(arguments.csv), schema, rows.rows)
        failed = _summarize(rows)
    return 1 if failed else 0


def _list_schemas() -> int:
    for name, what in ready_made().items():
        say(f"{name:18}{what}")
    say("--schema NAME reads one; pixtral_mlx/extraction/schemas has their files", file=sys.stderr)
    return 0


def _schema(arguments: Namespace) -> Mapping[str, Any]:
    """The schema, read and checked before a model is opened."""
    if not arguments.files:
        raise ValueError("there is no document: give pictures and PDFs, or folders of them")
    if arguments.schema is None:
        raise ValueError("there is no schema: give --schema FILE; --list-schemas shows ready ones")
    found = read_schema(arguments.schema)
    try:
        as_schema(found)
    except FormError as error:
        raise FormError(f"{short_name(arguments.schema)}: {error}") from error
    return found


def _options(arguments: Namespace) -> dict[str, Any]:
    """What `extract` takes, checked."""
    options = given_options(arguments, ExtractionOptions)
    options["one_by_one"] = True if arguments.one_by_one else None
    ExtractionOptions(**options)
    return {
        **options,
        **{name: getattr(arguments, name) for name in OPTIONS if hasattr(arguments, name)},
    }


def _chosen(options: Mapping[str, Any], pictures: Any) -> dict[str, Any]:
    """The options that rows depend on, for their `options`."""
    indifferent = {"force", "progress", "prefill_step_size", "reuse"}
    kept = {name: value for name, value in options.items() if name not in indifferent}
    seen = {
        name: getattr(pictures, name) for name in ("resize", "orient", "grey16", "image_budget")
    }
    return json.loads(json.dumps({**kept, **seen}))


def _digest(schema: Mapping[str, Any]) -> str:
    """What tells a schema from others, wherever it is kept."""
    return hashlib.sha256(json.dumps(schema, ensure_ascii=False).encode()).hexdigest()


def _row(
    model: Any, item: Item, schema: Mapping[str, Any], options: dict[str, Any],
    contents: Contents, review: str | None,
) -> dict[str, Any]:  # fmt: skip
    """What there is to say of a document, or why it could not be read; its page is written first,
    so that every row has one."""
    content = contents.of(item)  # before it is opened: what changes later is read again
    try:
        found = extract(model, item.source, schema, **options)
        row = {**found.row(), "source": item.file, "error": None}
        if review is not None:
            folder = Path(review)
            folder.mkdir(parents=True, exist_ok=True)
            write_page(found.to_html(source=item.file), folder / page_name(item.file), replace=True)
    except PixtralError as error:
        said = str(error)
        row = {
            "source": item.file, "data": None, "fields": {}, "needs_review": True,
            "reasons": [said], "pages": [], "one_by_one": None, "error": said,
        }  # fmt: skip
    return {**row, "sha256": content}


def _say_missing_pages(arguments: Namespace, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of an earlier run, which had no --review."""
    if arguments.review is None:
        return
    folder = Path(arguments.review)
    lacking = [
        row for row in rows
        if row["error"] is None and not (folder / page_name(row["source"])).exists()
    ]  # fmt: skip
    if lacking:
        say(
            f"{len(lacking):,} documents were read without --review and have no page there: "
            "--overwrite reads all again", file=sys.stderr,
        )  # fmt: skip


def _summarize(rows: RowFile | RowStream) -> int:
    """Say on stderr which documents failed, and count; returns how many failed."""
    failed = [row for row in rows.rows if row["error"] is not None]
    for row in failed[:MOST_NAMED]:
        name, error = short_name(row["source"]), str(row["error"])
        named = error if error.startswith(name) else f"{name}: {error}"
        say(f"! {one_line(named)}", file=sys.stderr)
    if len(failed) > MOST_NAMED:
        say(f"! and {len(failed) - MOST_NAMED:,} more: their rows say why", file=sys.stderr)
    fields = [field for row in rows.rows for field in row["fields"].values()]
    review = sum(field["needs_review"] for field in fields)
    documents = sum(row["needs_review"] for row in rows.rows if row["error"] is None)
    note = f", {len(failed):,} failed" if failed else ""
    say(
        f"{_count(len(rows.rows), 'document')}{note}; {_count(len(fields), 'field')}; to review: "
        f"{_count(review, 'field')} in {_count(documents, 'document')}", file=sys.stderr,
    )  # fmt: skip
    return len(failed)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


# Other outputs ---------------------------------------------------------------------------------


def _write_csv(path: Path, schema: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """A row a document and a column a field, those of arrays as far as any document has them."""
    columns: dict[str, None] = {}
    for row in rows:
        if row["data"] is not None:
            columns |= dict.fromkeys(leaf.pointer for leaf, _ in leaves(schema, row["data"]))
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\r\n")
    table.writerow([*_CELLS, *(name.removeprefix("/") for name in columns)])
    for row in rows:
        values = {pointer: field["value"] for pointer, field in row["fields"].items()}
        known = {**row, "reasons": "; ".join(_reasons(row))}
        table.writerow(
            [*(known[name] for name in _CELLS), *(_cell(values.get(c)) for c in columns)]
        )
    with new_file(path, replace=True, error=PixtralError) as hidden:
        data = text.getvalue().encode("utf-8", "backslashreplace")
        hidden.write_bytes(b"\xef\xbb\xbf" + data)  # by which Excel knows UTF-8


def _cell(value: Any) -> Any:
    plain = value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))
    return value if plain else json.dumps(value, ensure_ascii=False)


def _reasons(row: Mapping[str, Any]) -> Iterator[str]:
    yield from row["reasons"]
    for pointer, field in row["fields"].items():
        yield from (f"{pointer}: {reason}" for reason in field["reasons"])


def _apply(arguments: Namespace) -> int:
    """Put what a person has decided on a review page into the rows."""
    if not arguments.output:
        raise ValueError("--apply needs the rows that are corrected: give -o out.jsonl")
    path = Path(arguments.output)
    if not path.is_file():
        raise PixtralError(f"{path}: no such file: give the rows that extract wrote")
    with RowFile(path, {}, names=NAMES) as rows:
        schema = None if arguments.schema is None else read_schema(arguments.schema)
        changed = apply(Path(arguments.apply), rows.rows, schema)
        for row in changed:
            rows.add(row)
        if arguments.csv:
            if schema is None:
                raise ValueError("--csv needs --schema, which names the columns")
            _write_csv(Path(arguments.csv), schema, rows.rows)
        _summarize(rows)
    return 0
