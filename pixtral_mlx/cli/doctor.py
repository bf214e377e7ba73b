"""`pixtral-mlx doctor`: is this machine ready for the 12B, and does it compute what it should?

Three minutes at most, without weights. It ends with a page to paste into an issue, and `--json`
keeps every number; neither says who or where you are.
"""

import getpass
import json
import multiprocessing
import platform
import re
import signal
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from .. import __version__
from ..cost.machine import machine
from ..doctor import hub_checks, kernels, machine_checks, published
from ..doctor.kernels import LayerCheck
from ..doctor.machine_checks import FAIL, OK, SKIPPED, WARN, Check, attempt
from ..errors import PixtralError
from ..files import new_file, refuse_existing
from ..model.config import PIXTRAL_12B, PIXTRAL_12B_VISION
from ..model.device import on_gpu
from .status import Status

_TEXT, _VISION = PIXTRAL_12B.text, PIXTRAL_12B_VISION

KERNEL_SECONDS = 150.0
"""What is not finished then is left out: all of it takes three minutes at most without weights."""
ENDED = (
    "SIGABRT is macOS that ends a GPU job, see docs/macs.md: close other windows, let the display "
    "sleep, and report the lines above"
)
WIDTHS = {
    "vision": f"{_VISION.num_attention_heads} heads of {_VISION.head_dim}",
    "text": f"4 bits, {_TEXT.n_heads}/{_TEXT.n_kv_heads} heads of {_TEXT.head_dim}",
}

MARKS = {OK: "ok", WARN: "warning", FAIL: "FAILED", SKIPPED: "left out"}


def run(arguments: Namespace) -> int:
    """Look at everything; returns 1 where a check failed.

    Raises:
        ValueError: the file for the JSON is there already, or pictures without a model.
    """
    if arguments.json not in (None, "-"):
        refuse_existing(Path(arguments.json), ValueError)
    if arguments.pictures and arguments.model is None:
        raise ValueError("--pictures needs --model: the answers are the model's")
    if arguments.pictures and not Path(arguments.pictures).is_dir():
        raise ValueError(f"--pictures {arguments.pictures}: no such folder")
    folder = None
    if arguments.model is not None:
        from ..checkpoint.names import resolve

        folder = resolve(arguments.model)  # a mistake is named before minutes are spent
    start, found = time.perf_counter(), list[Check]()
    with Status() as status:
        for name, look in looks(arguments, folder, found):
            status.step(f"looking at {name}")
            found.extend(attempt(name, look))
    report = private(make_report(found, arguments.model, time.perf_counter() - start))
    if arguments.json != "-":
        print(format_page(report))
    if arguments.json:
        text = json.dumps(report, indent=2)
        if arguments.json == "-":
            print(text)
        else:
            with new_file(Path(arguments.json), error=PixtralError) as hidden:
                hidden.write_text(text + "\n", encoding="utf-8")
    return int(any(check.status == FAIL for check in found))


def looks(
    arguments: Namespace, folder: Path | None, found: list[Check]
) -> Iterator[tuple[str, Callable[[], Check | Iterable[Check]]]]:
    """(what it looks at, the check), in the order of the page.

    What keeps a GPU busy runs in a process of its own: Metal may end one.

    Arguments:
        folder: of the model, or None.
        found: what the checks so far have given.
    """
    hub = hub_checks.Hub()
    yield "machine", machine_checks.check_machine
    yield "versions", machine_checks.check_versions
    yield "memory", machine_checks.check_memory
    yield "precision", machine_checks.check_precision
    yield "bandwidth", machine_checks.check_bandwidth
    yield "kernels", lambda: apart("kernels", check_kernels, seconds=KERNEL_SECONDS)
    yield "prompt steps", lambda: machine_checks.check_steps(found)
    yield "mini", machine_checks.check_mini
    yield "disk", lambda: machine_checks.check_disk(machine_checks.download_bytes())
    yield "hub", lambda: hub_checks.check_hub(hub)
    yield "fetch", lambda: hub_checks.check_fetch(hub)
    yield "tensor names", lambda: hub_checks.check_names(hub)
    yield "tools", machine_checks.check_tools
    if folder is not None:
        options = (folder, arguments.dtype, arguments.pictures, arguments.force)
        yield "model", lambda: apart("model", check_model, *options)


def check_kernels() -> Iterator[Check]:
    """One check for each part and type, over all its sizes."""
    wanted = kernels.cases(gpu=on_gpu())
    pairs = zip(wanted, kernels.check_layers(wanted), strict=True)
    for (part, dtype), group in groupby(pairs, lambda pair: pair[0][:2]):
        kind = str(dtype).rpartition(".")[2]
        yield _kernel_check(f"{part} layer, {kind}", part, [layer for _, layer in group])
    left_out = set(kernels.cases(gpu=True)) - set(wanted)
    if left_out:
        text = (
            f"{len(left_out)} calls that take minutes on a CPU: 16 bits, and up to "
            f"{max(case.rows for case in left_out):,} patches or tokens at once"
        )
        yield Check("larger layers", SKIPPED, text)


