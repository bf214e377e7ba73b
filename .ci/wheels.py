"""Resolve what Macs install: everything, extras too, must come as wheels for that macOS and Python.

It asks the package index, so it is a job of `.ci/run` and no test. A package that has no wheel, or
none for that macOS (MLX has one for each), is named, and the exit status is 1.
"""

import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from uv import find_uv_bin

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
UV = find_uv_bin()  # once, for the threads: `sysconfig`, which it asks, may be half read in another
MACOS = ("14", "26")
"""The oldest that MLX has wheels for, and the newest."""


def pythons() -> list[str]:
    """The versions of Python that the project says it runs on."""
    lines = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["classifiers"]
    return [line.rpartition(" ")[2] for line in lines if "Python :: 3." in line]


def resolve(macos: str, python: str) -> tuple[bool, str]:
    """Whether there are wheels of everything, and a sentence that says so or what is missing."""
    done = subprocess.run(
        [
            UV, "pip", "compile", "--quiet", str(PROJECT), "--all-extras",
            "--only-binary", ":all:", "--python-platform", "aarch64-apple-darwin",
            "--python-version", python, "--no-python-downloads", "--no-header", "--no-annotate",
        ],
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": f"{macos}.0"}, capture_output=True, text=True,
    )  # fmt: skip
    where = f"macOS {macos}, arm64, Python {python}"
    wheels = done.stdout.split()
    mlx = [wheel for wheel in wheels if wheel.startswith("mlx==")]
    if done.returncode or not mlx:
        return False, f"{where}: {done.stderr.strip() or 'mlx is not among the wheels'}"
    return True, f"{where}: {len(wheels)} wheels, {mlx[0]}"


def main() -> int:
    """Resolve for every macOS and Python at once; returns the exit status."""
    with ThreadPoolExecutor() as threads:
        found = list(threads.map(lambda pair: resolve(*pair), product(MACOS, pythons())))
    for good, line in found:
        print(line, file=sys.stdout if good else sys.stderr)
    return 0 if all(good for good, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main())
