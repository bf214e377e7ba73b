"""Fill README's table "Verified on" from the JSON files of `pixtral-mlx doctor --json FILE`.

    python scripts/verified.py           # rewrite the table in README.md
    python scripts/verified.py --check   # status 1 if it is not what the files say

The files lie in docs/verified, one per machine.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pixtral_mlx.tables import format_memory

HOUSE = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- verified: by scripts/verified.py -->", "<!-- end of verified -->"
EMPTY = (
    "Nobody has run it on a Mac yet. Be the first: `pixtral-mlx doctor`, then open an issue with "
    "its page."
)
HEADS = (
    "chip", "memory", "system", "MLX", "checks", "model", "same first choice", "tokens/s",
    "first token", "peak", "date",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Rewrite the table, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--folder", type=Path, default=HOUSE / "docs" / "verified")
    parser.add_argument("--readme", type=Path, default=HOUSE / "README.md")
    options = parser.parse_args(arguments)
    before = options.readme.read_text(encoding="utf-8")
    try:
        after = filled(before, table(reports(options.folder)))
    except ValueError as error:
        print(f"verified.py: {error}", file=sys.stderr)
        return 1
    if options.check:
        return int(after != before)
    options.readme.write_text(after, encoding="utf-8")
    return 0


def reports(folder: Path) -> list[dict[str, Any]]:
    """Those of a folder, by chip and date.

    Raises:
        ValueError: a file that doctor did not write.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            row(report)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path.name}: not written by `pixtral-mlx doctor --json` ({error!r})"
            ) from error
        found.append(report)
    return sorted(found, key=lambda report: (report["machine"]["chip"], report["date"]))


def table(found: list[dict[str, Any]]) -> str:
    """Markdown; a sentence where there are none."""
    if not found:
        return EMPTY
    rows = [HEADS, ("---",) * len(HEADS), *map(row, found)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def row(report: dict[str, Any]) -> tuple[str, ...]:
    """The cells of one report; "-" for what was not measured."""
    machine = report["machine"]
    facts = {check["name"]: check["facts"] for check in report["checks"]}
    answers, speed = facts.get("published answers", {}), facts.get("speed", {})
    cells = (
        machine["chip"].removeprefix("Apple "),
        format_memory(machine["memory_bytes"]),
        machine["system"],
        facts["versions"]["versions"]["mlx"],
        f"{report['passed']} of {report['looked_at']}",
        report["model"] or "-",
        f"{answers['same']} of {answers['steps']}" if answers else "-",
        f"{speed['decode_tokens_per_second']:.1f}" if speed else "-",
        f"{speed['first_token_seconds']:.2f} s" if speed else "-",
        f"{speed['peak_bytes'] / 1e9:.2f} GB" if speed else "-",
        report["date"],
    )
    # What somebody sent stays in its cell.
    return tuple(" ".join(str(cell).replace("|", "/").split()) for cell in cells)


def filled(text: str, content: str) -> str:
    """A document with other content between its two marks.

    Raises:
        ValueError: it does not have them.
    """
    start, stop = text.find(BEGIN), text.find(END)
    if not 0 <= start < stop:
        raise ValueError(f"README has no {BEGIN} before {END}")
    return f"{text[: start + len(BEGIN)]}\n\n{content}\n\n{text[stop:]}"


if __name__ == "__main__":
    sys.exit(main())
