"""`python -m pixtral_mlx.mini COMMAND`: train pixtral-mini, export it, measure it."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from ..checkpoint.checkpoint import DTYPES
from ..errors import PixtralError
from . import CHECKPOINT

STATE = Path("mini-training")
"""Where a training run keeps its state unless told otherwise; ignored by git."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (PixtralError, ValueError) as error:
        print(f"pixtral_mlx.mini {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = "; the same command continues" if arguments.command == "train" else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pixtral_mlx.mini", description=__doc__, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train", help="train from scratch, or continue where a run stopped", allow_abbrev=False
    )
    train.add_argument("--state", type=Path, default=STATE, help=f"folder of the run ({STATE})")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--workers", type=int, default=1, help="processes that draw scenes (1)")
    train.add_argument(
        "--from-committed", action="store_true",
        help="continue from the weights in the package, not from scratch (give a new --seed)",
    )  # fmt: skip
    train.set_defaults(run=_train)
    export = commands.add_parser(
        "export", help="write the weights of a run as a checkpoint", allow_abbrev=False
    )
    export.add_argument("dst", type=Path, metavar="DST")
    export.add_argument("--state", type=Path, default=STATE)
    export.set_defaults(run=_export)
    evaluate = commands.add_parser(
        "evaluate", help="ask questions about new scenes", allow_abbrev=False
    )
    evaluate.add_argument("--model", type=Path, default=CHECKPOINT, help="checkpoint folder")
    evaluate.add_argument("--scenes", type=_count, default=1000)
    evaluate.add_argument("--first-seed", type=int, help="of the first scene")
    evaluate.add_argument(
        "--dtype", choices=tuple(DTYPES), help="to compute in; float32 is faster on a CPU"
    )
    evaluate.add_argument("--workers", type=_count, default=1, help="processes that ask (1)")
    evaluate.add_argument(
        "--write", action="store_true", help="put what is printed into the checkpoint's README"
    )
    evaluate.set_defaults(run=_evaluate)
    novelty = commands.add_parser(
        "novelty", help="ask about what training never drew", allow_abbrev=False
    )
    novelty.add_argument("--scenes", type=_count, default=300)
    novelty.set_defaults(run=_novelty)
    rows = commands.add_parser(
        "rows", help="draw what an adapter is taught with", allow_abbrev=False
    )
    rows.add_argument("name", choices=("pages", "json", "charts"))
    rows.add_argument("dst", type=Path, metavar="DST", help="a new folder")
    rows.add_argument("--train", type=_count, default=6000, help="rows to learn from (6000)")
    rows.add_argument("--valid", type=_count, default=300, help="rows for validation (300)")
    rows.set_defaults(run=_rows)
    words = commands.add_parser("words", help="write the tokenizer file", allow_abbrev=False)
    words.add_argument("dst", type=Path, metavar="DST")
    words.set_defaults(run=_words)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _train(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from .curves import draw_curves
    from .stages import CONTINUED, STAGES, Course

    course = Course(
        arguments.state, CHECKPOINT / "tekken.json", seed=arguments.seed,
        workers=arguments.workers,
        stages=CONTINUED if arguments.from_committed else STAGES,
        weights=CHECKPOINT if arguments.from_committed else None,
    )  # fmt: skip
    log, picture = arguments.state / "log.jsonl", arguments.state / "curves.png"
    total = sum(stage.steps for stage in course.stages)
    with tqdm(total=total, initial=course.steps_done, unit="step") as bar:

        def report(record: dict[str, Any]) -> None:
            right = ", ".join(f"{share:.1%}" for share in record["right"])
            bar.set_description(f"{record['stage']}: loss {record['loss']:.3f}, right {right}")
            bar.update()
            if record["step"] % 100 == 0 or record["step"] == record["steps"]:
                draw_curves(log, picture)

        course.run(report)


def _export(arguments: argparse.Namespace) -> None:
    from .export import export, pupil_of

    pupil = pupil_of(arguments.state)
    export(pupil.model, CHECKPOINT / "tekken.json", arguments.dst)


def _evaluate(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from .evaluation import FIRST_SEED, evaluate
    from .report import around_section, conditions, report, write_section

    readme = arguments.model / "README.md"
    if arguments.write:
        around_section(readme)  # better an error now than after the measurement
    first = FIRST_SEED if arguments.first_seed is None else arguments.first_seed
    start = time.perf_counter()
    with tqdm(total=arguments.scenes, unit="scene") as bar:

        def progress(done: int, _: int) -> None:
            bar.update(done - bar.n)

        found = evaluate(
            arguments.model, arguments.scenes, first_seed=first, dtype=arguments.dtype,
            workers=arguments.workers, progress=progress,
        )  # fmt: skip
    lines = report(
        found,
        conditions(
            arguments.model, range(first, first + arguments.scenes), dtype=arguments.dtype,
            workers=arguments.workers, seconds=time.perf_counter() - start,
        ),
    )  # fmt: skip
    print("\n".join(lines))
    if arguments.write:
        write_section(readme, lines)


def _novelty(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ..pixtral import load
    from .evaluation import FIRST_SEED
    from .novelty import ask_new, census, drawn_by_training, novelty_table
    from .report import conditions

    start, drawn = time.perf_counter(), census(drawn_by_training())
    known, pairs = drawn.contents, drawn.pairs
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.scenes)
    with tqdm(total=len(seeds), unit="scene") as bar:
        found, old = ask_new(load(CHECKPOINT, "float32"), seeds, known=known, progress=bar.update)
    seconds = time.perf_counter() - start
    print(*conditions(CHECKPOINT, seeds, dtype="float32", workers=1, seconds=seconds), sep="\n")
    print(f"training {drawn.pictures:,} pictures, {len(known):,} contents")
    print(
        f"pairs    {len(pairs):,} of shape, colour and cell; the rarest {min(pairs.values())} times"
    )
    print(f"old      {old:,} of {len(seeds):,} scenes have a content of training\n")
    print(*novelty_table(found), sep="\n")


def _rows(arguments: argparse.Namespace) -> None:
    from .recipes import write_rows

    write_rows(arguments.name, arguments.dst, {"train": arguments.train, "valid": arguments.valid})


def _words(arguments: argparse.Namespace) -> None:
    from .words import write_tekken

    write_tekken(arguments.dst)


if __name__ == "__main__":
    sys.exit(main())
