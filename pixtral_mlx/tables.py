"""Plain text for terminals: tables and sizes."""

from collections.abc import Sequence


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def format_markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """The same as a Markdown table, aligned in a terminal too; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return [f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])]


def format_seconds(seconds: float) -> str:
    """As people say it: 0.4 s, 12 s, 3 minutes."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes"


def format_share(share: float) -> str:
    """A share in two digits, as `share` in drawing/numbers.js has it: 41 %, 5.6 %, < 0.1 %."""
    if share >= 0.0995:
        return f"{100 * share:.0f} %"
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %" if share > 0 else "0 %"


def format_bytes(nbytes: int) -> str:
    """Decimal units, as disks and the documents count: 7.71 GB, 2.0 MB, 0.3 kB."""
    if nbytes < 1e5:
        return f"{nbytes / 1e3:.1f} kB"
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"


def format_memory(nbytes: float, of: float = 0) -> str:
    """Memory of a machine, as machines are sold: 64 GB, or 48 of 64 GB.

    A "64 GB" Mac holds 64 x 2**30 bytes, and nobody calls it 68.72 GB. What goes into memory is
    said in decimal units (`format_bytes`), whose numbers are larger: where something does not fit,
    its number is above that of the memory in either unit.

    Arguments:
        nbytes: the memory, or the part of it that may be used; less than 1 GB is said in decimal
            units.
        of: all of the machine's, where `nbytes` is a part of it; 0 where nobody says.
    """
    if nbytes < 2**30:
        return format_bytes(int(nbytes))
    part = nbytes / 2**30
    said = f"{part:.0f}" if part >= 9.95 or part == round(part) else f"{part:.1f}"
    return f"{said} of {of / 2**30:.0f} GB" if of > nbytes else f"{said} GB"
