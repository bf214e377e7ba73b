"""A widget as one page: no kernel, no network; and that page as a picture."""

import base64
import html as escape
import json
import os
import queue
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pixtral_mlx.files import new_file

from . import bundle

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; frame-src data: blob:"
)
"""What the page may load: what is in it."""

PICTURE_SECONDS = 60
LARGEST_PICTURE = 200_000_000

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


def html(
    title: str,
    name: str,
    state: dict[str, Any],
    inner: dict[str, tuple[str, dict]] | None = None,
    heading: Sequence[str] = (),
) -> str:
    """One self-contained page of a widget.

    Arguments:
        title: of the page.
        name: of the widget's file in `static/`.
        state: values of the traits that the browser sees; bytes are allowed in them.
        inner: widgets inside it: {reference: (name, state)}.
        heading: lines above it, the first one large; empty ones are left out.
    """
    inner = inner or {}
    data = {
        "name": name, "state": state,
        "inner": {key: {"name": n, "state": s} for key, (n, s) in inner.items()},
    }  # fmt: skip
    names = sorted({name, *(n for n, _ in inner.values())})
    host = (bundle.STATIC / "page.js").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape.escape(title)} · pixtral-mlx</title>
<style>{bundle.style()}</style>
</head>
<body class="px-page">
{_header(heading)}<main id="widget"></main>
<p class="px-foot">A saved page: it runs without the model, and leaves out what needs one.</p>
<script type="application/json" id="state">{_closed(json.dumps(data, default=_plain))}</script>
<script type="module">
const widgets = {{}};
{"".join(_scoped(name) for name in names)}
{_closed(host)}
</script>
</body>
</html>
"""


def _header(lines: Sequence[str]) -> str:
    shown = [escape.escape(line) for line in lines if line]
    if not shown:
        return ""
    rest = "".join(f"<p>{line}</p>" for line in shown[1:])
    return f"<header><h1>{shown[0]}</h1>{rest}</header>\n"


def _scoped(name: str) -> str:
    """A widget's module as one entry of `widgets`, its names its own."""
    source = bundle.module(name).replace("export default { render };", "")
    return f"widgets.{name} = (() => {{\n{_closed(source)}\nreturn {{ render }};\n}})();\n"


def _closed(text: str) -> str:
    """Text that cannot end the script element it stands in."""
    return text.replace("</", "<\\/")


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
    # The browser fetches the page from here and sends back what it drew.
    with (
        receiver(page) as (address, pictures),
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
    ):
        size = "--window-size=1012,800"
        command = [browser, *FLAGS, f"--user-data-dir={folder}", size, f"{address}#picture"]
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=nothing, stderr=nothing)
        try:
            return pictures.get(timeout=PICTURE_SECONDS)
        except queue.Empty:
            raise RuntimeError(
                f"{browser} drew no picture in {PICTURE_SECONDS} s: open the page of to_html() "
                "to see why"
            ) from None
        finally:
            process.terminate()
            process.wait()


@contextmanager
def receiver(page: str = "") -> "Iterator[tuple[str, queue.Queue[bytes]]]":
    """A server for browsers of this machine, at an address that nobody can guess: it takes
    pictures, and has a page that may talk to nobody else.

    Yields:
        (its address, the pictures that came).
    """
    pictures: queue.Queue[bytes] = queue.Queue()
    path = f"/{secrets.token_urlsafe()}"
    served = page.replace(POLICY, f"{POLICY}; connect-src 'self'").encode()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(path, served, pictures))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{path}", pictures
    finally:
        server.shutdown()
        server.server_close()


def decoded(address: str) -> bytes:
    """The bytes of a data: URL; none of them if it holds nothing."""
    return base64.b64decode(address.partition(",")[2])


def _handler(
    path: str, served: bytes, pictures: "queue.Queue[bytes]"
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == path else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if self.path == path:
                self.wfile.write(served)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            known = self.path == path and length <= LARGEST_PICTURE
            if known:
                pictures.put(decoded(self.rfile.read(length).decode("ascii", "replace")))
            self.send_response(204 if known else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing on the notebook's standard error."""

    return Handler


def write_new(path: Path, data: bytes) -> None:
    """Write a file complete or not at all; never over one that is there.

    Raises:
        FileExistsError: the name is taken.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path, error=None) as hidden:
        hidden.write_bytes(data)
