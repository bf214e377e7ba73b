"""Commands in README and docs/: each is one that exists, and those that can be run are run."""

import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout

import numpy as np
import pytest
from documents import ROOT, TEXTS, blocks, prose, with_blocks
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.cli.parser import build_parser
from pixtral_mlx.mini import CHECKPOINT, scene

NOT_RUN = ("pip install ", "python3 -m venv ", "source ", "pixtral-mlx batch report.pdf ")
"""Beginnings of lines in blocks of `sh` that are not run here: they change the environment, or
read pages at full size, a minute each. Blocks of no language are not run either: they take minutes
or end when a person ends them."""


def lines(page):
    """What a person would type: every line of the blocks of `sh` and of no language."""
    typed = "".join(blocks(page, "sh") + blocks(page, "")).splitlines()
    return [line.partition("  # ")[0].strip() for line in typed if line.strip()]


def words_of(line):
    """What follows `pixtral-mlx` in a line, if it stands there: the words of the command."""
    words = shlex.split(line)
    if "pixtral-mlx" not in words:
        return None
    words = words[words.index("pixtral-mlx") + 1 :]
    ends = [n for n, word in enumerate(words) if word in (">", "|")]
    return words[: ends[0]] if ends else words


def commands():
    (found,) = (action for action in build_parser()._actions if action.dest == "command")
    return list(found.choices)


def options_of(command):
    """Those that its help lists."""
    text = io.StringIO()
    with redirect_stdout(text), pytest.raises(SystemExit):
        build_parser().parse_args([command, "--help"])
    return set(re.findall(r"--[a-z][\w-]*", text.getvalue()))


@pytest.mark.parametrize("page", TEXTS)
def test_every_line_is_a_command_with_its_options(page):
    for line in lines(page):
        words = words_of(line)
        if words is not None and len(words) > 1:
            build_parser().parse_args(words)  # a mistake ends the process


def options_of_scripts():
    """Those of the drivers and measurements that docs quote without the word python."""
    scripts = (path for name in ("hardening", "benchmarks") for path in (ROOT / name).glob("*.py"))
    return set(re.findall(r'"(--[a-z][\w-]*)"', "".join(path.read_text() for path in scripts)))


def test_options_in_the_text_are_there():
    known = options_of_scripts().union(*map(options_of, commands()))
    for page in TEXTS:
        for quoted in re.findall(r"`([^`\n]+)`", prose(page)):
            command = re.match(r"pixtral-mlx ([a-z]+)", quoted)
            assert command is None or command[1] in commands(), quoted
            named = set(re.findall(r"--[a-z][\w-]*", quoted))
            assert named <= (options_of(command[1]) if command else known), quoted


def test_each_command_has_a_place_in_the_list_and_on_its_page():
    listed = re.findall(r"(?m)^pixtral-mlx ([a-z]+)  ", TEXTS["readme"].split("## Commands")[1])
    assert sorted(listed) == sorted(commands())
    assert sorted(re.findall(r"(?m)^## ([a-z]+)$", TEXTS["commands"])) == sorted(commands())


@pytest.mark.parametrize("page", TEXTS)
def test_what_is_installed_made_and_started_is_there(page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r'pip install "\.\[([\w,]+)\]"', TEXTS[page]):
        assert set(extras.split(",")) <= set(project["optional-dependencies"]), extras
    targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
    for target in re.findall(r"`make ([\w-]+)`", TEXTS[page]):
        assert target in targets
    for script in re.findall(r"`python (\w+/[\w/]+\.py)", TEXTS[page]):
        assert (ROOT / script).is_file(), script


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """pixtral-mini in 4 bits."""
    return px.convert("mini", tmp_path_factory.mktemp("small") / "4bit").folder


@pytest.fixture
def place(tmp_path, small):
    """A folder to work in: pixtral-mini under the names of the 12B, and something to ask about."""
    for name in ("mistralai/Pixtral-12B-2409", "mlx-community/pixtral-12b-4bit"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(CHECKPOINT)
    (tmp_path / "pixtral-4bit").symlink_to(small)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    shown = scene(8, rows=3, columns=4).image
    (tmp_path / "scans").mkdir()
    for name in ("scene.png", "photo.jpg", "receipt.jpg", "scans/1.png"):
        shown.save(tmp_path / name)
    shown.save(tmp_path / "report.pdf", save_all=True, append_images=[shown])
    return tmp_path


def run(line, place):
    """A line as bash runs it; returns what it printed."""
    command = f'pixtral-mlx() {{ "{sys.executable}" -m pixtral_mlx "$@"; }}; {line}'
    own = {"XDG_CONFIG_HOME": str(place / "settings"), "HF_HUB_OFFLINE": "1"}
    environment = os.environ | own | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", command],
        cwd=place, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", with_blocks("sh"))
def test_the_commands_run(page, place):
    """In their order; a comment after `generate` on mini is the answer."""
    pytest.importorskip("pypdfium2", reason="PDFs need the extra: pip install -e '.[pdf]'")
    for line in "".join(blocks(page, "sh")).splitlines():
        if line.startswith(NOT_RUN):
            continue
        if line.startswith("pixtral-mlx convert ") and (place / "pixtral-4bit").is_symlink():
            (place / "pixtral-4bit").unlink()
        printed = run(line, place)
        _, comment, answer = line.partition('"  # ')
        assert not comment or printed.strip() == answer
        for written in re.findall(r"(?:-o|>) (\S+)", line):
            assert (place / written).stat().st_size, line


def closeness(first, second):
    """The mean difference of two pictures of one size, of 255."""
    with Image.open(first) as one, Image.open(second) as other:
        assert one.size == other.size
        pixels = [np.asarray(image.convert("RGB"), np.float32) for image in (one, other)]
    return np.abs(pixels[0] - pixels[1]).mean()


def test_the_pictures_are_what_the_commands_draw(place):
    """But for the edges of letters, which another version of Pillow may draw otherwise."""
    drawn = r"[Dd]rawn by\s`(pixtral-mlx [^`]+)`"
    demo, inspect = re.findall(drawn, TEXTS["readme"])
    run(inspect, place)
    run(demo, place)
    assert closeness(place / "patch-grid.png", ROOT / "docs" / "patch-grid.png") < 0.5
    assert closeness(place / "demo.png", ROOT / "docs" / "where-it-looked.png") < 2
