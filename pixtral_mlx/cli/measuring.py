"""The flags of `bench` and `doctor`."""

from typing import Any

from .arguments import add_dtype, add_model, add_model_name
from .usage import file_name


def add_bench(commands: Any) -> None:
    """`pixtral-mlx bench`."""
    commands.add_parser(
        "bench",
        help="measure tokens/s, GB/s, time to first token and peak memory",
        description="Measure a model on this machine; prints the medians of the runs as Markdown.",
        fill=_fill_bench,
    )


def _fill_bench(bench: Any) -> None:
    add_model(bench)
    add = bench.add_argument
    random = "instead of --model: random 4-bit weights for this share of the 12B's layers (1: all)"
    add("--random", type=float, metavar="SHARE", help=random)
    sizes = "sizes of the pictures (default 512 768 1024); 512 means 512x512"
    add("--image-size", nargs="+", default=["512", "768", "1024"], metavar="WxH", help=sizes)
    length = "length of the text prompt (default 256)"
    add("--prompt-tokens", type=int, default=256, metavar="N", help=length)
    most = "tokens written per run (default 32)"
    add("--max-tokens", type=int, default=32, metavar="N", help=most)
    runs = "runs, whose median is reported (default 3)"
    add("--runs", type=int, default=3, metavar="N", help=runs)
    bandwidth = "bandwidth of the memory, if you know it (default: published, or measured here)"
    add("--bandwidth", type=float, metavar="GB/S", help=bandwidth)
    where = "print JSON instead of the table, or write it to a new FILE as well"
    add("--json", type=file_name, nargs="?", const="-", metavar="FILE", help=where)
    bench.set_defaults(run=".bench:run")


def add_doctor(commands: Any) -> None:
    """`pixtral-mlx doctor`."""
    doctor = commands.add_parser(
        "doctor",
        help="check whether this machine is ready for the 12B and computes correctly",
        description="Check this machine and print a page to paste into an issue. Without a model "
        "it takes at most three minutes.",
    )
    add = doctor.add_argument
    model = "check this model as well: published answers of the 12B, speed, memory"
    add_model_name(doctor, model)
    pictures = "the pictures that those answers are about (default: downloaded)"
    add("--pictures", type=file_name, metavar="DIR", help=pictures)
    add_dtype(doctor)
    add("--force", action="store_true", help="go ahead even if memory looks too small")
    where = "print JSON instead of the page, or write it to a new FILE as well"
    add("--json", type=file_name, nargs="?", const="-", metavar="FILE", help=where)
    doctor.set_defaults(run=".doctor:run")
