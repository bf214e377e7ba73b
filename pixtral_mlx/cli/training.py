"""The flags of `tune` and `fuse`."""

from typing import Any

from .arguments import add_dtype, add_model_name
from .usage import file_name


def add_tune(commands: Any) -> None:
    """`pixtral-mlx tune`."""
    commands.add_parser(
        "tune",
        help="teach a model something: train an adapter (LoRA) on pictures and answers",
        description="Train an adapter on rows of pictures, questions and answers, with the vision "
        "encoder frozen, and say whether it helps, what it costs, and whether the pictures are "
        "used. If it is interrupted, the same command with --resume goes on.",
        fill=_fill_tune,
    )


def _fill_tune(tune: Any) -> None:
    from ..tuning.options import TuningOptions
    from .flags import add_options

    add = tune.add_argument
    add_model_name(tune)
    add_dtype(tune)
    rows = "a JSONL file of rows, or a folder with train.jsonl and perhaps valid.jsonl"
    add("--data", type=file_name, required=True, metavar="FILE|DIR", help=rows)
    where = "the folder of the adapter; with --resume, the one to go on with"
    add("-o", "--output", type=file_name, required=True, metavar="DIR", help=where)
    valid = "rows for validation (default: valid.jsonl of the folder, else a tenth of the rows)"
    add("--val", type=file_name, metavar="FILE", help=valid)
    first = "begin with the adapter in this folder, which was trained with the same options"
    add("--adapter-path", type=file_name, metavar="DIR", help=first)
    add("--resume", action="store_true", help="go on where a run with the same options stopped")
    add_options(tune, TuningOptions)
    tune.set_defaults(run=".tune:run")


def add_fuse(commands: Any) -> None:
    """`pixtral-mlx fuse`."""
    commands.add_parser(
        "fuse",
        help="add an adapter to the weights of its model, in a new folder",
        fill=_fill_fuse,
    )


def _fill_fuse(fuse: Any) -> None:
    add_model_name(fuse)
    add = fuse.add_argument
    add("--adapter-path", type=file_name, required=True, metavar="DIR", help="the adapter")
    add("dst", type=file_name, metavar="DST", help="the new folder")
    how = fuse.add_mutually_exclusive_group().add_argument
    from ..checkpoint.scheme import AFFINE_BITS
    from ..tuning.options import FUSED_BITS

    bits = f"of quantized matrices that change, if they had fewer (default: {FUSED_BITS})"
    how("--bits", type=int, choices=AFFINE_BITS, default=FUSED_BITS, help=bits)
    how("--dequantize", action="store_true", help="write every matrix unquantized")
    peft = "write no weights, but the adapter itself in the form of PEFT"
    how("--peft", action="store_true", help=peft)
    fuse.set_defaults(run=".fuse:run")
