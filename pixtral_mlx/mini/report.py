"""What an evaluation found, as text, and its place in the checkpoint's README."""

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..cost.machine import machine
from ..errors import CheckpointError
from ..files import new_file
from ..tables import format_table
from .evaluation import IN_TURN, QUANTIZED, Findings
from .looking import Looked
from .questions import KINDS

BEGIN, END = "<!-- evaluate: begin -->", "<!-- evaluate: end -->"
"""Between these two lines of a README stands what `python -m pixtral_mlx.mini evaluate` printed."""

WHOLE = ("stored", *QUANTIZED)
"""Variants that every question is asked of."""

VARIANTS = (*WHOLE, *IN_TURN, "no breaks", "transposed")


def report(found: Findings, conditions: Sequence[str]) -> list[str]:
    """Everything as lines: how it was measured, right answers, moved breaks, evidence.

    Arguments:
        conditions: see `conditions`.
    """
    lines = [*conditions, "", *answers_table(found)]
    lines += ["", transposed_line(found)]
    if not found.looked:
        return lines
    lines += ["", "Share of a right answer's attention on the patches that falls on the evidence"]
    lines += [
        "(mean over answers; uniform is its share of the area; 0.0 is decoder layer 0, head 0):"
    ]
    return [*lines, "", *evidence_table(found.looked)]


def conditions(
    folder: Path, seeds: range, *, dtype: str | None, workers: int, seconds: float
) -> list[str]:
    """What was measured, on what, in what time.

    Arguments:
        folder: of the checkpoint.
        seeds: of the scenes.
        dtype: that was computed in; None is the stored one.
        workers: processes that asked.
        seconds: that it took.
    """
    versions = f"Python {platform.python_version()}, MLX {version('mlx')}"
    took = f"{seconds:.0f} seconds in {workers} process{'es' * (workers > 1)}"
    return [
        f"weights  {fingerprint(folder)}",
        f"scenes   {len(seeds):,}, seeds {seeds.start} to {seeds.stop - 1}",
        f"machine  {machine()}, {versions}, {dtype or 'stored type'}, {took}",
    ]


def fingerprint(folder: Path) -> str:
    """Name of the weights in a folder: the beginning of their SHA-256."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return f"sha256 {digest.hexdigest()[:16]}"


def answers_table(found: Findings) -> list[str]:
    """Share of exact answers: one line a kind, and all questions together."""
    variants = [name for name in VARIANTS if any(v == name for _, v in found.asked)]
    rows: list[Sequence[str]] = [("kind", "questions", *variants)]
    for kind in KINDS:
        if found.asked[kind, "stored"]:
            shares = (_percent(found.right[kind, v], found.asked[kind, v]) for v in variants)
            rows.append((kind, str(found.asked[kind, "stored"]), *shares))
    asked = {v: sum(found.asked[kind, v] for kind in KINDS) for v in variants}
    right = {v: sum(found.right[kind, v] for kind in KINDS) for v in variants}
    shares = (_percent(right[v], asked[v]) if v in (*WHOLE, *IN_TURN) else "" for v in variants)
    return format_table([*rows, ("all", str(asked["stored"]), *shares)])


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def transposed_line(found: Findings) -> str:
    """The test of the break tokens in one sentence."""
    flipped, asked = found.right["wide", "transposed"], found.asked["wide", "transposed"]
    return (
        f"Breaks moved to where the transposed picture has them: {flipped:,} of {asked:,} pictures "
        "are called tall for wide, or wide for tall."
    )


def evidence_table(looked: dict[str, list[Looked]]) -> list[str]:
    """One column a kind of question and one for all; one line a layer and head."""
    columns = {kind: looked[kind] for kind in KINDS if looked.get(kind)}
    columns["all"] = [one for answers in columns.values() for one in answers]
    shares = {name: _mean([one.shares for one in own]) for name, own in columns.items()}
    flat = {name: np.nan_to_num(share).argmax() for name, share in shares.items()}
    best = (np.unravel_index(flat[name], share.shape) for name, share in shares.items())
    rows = [
        ["layer.head", *columns],
        ["answers", *(str(len(own)) for own in columns.values())],
        ["uniform", *(_cell(np.mean([one.uniform for one in own])) for own in columns.values())],
        ["mean", *(_cell(np.nanmean(share)) for share in shares.values())],
        ["best", *(f"{layer}.{head}" for layer, head in best)],
    ]
    for layer, head in np.ndindex(shares["all"].shape):
        cells = (_cell(share[layer, head]) for share in shares.values())
        rows.append([f"{layer}.{head}", *cells])
    return format_table(rows)


def _mean(shares: list[np.ndarray]) -> np.ndarray:
    """The mean over answers of those that are a number; NaN where there is none."""
    numbers = np.array(shares)
    known = ~np.isnan(numbers)
    counts = known.sum(axis=0)
    return np.where(known, numbers, 0).sum(axis=0) / np.where(counts, counts, np.nan)


def _cell(share: Any) -> str:
    return "-" if np.isnan(share) else _percent(share, 1)


def around_section(readme: Path) -> tuple[str, str]:
    """What stands before and after the section, with its two marker lines.

    Raises:
        CheckpointError: the file cannot be read, or has no such place.
    """
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{readme}: cannot be read ({error.strerror})") from error
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not (begin and end):
        raise CheckpointError(
            f"{readme}: has no lines {BEGIN} and {END}: put them where the tables belong"
        )
    return before + begin, end + after


def write_section(readme: Path, lines: Sequence[str]) -> None:
    """Put lines into the section, in place of what is there; errors as `around_section`."""
    before, after = around_section(readme)
    section = "\n".join(["```", *lines, "```"])
    with new_file(readme, replace=True) as hidden:
        hidden.write_text(f"{before}{section}\n{after}", encoding="utf-8")
