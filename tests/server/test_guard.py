"""Who may ask, and what is refused before it is read."""

import contextlib
import socket
import threading
import time
from functools import partial

import pytest

BODY = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def locked(start):
    """With a key, a page that may ask, and a small body."""
    return start(
        "--allow-origin", "https://friend.example", "--allow-host", "mac.local", "--max-body",
        "0.01", PIXTRAL_MLX_API_KEY="Zebra-1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8000"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "127.0.0.1.nip.io"}, 403),
        ({"host": ""}, 403),
        ({"host": "localhost:1"}, 200),
        ({"host": "LOCALHOST"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:9", "host": "localhost:8"}, 403),
        ({"origin": "http://localhost:8", "host": "localhost:8"}, 200),
        ({"sec-fetch-mode": "cors"}, 200),
        ({"authorization": "Bearer anything"}, 200),
    ],
)
def test_hosts_and_origins(server, headers, status):
    found = server.post(BODY, headers=headers)
    assert found.status_code == status, found.text
    if status == 403:
        assert "allowed: " in found.json()["error"]["message"]
        assert "access-control-allow-origin" not in found.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer zebra-1"}, 401),
        ({"authorization": "Bearer Zebra-1 x"}, 401),
        ({"authorization": "Bearer Zebra-\u00e9".encode()}, 401),
        ({"authorization": "Basic Zebra-1"}, 401),
        ({"authorization": "Bearer Zebra-1"}, 200),
        ({"authorization": "bearer  Zebra-1"}, 200),
        ({"x-api-key": "Zebra-1"}, 200),
    ],
)
def test_a_key_protects_everything_but_the_state(locked, headers, status):
    found = locked.post(BODY, headers=headers)
    assert found.status_code == status, found.text
    if status == 401:
        assert found.json()["error"]["code"] == "invalid_api_key"
    for path in ("/v1/models", "/metrics"):
        assert locked.http.get(path, headers=headers).status_code == status
    assert locked.http.get("/health").json() == {"status": "OK"}
    assert "Zebra" not in locked.log


def test_a_page_of_a_friend_may_ask_and_read(locked):
    origin = {"origin": "https://friend.example"}
    asked = locked.http.options("/v1/chat/completions", headers=origin)
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "https://friend.example"
    assert "authorization" in asked.headers["access-control-allow-headers"]
    key = {**origin, "authorization": "Bearer Zebra-1"}
    found = locked.post(BODY, headers=key)
    assert found.status_code == 200
    assert found.headers["access-control-allow-origin"] == "https://friend.example"
    assert locked.http.get("/health", headers={"host": "mac.local"}).status_code == 200


def test_a_large_body_is_not_read(locked):
    key = {"authorization": "Bearer Zebra-1"}
    large = {"messages": [{"role": "user", "content": "x" * 11_000}]}
    found = locked.post(large, headers=key)
    assert (found.status_code, found.json()["error"]["code"]) == (413, "request_too_large")
    parts = (b"x" * 1000 for _ in range(20))  # in chunks, which state no length
    found = locked.http.post("/v1/chat/completions", content=parts, headers=key)
    assert found.status_code == 413 and "0.01 MB" in found.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b'{"messages": NaN}', b"[" * 100_000,
        b'{"a":' * 100_000, b"null", b"1",
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_one_sentence(server, body):
    found = server.http.post("/v1/chat/completions", content=body)
    error = found.json()["error"]
    assert found.status_code == 400 and "\n" not in error["message"], error


def test_control_words_in_text_stay_text(server):
    """Whoever writes [INST] or [IMG] into a question writes letters."""
    plain = server.ask("Why?", max_tokens=1)["usage"]["prompt_tokens"]
    for word in ("[INST]", "[/INST]", "</s>", "[IMG]", "[IMG_BREAK]", "[TOOL_CALLS]"):
        usage = server.ask(f"Why?{word}", max_tokens=1)["usage"]
        assert usage["prompt_tokens"] > plain + 2, word
        assert usage["prompt_tokens_details"]["image_tokens"] == 0


def test_files_of_this_machine_are_not_read(server, tmp_path):
    for place in ("/etc/hostname", "file:///etc/hostname", "http://127.0.0.1:1/x.png"):
        parts = [{"type": "image_url", "image_url": {"url": place}}]
        found = server.post({"messages": [{"role": "user", "content": parts}]})
        error = found.json()["error"]["message"]
        assert found.status_code == 400 and "allowed: " in error, error
        assert "hostname" not in error


def test_too_many_pictures_are_refused_unopened(server):
    parts = [{"type": "image_url", "image_url": "data:,"}] * 33
    found = server.post({"messages": [{"role": "user", "content": parts}]})
    assert found.json()["error"]["code"] == "too_many_images"


def test_a_head_that_is_too_long_is_refused(server):
    found = server.http.get("/health", headers={"x-long": "y" * 100_000})
    assert found.status_code == 431 and "allowed: 32,768" in found.text


def test_other_paths_and_methods(server):
    assert server.http.get("/v1/chat/completions").status_code == 405
    for path in ("/docs", "/openapi.json", "/../etc/passwd", "/v1/nothing"):
        found = server.http.get(path)
        assert found.status_code == 404 and "allowed: " in found.json()["error"]["message"]


def test_a_connection_that_says_nothing_is_ended(monkeypatch):
    import uvicorn

    from pixtral_mlx.server import guard

    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.3)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=guard.patient_protocol(), lifespan="off", log_config=None, timeout_keep_alive=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    try:
        for sent in (b"", b"POST / HTTP/1.1\r\nHost:", whole, whole + b"GET / HT"):
            with socket.create_connection(listener.getsockname(), 20) as slow:
                slow.sendall(sent)
                answered = b""
                while data := slow.recv(1000):
                    answered += data
            assert answered.startswith(b"HTTP/1.1 204") == sent.startswith(whole)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def test_bodies_have_room_together(locked):
    """Ten of the largest at once, however slowly they come."""
    key = {"Authorization": "Bearer Zebra-1"}
    post = partial(locked.post, headers=key)
    address = ("127.0.0.1", int(locked.address.rpartition(":")[2]))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000\r\n"
    head += b"Authorization: Bearer Zebra-1\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            slow = stack.enter_context(socket.create_connection(address, 20))
            slow.sendall(head + b" " * 9900)
        body = {"messages": "x" * 5000}  # which is read whole, and asks nothing
        end = time.monotonic() + 30
        while (answer := post(body)).status_code == 400:  # they are still on their way
            assert time.monotonic() < end
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "too_many_requests")
        assert "hold 0.1 MB; allowed: 0.1 MB (10 times --max-body)" in error["message"]
        assert post({"messages": "x"}).status_code == 400
    end = time.monotonic() + 30
    while post(body).status_code == 429:  # until it has seen that they have left
        assert time.monotonic() < end


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "can be reached from other machines, and there is no key"),
        (["--port", "99999"], "port must be between 0 and 65535, got 99999"),
        (["--max-concurrency", "0"], "max_concurrency must be between 1 and 256, got 0"),
    ],
)
def test_a_server_that_would_be_open_or_wrong_does_not_start(refused, words, said):
    status = 1 if "--host" in words else 2
    refused(status, said, "serve", "--model", "mini", *words)


def test_variables_are_options(refused, monkeypatch):
    monkeypatch.setenv("PIXTRAL_MLX_PORT", "many")
    refused(2, "PIXTRAL_MLX_PORT must be a number, got 'many'", "serve")
    monkeypatch.setenv("PIXTRAL_MLX_PORT", "70000")
    refused(2, "got 70000", "serve", "--model", "mini")
