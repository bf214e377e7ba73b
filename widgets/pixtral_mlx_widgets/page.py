"""A widget as one page: no kernel, no network; and that page as a picture."""

import base64
import html as escape
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from . import bundle

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; frame-src data: blob:"
)
"""What the page may load: what is in it."""

PICTURE_SECONDS = 60

BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)  # fmt: skip
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def html(widget: type, state: dict[str, Any]) -> str:
    """One self-contained page of a widget.

    Arguments:
        widget: its class.
        state: values of the traits that the browser sees; bytes are allowed in them.
    """
    data = json.dumps(state, default=_plain).replace("</", "<\\/")
    script = re.sub(
        r"^export default ", "const widget = ", bundle.module(widget.name), flags=re.MULTILINE
    )
    host = (bundle.STATIC / "page.js").read_text(encoding="utf-8")
    title = escape.escape(f"{widget.__name__} · pixtral-mlx")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{title}</title>
<style>{bundle.style()}</style>
</head>
<body class="px-page">
<main id="widget"></main>
<script type="application/json" id="state">{data}</script>
<script type="module">
{_closed(script)}
{_closed(host)}
</script>
</body>
</html>
"""


def _closed(script: str) -> str:
    return script.replace("</script", "<\\/script")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(bytes(value)).decode()}
    raise TypeError(f"{type(value).__name__} cannot go into a page")


def find_browser() -> str | None:
    """A browser that draws without a window: `PIXTRAL_BROWSER`, or one of the usual places."""
    for name in (os.environ.get("PIXTRAL_BROWSER"), *BROWSERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    return None


def png(page: str) -> bytes:
    """What a browser without a window draws of a page.

    Raises:
        RuntimeError: there is no browser, or it draws nothing.
    """
    browser = find_browser()
    if browser is None:
        raise RuntimeError(
            "a picture needs the widget displayed in a notebook, or a browser: install Chromium or "
            "Chrome, or name one in PIXTRAL_BROWSER"
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "page.html"
        file.write_text(page, encoding="utf-8")
        command = [
            browser, *FLAGS, f"--user-data-dir={folder}/profile", "--window-size=1000,800",
            "--virtual-time-budget=10000", "--dump-dom", f"{file.as_uri()}#picture",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, timeout=PICTURE_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"{browser} drew no picture ({error}): try another") from error
    found = re.search(rb'data-picture="data:image/png;base64,([^"]+)"', done.stdout)
    if found is None:
        raise RuntimeError(
            f"{browser} drew no picture (exit status {done.returncode}): open the page of "
            "to_html() to see why"
        )
    return base64.b64decode(found[1])


def write_new(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; never over one that is there.

    Raises:
        FileExistsError: the name is taken.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists: give another name, or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    os.replace(part, path)
