"""Pictures from the web: what a server may do, and what it may not."""

import http.server
import threading
import time

import pytest
from image_files import encoded, picture, refused, same

from pixtral_mlx.inputs import image_source
from pixtral_mlx.inputs.image import open_image

ELSEWHERE = {"/to/file": "file:///etc/hosts", "/to/ftp": "ftp://127.0.0.1/a.png"}


class Pages(http.server.BaseHTTPRequestHandler):
    """A server of pictures, and of what can go wrong with one."""

    timeout = 5

    def do_GET(self):
        path = self.path
        if path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", ELSEWHERE.get(path, "/a.png"))
            self.end_headers()
        elif path == "/missing":
            self.send_error(404)
        elif path == "/silent":
            time.sleep(1)
        elif path == "/drip":
            self._send(length=None)
            for _ in range(20):
                self.wfile.write(b"x")
                time.sleep(0.1)
        elif path == "/cut":
            self._send(length=10_000)
        elif path == "/endless":
            self._send(length=None)
            self.wfile.write(bytes(100_000))
        elif path == "/large":
            self._send(length=10**12)
        else:
            data = encoded(picture())
            self._send(length=len(data))
            self.wfile.write(data)

    def _send(self, *, length):
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_):
        pass


class QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # readers that leave early are what is tested


@pytest.fixture(scope="module")
def web():
    server = QuietServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["/a.png", "/to/a.png", "/Käse bild.png?a=b&c=%20#x"])
def test_pictures_from_the_web(web, path):
    assert same(open_image(web + path), picture())


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/missing", "could not be fetched (Not Found)"),
        ("/to/file", "could not be fetched ("),
        ("/to/ftp", "redirects to 'ftp://127.0.0.1/a.png'; only http and https"),
        ("/cut", "could not be fetched"),
        ("/large", "more than 50,000,000 bytes"),
    ],
)
def test_what_a_server_may_not_do(web, path, said):
    refused(web + path, said)


def test_an_answer_without_end(web, monkeypatch):
    monkeypatch.setattr(image_source, "MAX_URL_BYTES", 50_000)
    refused(web + "/endless", "more than 50,000 bytes")


@pytest.mark.parametrize("path", ["/silent", "/drip"])
def test_a_slow_server_is_left_in_time(web, monkeypatch, path):
    monkeypatch.setattr(image_source, "URL_SECONDS", 0.3)
    start = time.monotonic()
    refused(web + path, "could not be fetched (")
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/a.png", "http://", "http://[::1", "http:///a.png", "https://" + "x" * 300],
)
def test_addresses_that_lead_nowhere(url):
    refused(url, "could not be fetched (")
