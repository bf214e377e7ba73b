"""Processes whose time and memory are measured.

The parent must stay small, and so imports neither MLX nor NumPy: on Linux the peak of a process
counts that of the process which started it.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PEAK = """
import sys
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

def peak_resident_bytes():
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * sum(getrusage(who).ru_maxrss for who in (RUSAGE_SELF, RUSAGE_CHILDREN))
"""
"""For a script that starts a process itself: the largest sizes of both, added."""


def measured(command: Sequence[str], environment: dict[str, str] | None = None) -> dict:
    """Run a command: its seconds, its peak resident bytes, and what its last line of JSON says,
    which goes first where both say it.

    Raises:
        SystemExit: it failed.
    """
    start = time.perf_counter()
    child = subprocess.Popen(
        list(command), stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    said = child.stdout.read() if child.stdout else ""
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command[0]} failed with status {child.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on a Mac, kB on Linux
    lines = said.strip().splitlines()
    answer = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return {
        "process_seconds": seconds,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_resident_bytes": usage.ru_maxrss * unit,
        **answer,
    }


class Answering:
    """A process that says what it is, and then answers each line with one; who it is, is printed.

    Arguments:
        command: how it is started.
        environment: what it has beside ours.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None):
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        print(self._answer(), flush=True)

    def ask(self, line: str) -> str:
        """What it answers.

        Raises:
            SystemExit: nothing, since it ended.
        """
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a side ended early: see above")
        return line.strip()

    def end(self) -> None:
        """No more lines come."""
        self._process.stdin.close()
        self._process.wait()


def median(runs: Sequence[dict], name: str) -> float:
    """Of one number of several runs."""
    return statistics.median(run[name] for run in runs)


def spread(runs: Sequence[dict], name: str, digits: int = 1) -> str:
    """Median, lowest and highest: "3.1 (2.9 to 4.0)"."""
    values = [run[name] for run in runs]
    low, high = min(values), max(values)
    return f"{median(runs, name):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def both_sides(ours: Any, theirs: Any, peer_python: str | None) -> dict[str, tuple[str, Any]]:
    """{side: (its Python, what it runs)}, and their versions printed, and how exactly
    ours multiplies; without a peer only ours."""
    sides = {"pixtral-mlx": (sys.executable, ours)}
    if peer_python:
        sides["mlx-vlm"] = (peer_python, theirs)
    for name, (python, _) in sides.items():
        script = "from importlib.metadata import version as v; import sys"
        script += "; print(sys.argv[1], v(sys.argv[1]) + ', MLX', v('mlx'))"
        subprocess.run([python, "-c", script, name], check=True)
    script = "import pixtral_mlx as px; print('float32 products in', px.machine().float32_products)"
    subprocess.run([sys.executable, "-c", script], check=True)
    return sides


def check_disk(place: Path, needed: float) -> None:
    """Stop before the disk is full."""
    free = shutil.disk_usage(place).free
    if free < needed:
        sys.exit(f"{place}: {free:,} bytes free, {needed:,.0f} needed; choose another place")
