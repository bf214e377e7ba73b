"""The browser that tests drive: where it is, and how it is started."""

import importlib.util
import os

import pytest
import webkit

from pixtral_mlx_widgets.page import find_browser

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def needed_browser(*modules: str) -> str:
    """The path of a browser, found as the widgets find one. Without it, or without one of the
    modules, the test is skipped; it fails where `PIXTRAL_REQUIRE_BROWSER` is set, as in CI."""
    found, reason = find_browser(), ""
    if found is None:
        reason = "no browser was found: install Chromium or Chrome, or set PIXTRAL_BROWSER"
    for name in ("playwright", *modules):
        if importlib.util.find_spec(name) is None:
            reason = f"{name} is not installed: pip install -e '.[dev,lab]'"
    if reason:
        _missing(reason)
    return found


def needed_webkit() -> None:
    """The same for WebKit's driver and a display for it."""
    if not (webkit.DRIVER and webkit.DISPLAY):
        _missing("no WebKit was found: apt-get install webkit2gtk-driver xvfb")


def _missing(reason: str) -> None:
    if os.environ.get("PIXTRAL_REQUIRE_BROWSER"):
        pytest.fail(f"PIXTRAL_REQUIRE_BROWSER is set, but {reason}")
    pytest.skip(reason)
