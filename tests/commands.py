"""Commands that tests run, in processes of their own too."""

import os
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "pixtral_mlx")
ASK = ("generate", "--model", "4bit", "--prompt", "What is this?", "--max-tokens", "6")


def environment(**extra) -> dict[str, str]:
    """Of a person without a hub, with this package on the path."""
    quiet = {k: v for k, v in os.environ.items() if k != "PIXTRAL_MLX_DEBUG"}
    return (
        quiet
        | {"PYTHONPATH": f"{HOUSE}{os.pathsep}{HOUSE / 'widgets'}", "HF_HUB_OFFLINE": "1"}
        | extra
    )


def run(*arguments, stdin=b"", command=COMMAND, **options) -> subprocess.CompletedProcess:
    """One command in a process of its own, its streams piped."""
    return subprocess.run(
        [*command, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=environment(),
        timeout=120,
        check=False,
        **options,
    )


def ask(folder, *more) -> tuple:
    """A short question to a model."""
    return ("generate", "--model", folder, "--prompt", "Hi", "--max-tokens", "2", *more)


def listing(folder) -> list[str]:
    """All that a folder holds, as paths in it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
