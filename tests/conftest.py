"""What holds for all tests, and the model that most of them ask."""

import io
import os
import secrets
import signal
import sys

# Parity is claimed in full float32, and MLX multiplies in TF32 by default on some GPUs. It asks
# once, when it computes the first product; processes that tests start inherit this. Not
# `setdefault`: what a person exports for their own runs must not fail the tests.
os.environ["MLX_ENABLE_TF32"] = "0"

import pytest
from checkpoints import make_official
from questions import noise

import pixtral_mlx as px
from pixtral_mlx import cli
from pixtral_mlx.engine.engine import Engine


def pytest_configure():
    """A shell ignores Ctrl-C for what it starts in the background, and what tests start inherits
    that: none of them would hear it. The seed of what is tried at random is the same in all
    processes, and another one each time."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("PIXTRAL_HARDENING_SEED", str(secrets.randbelow(10**6)))


def pytest_report_header():
    """What repeats the tries of tests/test_hardening.py."""
    return f"PIXTRAL_HARDENING_SEED={os.environ['PIXTRAL_HARDENING_SEED']}"


@pytest.fixture(scope="session", autouse=True)
def settings_of_nobody(tmp_path_factory):
    """What a person has chosen for their commands is not for the tests, and stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PIXTRAL_MLX_MODEL", raising=False)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("settings")))
        yield


@pytest.fixture(autouse=True)
def drafts_pay(monkeypatch):
    """However long a pass takes here, and longer ones than are usual."""
    monkeypatch.setattr(Engine, "most_drafted", 64)


@pytest.fixture(scope="session")
def playwright():
    """The one Playwright that a process may have: its loop runs in this thread until the end."""
    from browsers import needed_browser

    needed_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A small random model in Mistral's own layout. All tests share it: only read it."""
    return make_official(tmp_path_factory.mktemp("official") / "model")


@pytest.fixture(scope="module")
def loaded(folder):
    """The model of `folder` in float32, for fixtures that outlive a test. Each file loads its own
    (some hundredths of a second), so that nothing done to it reaches the tests of another."""
    return px.load(folder, dtype="float32")


@pytest.fixture
def model(loaded):
    """The model of `folder` in float32. It has kept nothing of what earlier tests asked, and may
    keep a gigabyte, whatever they allowed or is free here."""
    loaded.clear_cache()
    loaded.prompt_cache.max_bytes = 10**9
    return loaded


@pytest.fixture(scope="module")
def mini():
    """Pixtral-mini in float32."""
    return px.load("mini", dtype="float32")


@pytest.fixture(scope="module")
def picture():
    """Noise of 5 x 3 patches."""
    return noise()


@pytest.fixture(scope="module")
def prompt(loaded, picture):
    """A question about `picture`, as `model` reads it."""
    return loaded.encode("What is this?", [picture])


@pytest.fixture
def victim(tmp_path):
    """A sound official folder of the test's own, to be spoiled."""
    return make_official(tmp_path / "official", text={"n_layers": 1})


@pytest.fixture
def refused(capsys, monkeypatch):
    """Runs a command that must end in one line: `refused(status, said, *arguments)`."""
    monkeypatch.delenv("PIXTRAL_MLX_DEBUG", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def check(status: int, said: str, *arguments, stdin: bytes = b"") -> str:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            ended = cli.main([*map(str, arguments)])
        except SystemExit as error:  # argparse
            ended = error.code
        out, err = capsys.readouterr()
        assert err.count("\n") == 1 and err.endswith("\n"), err
        assert err.startswith("pixtral-mlx") and len(err) < 600
        assert err[:-1].isprintable() and "Traceback" not in err
        assert said in err
        assert (ended, out) == (status, "")
        return err

    return check
