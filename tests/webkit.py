"""Drives WebKit, Safari's engine, by W3C WebDriver: opens pages, clicks, reads what they show."""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

DRIVER = shutil.which("WebKitWebDriver")
DISPLAY = shutil.which("Xvfb")
SECONDS = 30
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""What WebDriver calls an element in JSON."""

LISTEN = """<script>
window.troubles = [];
for (const kind of ['error', 'unhandledrejection', 'securitypolicyviolation']) {
  addEventListener(kind, (e) => troubles.push(
    `${kind}: ${[e.reason ?? e.message, e.violatedDirective, e.blockedURI, e.target?.src,
      e.lineno ?? e.lineNumber].filter((one) => one).join(' ')}`), true);
}
for (const level of ['error', 'warn']) {
  console[level] = (...words) => troubles.push(`console.${level}: ${words.join(' ')}`);
}
</script>"""
"""Stands before all else in a page, and before its policy, which may forbid scripts."""


class WebKit:
    """A display without a screen, the driver, and one window of its browser."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self):
        self._log = open(self.folder / "webkit.log", "w")
        read, write = os.pipe()
        self._display = subprocess.Popen(
            [DISPLAY, "-displayfd", str(write), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"],
            stderr=self._log, pass_fds=[write],
        )  # fmt: skip
        os.close(write)
        with open(read) as number:
            display = f":{number.readline().strip()}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        plain = {"LD_PRELOAD": "", "LIBGL_ALWAYS_SOFTWARE": "1", "GDK_BACKEND": "x11"}
        self._driver = subprocess.Popen(
            [DRIVER, f"--port={port}"], stdout=self._log, stderr=self._log,
            env=os.environ | plain | {"DISPLAY": display, "HOME": str(self.folder)},
        )  # fmt: skip
        self._url = f"http://127.0.0.1:{port}/session"
        answer = self._send("POST", "", capabilities={})
        self._url += f"/{answer['sessionId']}"
        self.version = answer["capabilities"]["browserVersion"]
        self._send("POST", "/window/rect", width=1100, height=1000)
        return self

    def __exit__(self, *_):
        self._send("DELETE", "")
        for process in (self._driver, self._display):
            process.terminate()
            process.wait()
        self._log.close()

    def _send(self, method: str, path: str, **body):
        data = json.dumps(body).encode() if method == "POST" else None
        end = time.monotonic() + SECONDS
        while True:
            request = urllib.request.Request(self._url + path, data, method=method)
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as reply:
                    return json.load(reply)["value"]
            except urllib.error.HTTPError as error:
                raise RuntimeError(error.read().decode()) from None
            except urllib.error.URLError:  # the driver is starting
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def open(self, page: Path) -> None:
        """Load a page, which notes what goes wrong in it from its first line on."""
        copy = self.folder / page.name
        text = page.read_text(encoding="utf-8")
        assert "<head>" in text
        copy.write_text(text.replace("<head>", f"<head>{LISTEN}", 1), encoding="utf-8")
        self.go(copy.as_uri())

    def go(self, address: str) -> None:
        """Load what is at an address, as it is."""
        self._send("POST", "/url", url=address)

    def run(self, script: str, *arguments):
        """What a script returns, an awaited promise too."""
        return self._send("POST", "/execute/sync", script=script, args=arguments)

    def wait(self, script: str, *arguments):
        """Wait until a script returns something that is true, and return it."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found = self.run(script, *arguments)
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"still false after {SECONDS} s: {script}; {self.troubles()}")

    def troubles(self) -> list[str]:
        """What went wrong in the page."""
        return self.run("return troubles")

    def click(self, selector: str, x: float, y: float) -> None:
        """Click an element as a hand does, at shares of its width and height."""
        element = self._send("POST", "/element", using="css selector", value=selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        rect = self._send("GET", f"/element/{element[ELEMENT]}/rect")
        middle = {"x": round((x - 0.5) * rect["width"]), "y": round((y - 0.5) * rect["height"])}
        move = {"type": "pointerMove", "origin": element, "duration": 0, **middle}
        press = [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")]
        mouse = {"type": "pointer", "id": "mouse", "actions": [move, *press]}
        self._send("POST", "/actions", actions=[mouse])

    def screenshot(self, path: Path) -> None:
        """A picture of what the window shows."""
        path.write_bytes(base64.b64decode(self._send("GET", "/screenshot")))
