"""Servers in processes of their own, and a client that asks them and takes the time.

Both sides are started with their defaults and asked over HTTP alike. The parent imports no MLX: on
Linux the peak of a process counts that of the process which started it.
"""

import base64
import io
import json
import math
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image

MLX_VLM = {"HF_HUB_OFFLINE": "1"}


class Server:
    """One that runs until `stop`; ready when it is made.

    Arguments:
        command: with "{port}" where the port belongs.
        model: the name to ask it by.

    Raises:
        SystemExit: it does not begin to answer.
    """

    def __init__(
        self, command: Sequence[str], model: str, environment: dict[str, str] | None = None
    ):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address, self.model = f"http://127.0.0.1:{port}", model
        self._process = subprocess.Popen(
            [word.format(port=port) for word in command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
        for _ in range(1200):
            try:
                if httpx.get(f"{self.address}/health", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        self.stop()
        sys.exit(f"{command[0]} does not serve: {' '.join(command)}")

    @property
    def resident_bytes(self) -> int:
        """What it holds now."""
        found = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self._process.pid)], capture_output=True, check=True
        )
        return int(found.stdout) * 1024

    def metrics(self) -> dict[str, float]:
        """{name with its labels: value}; only ours has them."""
        lines = httpx.get(f"{self.address}/metrics", trust_env=False).text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def stop(self) -> tuple[int, float]:
        """End it; returns its peak resident bytes, and what it used of the processor in seconds."""
        if self._process.returncode is not None:
            return 0, 0.0
        self._process.send_signal(signal.SIGTERM)
        self._process.send_signal(signal.SIGTERM)  # whatever it still writes nobody reads
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return peak, usage.ru_utime + usage.ru_stime


def ours(model: str, *arguments: str) -> Server:
    """`pixtral-mlx serve`, float32."""
    command = [sys.executable, "-m", "pixtral_mlx", "serve", "--model", model, "--port", "{port}"]
    return Server(
        [*command, "--dtype", "float32", "--log-level", "error", *arguments], "pixtral-12b"
    )


def theirs(python: str, model: str, **environment: str) -> Server:
    """`mlx_vlm.server`, in the types of the folder."""
    command = [python, "-m", "mlx_vlm.server", "--model", model, "--host", "127.0.0.1"]
    return Server([*command, "--port", "{port}"], model, {**MLX_VLM, **environment})


@dataclass
class Answer:
    """What came, and when, in seconds since the question was sent.

    Attributes:
        first: until the first words.
        times: of all chunks with words.
        written, read, known: tokens of the answer, of the prompt, and of those from before.
    """

    text: str = ""
    times: list[float] = field(default_factory=list)
    sent: float = 0.0
    written: int = 0
    read: int = 0
    known: int = 0

    @property
    def first(self) -> float:
        """Seconds until the first words."""
        return self.times[0] - self.sent


def client() -> httpx.AsyncClient:
    """Waits as long as it takes, and opens as many connections as it likes."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(timeout=None, limits=limits, trust_env=False)


async def ask(
    http: httpx.AsyncClient,
    server: Server,
    messages: list[dict[str, Any]],
    answer: Answer,
    **more: Any,
) -> Answer:
    """Ask, streamed, the likeliest words; `answer` grows meanwhile.

    Raises:
        RuntimeError: it was refused, or failed.
    """
    body = {
        "model": server.model, "messages": messages, "stream": True,
        "stream_options": {"include_usage": True}, "temperature": 0, **more,
    }  # fmt: skip
    answer.sent = time.perf_counter()
    path = f"{server.address}/v1/chat/completions"
    async with http.stream("POST", path, json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"HTTP {response.status_code}: {(await response.aread())[:300]!r}")
        async for line in response.aiter_lines():
            if line.startswith("event: error"):
                raise RuntimeError("an error in the stream")
            if line.startswith("data: {"):
                _take(json.loads(line[6:]), answer)
    return answer


def _take(chunk: dict[str, Any], answer: Answer) -> None:
    for choice in chunk["choices"]:
        if words := choice["delta"].get("content"):
            answer.text += words
            answer.times.append(time.perf_counter())
    if usage := chunk.get("usage"):
        answer.read, answer.written = usage["prompt_tokens"], usage["completion_tokens"]
        answer.known = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def about(question: str, url: str) -> dict[str, Any]:
    """A turn with a picture."""
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return {"role": "user", "content": parts}


def noise(side: int, seed: int) -> str:
    """A square picture that nobody has encoded before, as a data URL."""
    pixels = random.Random(seed).randbytes(side * side * 3)
    return as_url(Image.frombytes("RGB", (side, side), pixels))


def as_url(picture: Image.Image) -> str:
    """A data URL."""
    data = io.BytesIO()
    picture.save(data, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def share(values: Iterable[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    found = sorted(values)
    return found[max(0, math.ceil(len(found) * percent / 100) - 1)]


def middle(values: Iterable[float], digits: int = 2) -> str:
    """Median, lowest and highest: "3.1 (2.9 to 4.0)"."""
    found = [*values]
    low, high = min(found), max(found)
    return f"{statistics.median(found):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
