"""How soon the live page answers after it was opened, in Chromium and in WebKitGTK.

    python benchmarks/live_page.py [--page docs/live.html] [--rounds 9] [--json FILE]

Each round opens the page anew, once in either browser: the file is read, pixtral-mini is unpacked
and says what it sees in a cell. The page notes the time from the beginning of the navigation to the
last word. The first time of a browser, which has nothing in its caches, is told apart. Needs
Playwright, Chromium, WebKitWebDriver and Xvfb.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from browsers import FLAGS, needed_browser, needed_webkit
from webkit import WebKit

PAGE = Path(__file__).resolve().parent.parent / "docs" / "live.html"
GOAL_SECONDS = 1.5
READY = "return document.getElementById('page').dataset.ready"


def main() -> int:
    """Open, print, and fail if the goal is missed."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    needed_webkit()
    with ExitStack() as stack:
        playwright = stack.enter_context(sync_playwright())
        chromium = playwright.chromium.launch(executable_path=needed_browser(), args=FLAGS)
        webkit = stack.enter_context(
            WebKit(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        )
        opened: dict[str, Callable[[], float]] = {
            f"Chromium {chromium.version}": lambda: in_chromium(chromium, arguments.page),
            f"WebKitGTK {webkit.version}": lambda: in_webkit(webkit, arguments.page),
        }
        seconds: dict[str, list[float]] = {name: [] for name in opened}
        for _ in range(arguments.rounds):
            for name, once in opened.items():
                seconds[name].append(once())
        chromium.close()
    print(f"{arguments.page.stat().st_size / 1e6:.1f} MB, {os.cpu_count()} cores")
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    for name, found in seconds.items():
        print(
            f"{name}: an answer {middle[name]:.2f} s after opening ({min(found):.2f} to "
            f"{max(found):.2f}, median of {len(found)}); the first time {found[0]:.2f} s"
        )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(seconds, indent=2) + "\n", encoding="utf-8")
    return int(max(middle.values()) > GOAL_SECONDS)


def in_chromium(browser: Browser, page: Path) -> float:
    """Seconds to the first answer."""
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(page.resolve().as_uri())
    ready = opened.wait_for_selector("#page[data-ready]")
    found = ready and ready.get_attribute("data-ready")
    context.close()
    return int(found or 0) / 1e3


def in_webkit(browser: WebKit, page: Path) -> float:
    """The same."""
    browser.open(page)
    return int(browser.wait(READY)) / 1e3


if __name__ == "__main__":
    sys.exit(main())
