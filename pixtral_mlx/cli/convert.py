"""`pixtral-mlx convert`: a quantized MLX folder from a checkpoint in any layout."""

import sys
from argparse import Namespace
from pathlib import Path
from shlex import quote

from ..checkpoint.names import resolve
from ..files import refuse_existing
from ..quantization.conversion import convert
from ..quantization.options import ConversionOptions
from ..quantization.plan import format_plan
from ..tables import format_bytes
from .flags import given_options
from .settings import remember_folder
from .status import Status
from .wrap import say


def run(arguments: Namespace) -> int:
    """Convert a checkpoint, or print the plan."""
    options = given_options(arguments, ConversionOptions)
    if not arguments.dst:
        raise ValueError("DST is empty: give the name of a new folder")
    ConversionOptions(**options)  # mistakes are named before a download, which draws its own bars
    if not arguments.dry_run:
        refuse_existing(Path(arguments.dst))
    source = arguments.src if arguments.dry_run else resolve(arguments.src)
    with Status("preparing") as status:

        def progress(done: int, total: int) -> None:
            if not status.total:
                status.step("converting", "B")
            status.update(done, total)

        result = convert(
            source, arguments.dst, progress=progress, dry_run=arguments.dry_run, **options
        )
    for note in result.notes:
        say(f"note: {note}", file=sys.stderr)
    if arguments.dry_run:
        say(format_plan(result.plan))
        return 0
    remember_folder(Path(result.folder))
    plan = result.plan
    say(
        f"{result.folder}: {plan.parameters:,} weights in {format_bytes(result.nbytes)}, "
        f"{plan.bits_per_weight:.2f} bits per weight, {result.seconds:.1f} s"
    )
    kept = [t for t in plan.tensors if t.reason.startswith("width")]
    if kept:
        stay = "matrices stay" if len(kept) > 1 else "matrix stays"
        say(
            f"{len(kept)} {stay} in {plan.dtype}, because their width does not fit: see --dry-run "
            "or quantization_error.json"
        )
    folder = quote(arguments.dst)
    say(
        f"Ask it: pixtral-mlx generate -m {folder} photo.jpg 'What is this?'\n"
        f"Make it the default: pixtral-mlx models default {folder}"
    )
    return 0
