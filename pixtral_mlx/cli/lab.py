"""`pixtral-mlx lab`: JupyterLab on the notebooks of the course."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import PixtralError, how_to_install
from ..files import new_file, scratch_folder

CHECKOUT = Path(__file__).resolve().parents[2] / "notebooks"
INSTALLED = Path(__file__).resolve().parents[1] / "course"
"""Where the notebooks are: in a checkout, or in an installed package."""

COPY = Path("pixtral-notebooks")
FIRST = "0-*.ipynb"
"""The notebook that is opened."""

SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
    "@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": True},
}
"""Defaults of JupyterLab's settings; a reader's own go before. Nobody is asked about news, and a
saved notebook keeps what its widgets show."""

NEEDED = ("jupyterlab", "anywidget", "ipywidgets")


def run(arguments: Namespace) -> int:
    """Open JupyterLab and stay until it ends; returns its exit status.

    Raises:
        PixtralError: JupyterLab or the notebooks are not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise PixtralError(
            f"{missing[0]} is not installed, and the notebooks need it: {how_to_install('lab')}"
        )
    folder = course_folder(CHECKOUT, INSTALLED, COPY)
    first = [f"--LabApp.default_url=/lab/tree/{file.name}" for file in folder.glob(FIRST)]
    quiet = ["--no-browser"] if arguments.no_browser else []
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        str(folder),
        *first,
        *quiet,
        *arguments.arguments,
    ]
    with scratch_folder() as config:
        defaults = Path(config, "labconfig", "default_setting_overrides.json")
        defaults.parent.mkdir()
        defaults.write_text(json.dumps(SETTINGS), encoding="utf-8")
        paths = [str(config), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
        return run_to_its_end(command, {"JUPYTER_CONFIG_PATH": os.pathsep.join(paths)})


def run_to_its_end(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a program that owns the terminal until it has ended by itself; returns its exit status.

    Ctrl-C reaches it too, and it may ask what to do about that, or have kernels to stop: whoever
    gave the terminal back meanwhile would leave two programs to read from it. A signal that ends
    this process is handed on.

    Arguments:
        environment: variables for the program, beside those of this process.
    """
    # A handler, unlike SIG_IGN, is not inherited: the program hears Ctrl-C.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        process = subprocess.Popen(command, env={**os.environ, **(environment or {})})
        try:
            return process.wait()
        except SystemExit:  # as `end_tidily` turns SIGTERM and SIGHUP
            process.terminate()
            process.wait()
            raise
    finally:
        signal.signal(signal.SIGINT, before)


def course_folder(checkout: Path, installed: Path, copy: Path) -> Path:
    """The folder to open: a checkout's own, or a copy of what came with the package.

    The copy belongs to the reader: files that are there already stay as they are.

    Raises:
        PixtralError: there are no notebooks.
    """
    if any(checkout.glob("*.ipynb")):
        return checkout
    if not installed.is_dir():
        raise PixtralError(f"no notebooks in {checkout} or {installed}: install the package again")
    for file in sorted(file for file in installed.rglob("*") if file.is_file()):
        target = copy / file.relative_to(installed)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with new_file(target, error=PixtralError) as hidden:
                shutil.copyfile(file, hidden)
    return copy
