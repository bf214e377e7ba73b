"""What tests of widgets show, and what a widget answers."""

import os
import re
import shutil
import subprocess
import threading
import time

import pytest

from pixtral_mlx import drawing
from pixtral_mlx.mini import scene
from pixtral_mlx_widgets import bundle

SCENE, OTHER = scene(3, 4, 5), scene(8, 2, 3)

ADDRESS = re.compile(r"(?:https?|wss?)://(?!www\.w3\.org/)")
"""Any address of another host, as data too."""

EXTERNAL = re.compile(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\(\s*["']?http|wss?://""")
"""What would make a page fetch something."""


def answer_to(view, what, arguments=None, seconds=20):
    """What the browser gets for its question 3: {"id", "data"} or {"id", "problem"}."""
    answers, arrived, send = [], threading.Event(), view.send

    def listen(content, buffers=None):
        if content.get("id") == 3:
            answers.append(content)
            arrived.set()

    view.send = listen
    given = {} if arguments is None else {"arguments": arguments}
    view._receive(view, {"id": 3, "what": what, **given}, [])
    assert arrived.wait(seconds), f"{what} was not answered"
    view.send = send
    return answers[0]


def eventually(condition, seconds=20):
    """Waits until the condition holds; AssertionError if it never does."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def scripts(folder, static=bundle.STATIC):
    """All ES modules in one new folder, where node finds what each of them imports."""
    shutil.copytree(static, folder)
    for module in drawing.FOLDER.glob("*.js"):
        shutil.copy(module, folder)
    return folder


def in_node(file, static, **variables):
    """A file of tests, run by node's own runner on the modules in a folder of `scripts`."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: JavaScript is not tested")
    return subprocess.run(
        [node, "--test", "--experimental-default-type=module", str(file)],
        env=os.environ | {"STATIC": str(static), "LD_PRELOAD": "", **variables},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
