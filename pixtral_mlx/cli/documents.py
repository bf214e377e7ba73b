"""The flags of `extract`."""

from typing import Any

from .arguments import add_image_options, add_model
from .usage import file_name


def add_extract(commands: Any) -> None:
    """`pixtral-mlx extract`."""
    commands.add_parser(
        "extract",
        help="read documents into data that can be checked, a row for each",
        description="Read each document into data of a schema, and say of every value where it "
        "stands, how sure it is, and why somebody should look. If it is interrupted, run it again: "
        "it continues where it stopped.",
        usage="%(prog)s [OPTIONS] --schema SCHEMA -o OUTPUT FOLDER|FILE [FOLDER|FILE ...]",
        fill=_fill_extract,
        words="files",
    )


def _fill_extract(extract: Any) -> None:
    from ..engine.options import GenerationOptions
    from ..extraction.options import ExtractionOptions
    from .flags import add_options

    add_model(extract)
    add = extract.add_argument
    files = "pictures and PDFs, a document each, or folders of them; x.pdf#page=2-5"
    add("files", type=file_name, nargs="*", metavar="FOLDER|FILE", help=files)
    schema = "the file of a JSON schema, or the name of a ready one"
    add("--schema", type=file_name, metavar="SCHEMA", help=schema)
    add("--list-schemas", action="store_true", help="list the ready schemas, and read nothing")
    rows = "where a JSON line is added for each document; - is stdout"
    add("-o", "--output", type=file_name, metavar="JSONL", help=rows)
    pages = "write a page for each document into this folder, to check it on"
    add("--review", type=file_name, metavar="DIR", help=pages)
    table = "write all rows as a table too, a column for each field"
    add("--csv", type=file_name, metavar="CSV", help=table)
    decided = "put what was decided on a review page into the rows of -o, and read nothing"
    add("--apply", type=file_name, metavar="JSON", help=decided)
    add("--overwrite", action="store_true", help="discard the rows already in the file")
    add_options(
        extract, ExtractionOptions, "instructions", "double_check", "min_confidence",
        "second_look", "second_seed", "pages_at_once",
    )  # fmt: skip
    alone = "ask for every field by a question of its own, for models that cannot write JSON"
    add("--one-by-one", action="store_true", help=alone)
    add_options(
        extract.add_argument_group("sampling"), GenerationOptions, "max_tokens", "temperature",
        "seed", defaults={"max_tokens": 4096},
    )  # fmt: skip
    add_options(
        extract.add_argument_group("memory"), GenerationOptions, "prefill_step_size", "kv_bits",
        "kv_group_size",
    )  # fmt: skip
    add_image_options(extract)
    extract.set_defaults(run=".extract:run")
