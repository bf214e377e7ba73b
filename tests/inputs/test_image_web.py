"""Pictures from the web: what a server may do, and what it may not."""

import base64
import gzip
import http.server
import threading
import time
import zlib

import pytest
from image_files import encoded, picture, refused, same

import pixtral_mlx as px
from pixtral_mlx.inputs import image_source
from pixtral_mlx.inputs.image import open_image

KEY = "Basic " + base64.b64encode("jo:päss word".encode()).decode()
PACKED = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate-raw": lambda data: zlib.compress(data, wbits=-15),
    "br": lambda data: data,
}
ELSEWHERE = {"/to/file": "file:///etc/hosts", "/to/ftp": "ftp://127.0.0.1/a.png"}


class Pages(http.server.BaseHTTPRequestHandler):
    """A server of pictures, and of what can go wrong with one."""

    timeout = 5

    def do_GET(self):
        path = self.path
        self.server.seen.append((path, dict(self.headers)))
        if path.startswith("/locked") and self.headers.get("Authorization") != KEY:
            self.send_error(401)
        elif path.startswith("/packed/"):
            coding = path.rpartition("/")[2]
            data = PACKED[coding](encoded(picture()))
            self._send(length=len(data), coding=coding.removesuffix("-raw"))
            self.wfile.write(data)
        elif path.startswith(("/to/", "/locked/to/")):
            self.send_response(302)
            self.send_header("Location", ELSEWHERE.get(path, path.replace("/to", "", 1)))
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

    def _send(self, *, length, coding=None):
        self.send_response(200)
        if coding is not None:
            self.send_header("Content-Encoding", coding)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_):
        pass


class QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # readers that leave early are what is tested


class Web(str):
    """The address of a server, and `seen`: (path, headers) of what it was asked."""

    def __new__(cls, address, seen):
        web = super().__new__(cls, address)
        web.seen = seen
        return web


@pytest.fixture(scope="module")
def web():
    server = QuietServer(("127.0.0.1", 0), Pages)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield Web(f"http://127.0.0.1:{server.server_port}", server.seen)
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


@pytest.mark.parametrize("path", ["/locked/a.png", "/locked/to/a.png"])
def test_a_password_in_the_address_goes_to_its_server_and_nowhere_else(web, path):
    address = web.replace("http://", "http://jo:p%C3%A4ss%20word@")
    assert same(open_image(address + path), picture())
    line = refused(address.replace("jo:", "xx:") + path, "could not be fetched (Unauthorized)")
    assert "p%C3" not in line and "@" not in line and web in line
    other = web.replace("127.0.0.1", "localhost")
    ELSEWHERE["/locked/to/other"] = f"{other}/a.png"
    assert same(open_image(f"{address}/locked/to/other"), picture())
    assert web.seen[-1][0] == "/a.png" and "Authorization" not in web.seen[-1][1]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "deflate-raw"])
def test_what_a_server_packed_is_unpacked(web, coding):
    assert same(open_image(f"{web}/packed/{coding}"), picture())
    assert web.seen[-1][1]["User-Agent"] == f"pixtral-mlx/{px.__version__}"


def test_what_cannot_be_unpacked_is_said(web, monkeypatch):
    refused(f"{web}/packed/br", "could not be fetched (sent as 'br'; allowed: gzip and deflate)")
    monkeypatch.setitem(PACKED, "gzip", lambda data: b"\x1f\x8b" + data)
    refused(f"{web}/packed/gzip", "could not be fetched (damaged gzip")
    monkeypatch.setitem(PACKED, "gzip", lambda _: gzip.compress(bytes(10**6)))
    monkeypatch.setattr(image_source, "MAX_URL_BYTES", 50_000)
    refused(f"{web}/packed/gzip", "more than 50,000 bytes")  # a bomb


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
