"""A server in a process of its own, as people start it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

import pixtral_mlx
from pixtral_mlx.mini import scene

PACKAGE = Path(pixtral_mlx.__file__).parents[1]


class Server:
    """A server that runs until `stop`.

    Attributes:
        address: "http://127.0.0.1:PORT".
        log: its stderr so far.
    """

    def __init__(self, *arguments: str, model: str = "mini", **variables: str):
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pixtral_mlx", "serve", "--model", model),
                *("--dtype", "float32", "--port", "0", *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PACKAGE), **variables},
        )
        self.http = httpx.Client(timeout=60, trust_env=False)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.fullmatch(r"ready: (http://\S+)\n", first)
        if not found:
            self.stop()
            raise AssertionError(f"no address: {first!r} {self.log}")
        self.address = found[1]
        self.http.base_url = self.address

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def _read(self) -> None:
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def ask(self, question: str, **fields) -> dict:
        """The answer to one question, as JSON."""
        return self.post({"messages": [{"role": "user", "content": question}], **fields}).json()

    def post(self, body, path: str = "/v1/chat/completions", **options) -> httpx.Response:
        return self.http.post(path, json=body, **options)

    def metric(self, name: str) -> float:
        """The sum over all labels."""
        text = self.http.get("/metrics").text
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if re.match(rf"pixtral_{name}(\{{|\s)", line)
        )

    def rest(self) -> None:
        """Wait until nothing is being answered."""
        end = time.monotonic() + 10
        while left := self.metric("running") + self.metric("waiting"):
            assert time.monotonic() < end, f"{left:g} answers do not end"
            time.sleep(0.02)

    def stop(self) -> int:
        """Ask it to end; returns its status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            self.http.close()
            self._reader.join(5)
            for stream in (self.process.stdout, self.process.stderr):
                stream.close()


@pytest.fixture(scope="package")
def server():
    """One that all tests ask: leave nothing running in it."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def start():
    """Starts a server with these flags and variables; it ends with the file."""
    started = []

    def begin(*arguments: str, **variables: str) -> Server:
        started.append(Server(*arguments, **variables))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def drawing(tmp_path_factory):
    """A scene that pixtral-mini knows: its picture as a data URL, and the scene."""
    import base64

    known = scene(7, 2, 3)
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    known.image.save(path)
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(), known


@pytest.fixture
def about(drawing):
    """A question about the picture of `drawing`, as OpenAI's messages."""

    def ask(text: str) -> list[dict]:
        parts = [
            {"type": "image_url", "image_url": {"url": drawing[0]}},
            {"type": "text", "text": text},
        ]
        return [{"role": "user", "content": parts}]

    return ask
