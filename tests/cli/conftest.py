"""Where commands are run."""

import io
import subprocess
import sys

import pytest
from checkpoints import make_official
from commands import COMMAND, HOUSE, environment, run

from pixtral_mlx import cli


@pytest.fixture
def start():
    """Starts commands; none of them outlives its test."""
    processes = []

    def start_one(*arguments, **options) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()}
        processes.append(subprocess.Popen([*COMMAND, *map(str, arguments)], **pipes, **options))
        return processes[-1]

    yield start_one
    for process in processes:
        with process:  # closes its pipes
            process.kill()


@pytest.fixture(scope="module")
def places(picture, tmp_path_factory):
    """A folder with a picture, and an official and a converted model."""
    folder = tmp_path_factory.mktemp("cli")
    picture.save(folder / "picture.png")
    make_official(folder / "official")
    done = run("official", "4bit", command=(sys.executable, str(HOUSE / "convert.py")), cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    first, *rest = done.stdout.decode().splitlines()
    assert first.startswith("4bit: ")
    assert [line.partition(": ")[2] for line in rest] == [
        "pixtral-mlx generate -m 4bit photo.jpg 'What is this?'",
        "pixtral-mlx models default 4bit",
    ]
    return folder


@pytest.fixture
def here(places, monkeypatch):
    """Run commands in this process, in the folder of the models: `here(...)` is the status."""
    monkeypatch.chdir(places)
    monkeypatch.delenv("PIXTRAL_MLX_DEBUG", raising=False)

    def main(*arguments, stdin: bytes = b"") -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return cli.main([*map(str, arguments)])

    return main
