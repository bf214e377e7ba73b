"""Clients that leave, wait, come in crowds; and how a server ends."""

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from pixtral_mlx.mini import scene

ENDLESS = {
    "messages": [{"role": "user", "content": "Why?"}],
    "logit_bias": {"2": -1_000_000},
    "max_tokens": 8000,
}
"""An answer that never says its end token."""


def eventually(found, wanted, seconds: float = 10):
    end = time.monotonic() + seconds
    while (seen := found()) != wanted:
        assert time.monotonic() < end, f"{seen} is not {wanted}"
        time.sleep(0.05)


class Streaming:
    """An answer that is being streamed to a thread."""

    def __init__(self, server, **fields):
        self.lines, self.problem = [], None
        self._server, self._body = server, {**ENDLESS, "stream": True, **fields}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        eventually(lambda: len(self.lines) > 3, True)

    def _read(self):
        try:
            with httpx.stream(
                "POST", f"{self._server.address}/v1/chat/completions", json=self._body, timeout=60,
                trust_env=False,
            ) as response:  # fmt: skip
                self.lines.extend(line for line in response.iter_lines() if line)
        except httpx.HTTPError as error:
            self.problem = error

    def end(self):
        self._thread.join(30)
        return self.lines


@pytest.fixture(scope="module")
def small(start):
    return start("--max-concurrency", "1", "--max-waiting", "1", "--timeout", "4")


def test_a_client_that_leaves_frees_its_place(small):
    """It was the only place: whoever asks next would wait for thousands of tokens."""
    with small.http.stream("POST", "/v1/chat/completions", json={**ENDLESS, "stream": True}) as r:
        lines = r.iter_lines()
        for _ in range(8):
            next(lines)
        assert small.metric("running") == 1
    with pytest.raises(httpx.ReadTimeout):
        small.post(ENDLESS, timeout=0.3)
    began = time.monotonic()
    assert small.ask("How many rows are there?", max_tokens=3)["choices"]
    assert time.monotonic() - began < 3, "those who left are computed no more"
    eventually(lambda: small.metric("running"), 0, 2)
    assert "Traceback" not in small.log


def test_places_are_counted_and_time_is_limited(small):
    """One is written, one waits, a third is sent away; both get an event when their time is up."""
    began = time.monotonic()
    first = Streaming(small)
    second = threading.Thread(target=small.post, args=({**ENDLESS, "max_tokens": 5},))
    second.start()
    eventually(lambda: small.metric("waiting"), 1)
    found = small.post(ENDLESS)
    error = found.json()["error"]
    assert (found.status_code, error["code"]) == (429, "too_many_requests")
    assert int(found.headers["retry-after"]) > 0 and "allowed: 2" in error["message"]
    lines = first.end()
    assert 3 < time.monotonic() - began < 15
    assert lines[-1] == "data: [DONE]" and lines[-3] == "event: error"
    assert json.loads(lines[-2][6:])["error"]["code"] == "timeout"
    second.join(20)
    eventually(lambda: small.metric("waiting") + small.metric("running"), 0)
    found = small.post(ENDLESS)
    assert (found.status_code, found.json()["error"]["code"]) == (504, "timeout")
    assert found.headers["x-should-retry"] == "false"


def test_a_crowd_gets_the_answers_that_each_would_get_alone(server):
    import base64
    import io

    def body(seed: int) -> dict:
        data = io.BytesIO()
        scene(seed).image.save(data, "PNG")
        url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
        parts = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "What is this?"}]
        return {"messages": [{"role": "user", "content": parts}], "max_tokens": 40}

    def answer(seed: int) -> str:
        return server.post(body(seed)).json()["choices"][0]["message"]["content"]

    seeds = range(100, 112)
    alone = [answer(seed) for seed in seeds]
    with ThreadPoolExecutor(24) as crowd:
        together = list(crowd.map(answer, [*seeds, *seeds]))
    assert together == alone + alone
    assert len(set(alone)) > 6


def test_sigterm_lets_answers_end_and_a_second_one_does_not(start):
    server = start()
    running = Streaming(server, max_tokens=600)
    server.process.send_signal(signal.SIGTERM)
    lines = running.end()
    assert lines[-1] == "data: [DONE]" and '"finish_reason": "length"' in lines[-2]
    assert server.process.wait(15) == 0
    with pytest.raises(httpx.ConnectError):
        server.http.get("/health")
    assert "Traceback" not in server.log
    server = start()
    Streaming(server)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(3) == 1


def test_an_idle_model_leaves_and_comes_back(start):
    server = start("--keep-alive", "0.01")
    assert server.ask("Why?", max_tokens=1)["choices"]
    eventually(lambda: "the model was closed" in server.log, True)
    assert server.metric("memory_bytes") >= 0
    assert server.http.get("/health").json() == {"status": "OK"}
    assert server.ask("Why?", max_tokens=1)["choices"]
    eventually(lambda: server.log.count("the model was closed"), 2)


def test_a_port_that_is_taken_and_a_model_that_is_none(refused, server, tmp_path):
    port = server.address.rpartition(":")[2]
    refused(1, f"cannot listen on 127.0.0.1, port {port}", "serve", "-m", "mini", "--port", port)
    refused(1, "no such folder", "serve", "-m", tmp_path / "nothing")