def _kernel_check(name: str, part: str, group: list[LayerCheck]) -> Check:
    wrong = [layer for layer in group if not layer.passed]
    errors = [e for layer in group for e in (layer.error, layer.cpu_error) if e is not None]
    slowest = max(group, key=lambda layer: layer.seconds)
    text = (
        f"{WIDTHS[part]}: {len(group) - len(wrong)} of {len(group)} sizes right, error "
        f"{max(errors):.1e} at most ({group[0].allowed:.1e} allowed); {slowest.name}: "
        f"{slowest.seconds:.2g} s"
    )
    facts = {"layers": [layer.facts() for layer in group]}
    if wrong:
        told = "; ".join(f"{layer.name}: error {layer.error:.1e}" for layer in wrong[:3])
        return Check(name, FAIL, f"{text}; wrong: {told}", "answers may be wrong: report it", facts)
    return Check(name, OK, text, "", facts)


def check_model(
    folder: Path, dtype: str | None, pictures: str | None, force: bool
) -> Iterator[Check]:
    """The published answers where the model has the sizes of Pixtral 12B, and how fast it is.

    Arguments:
        folder: of the model.
        dtype, pictures, force: as the command's options.
    """
    from ..pixtral import load
    from .bench import test_image

    model, known = load(folder, dtype=dtype), published.published_answers()
    if published.is_12b(model):
        yield from attempt(
            "published answers", lambda: published.check_answers(model, known, pictures)
        )
    else:
        yield Check("published answers", SKIPPED, "none are known of a model of these sizes")
    shown = [test_image(512, 512)] if model.vision_encoder is not None else []
    prompt = published.question(model, known.prompt, shown)
    yield from attempt("speed", lambda: published.check_speed(model, prompt, force=force))


def apart(
    name: str, look: Callable[..., Iterable[Check]], *options: Any, seconds: float | None = None
) -> Iterator[Check]:
    """What `look(*options)` gives in a process of its own, and a line more if that is ended.

    Arguments:
        seconds: after which it is stopped; None waits.
    """
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_tell, args=(writer, name, look, options), daemon=True)
    child.start()
    writer.close()
    end = None if seconds is None else time.monotonic() + seconds
    try:
        while True:
            if not reader.poll(None if end is None else max(0, end - time.monotonic())):
                yield Check(name, WARN, f"stopped after {seconds:g} s; the rest was left out")
                return
            try:
                yield reader.recv()
            except EOFError:
                break
        child.join()
        if child.exitcode:
            yield Check(name, FAIL, f"the process was ended ({_status(child.exitcode)})", ENDED)
    finally:
        child.kill()
        child.join()


def _tell(
    writer: Any, name: str, look: Callable[..., Iterable[Check]], options: tuple[Any, ...]
) -> None:
    """In the process of its own: send each check as soon as it is there."""
    warnings.simplefilter("ignore")  # as in the command itself
    with suppress(KeyboardInterrupt):
        for check in attempt(name, lambda: look(*options)):
            writer.send(check)


def _status(exitcode: int) -> str:
    return signal.Signals(-exitcode).name if exitcode < 0 else f"status {exitcode}"


def make_report(found: list[Check], model: str | None, seconds: float) -> dict[str, Any]:
    """Everything by name, as `--json` writes it."""
    return {
        "program": "pixtral-mlx doctor",
        "version": __version__,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine().facts(),
        "model": None if model is None else Path(model).name if Path(model).exists() else model,
        "passed": sum(check.status == OK for check in found),
        "warnings": sum(check.status == WARN for check in found),
        "failed": sum(check.status == FAIL for check in found),
        "looked_at": sum(check.status != SKIPPED for check in found),
        "seconds": seconds,
        "checks": [check.record() for check in found],
    }


def format_page(report: dict[str, Any]) -> str:
    """A report as one page of Markdown, to be pasted into an issue."""
    found = report["machine"]
    head = (
        f"pixtral-mlx doctor {report['version']}: {report['passed']} of {report['looked_at']} "
        f"checks passed on {found['chip'].removeprefix('Apple ')}, {found['system']}"
    )
    counts = [
        f"{report[name]} {word}{'s' * (word == 'warning' and report[name] > 1)}"
        for name, word in (("warnings", "warning"), ("failed", "failed"))
        if report[name]
    ]
    rows = [("check", "", "what was seen"), ("---", "---", "---")]
    for check in report["checks"]:
        seen = check["text"] + (f" **{check['advice']}**" if check["advice"] else "")
        rows.append((check["name"], MARKS[check["status"]], seen.replace("|", "\\|")))
    model = f", {report['model']}" if report["model"] else ""
    lines = [head + (f" ({', '.join(counts)})" if counts else ""), ""]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", f"{report['date']}, {report['seconds']:.0f} s{model}"]
    return "\n".join(lines)


def private(value: Any) -> Any:
    """The same without your name, your home and the name of this machine, in every string."""
    if isinstance(value, dict):
        return {key: private(each) for key, each in value.items()}
    if isinstance(value, list):
        return [private(each) for each in value]
    if not isinstance(value, str):
        return value
    value = value.replace(str(Path.home()), "~")
    for name in _names():
        value = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "...", value)
    return value


def _names() -> Iterator[str]:
    """Of the person and the machine; short ones, and "root", say nothing and may be words."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = ""
    host = platform.node()
    for name in (user, host, host.partition(".")[0]):
        if len(name) > 2 and name not in ("root", "localhost"):
            yield name
