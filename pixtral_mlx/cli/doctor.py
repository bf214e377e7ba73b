"""`pixtral-mlx doctor`: is this machine ready for the 12B, and does it compute what it should?

Three minutes at most, without weights. It ends with a page to paste into an issue, and `--json`
keeps every number; neither says who or where you are.
"""

import getpass
import json
import platform
import re
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .. import __version__
from ..cost.machine import machine
from ..doctor import hub_checks, kernels, machine_checks, published
from ..doctor.apart import apart
from ..doctor.check import FAIL, OK, SKIPPED, WARN, Check, attempt
from ..errors import PixtralError
from ..files import new_file, refuse_existing
from .status import Status
from .wrap import say

KERNEL_SECONDS = 150.0
"""What is not finished then is left out: all of it takes three minutes at most without weights."""
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
        say(format_page(report))
    if arguments.json:
        text = json.dumps(report, indent=2)
        if arguments.json == "-":
            say(text)
        else:
            with new_file(Path(arguments.json), error=PixtralError) as hidden:
                hidden.write_text(text + "\n", encoding="utf-8", errors="replace")
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
    yield "kernels", lambda: apart("kernels", kernels.check_kernels, seconds=KERNEL_SECONDS)
    yield "prompt steps", lambda: machine_checks.check_steps(found)
    yield "mini", machine_checks.check_mini
    yield "disk", lambda: machine_checks.check_disk(machine_checks.download_bytes())
    yield "hub", lambda: hub_checks.check_hub(hub)
    yield "fetch", lambda: hub_checks.check_fetch(hub)
    yield "tensor names", lambda: hub_checks.check_names(hub)
    yield "tools", machine_checks.check_tools
    if folder is not None:
        options = (folder, arguments.dtype, arguments.pictures, arguments.force)
        yield "model", lambda: apart("model", published.check_model, *options)


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
