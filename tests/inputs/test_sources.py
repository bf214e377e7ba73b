"""Where a server may fetch pictures from: nowhere that is its own."""

import http.server
import io
import ipaddress
import socket
import threading

import pytest
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.inputs.checked_http import is_public
from pixtral_mlx.inputs.image_source import read_source
from pixtral_mlx.inputs.sources import Sources

STRICT = Sources(files=False, private=False)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255",
        "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "192.0.2.1", "224.0.0.1",
        "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1%eth0", "fc00::1",
        "fd12:3456::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::",
        "2001:0:4136:e378:8000:63bf:f5ff:fffe", "fec0::1", "nonsense",
    ],
)  # fmt: skip
def test_what_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_what_is_public(address):
    assert is_public(address)


@pytest.fixture(scope="module")
def web():
    """A server on this machine: pictures, and redirects to what `?to=` says."""
    data = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(data, "PNG")

    class Handler(http.server.BaseHTTPRequestHandler):
        asked: list = []  # noqa: RUF012

        def do_GET(self):
            self.asked.append(self.path)
            if "?to=" in self.path:
                self.send_response(302)
                self.send_header("Location", self.path.partition("?to=")[2])
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data.getvalue())))
            self.end_headers()
            self.wfile.write(data.getvalue())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server, Handler.asked, data.getvalue()
        server.shutdown()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "localhost.", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1",
        "127.1", "[::ffff:127.0.0.1]", "0", "user@127.0.0.1", "example.com\\@127.0.0.1",
        "example.com%00@127.0.0.1", "example.com#@127.0.0.1",
    ],
)  # fmt: skip
def test_no_spelling_of_this_machine_is_asked(web, host):
    server, asked, _ = web
    asked.clear()
    url = f"http://{host}:{server.server_port}/x.png"
    with pytest.raises(px.ImageError):
        read_source(url, STRICT)
    assert asked == []


def test_a_host_is_opened_by_its_name_alone(web):
    server, _, data = web
    rule = Sources(files=False, private=False, hosts=("localhost",))
    port = server.server_port
    assert read_source(f"http://localhost:{port}/x.png", rule)[0] == data
    for place in (f"http://127.0.0.1:{port}/x.png", "file:///etc/hostname"):
        with pytest.raises(px.ImageError):
            read_source(f"http://localhost:{port}/?to={place}", rule)
    found = read_source(f"http://localhost:{port}/?to=/x.png", rule)[0]
    assert found == data, "a redirect to the same host is one that may be followed"


def test_a_name_is_looked_up_once_and_the_connection_goes_there(web, monkeypatch):
    """DNS that says one thing to who checks and another to who connects."""
    server, asked, _ = web
    asked.clear()
    answers = iter(["93.184.215.14", "127.0.0.1", "127.0.0.1"])
    connected = []

    def lookup(host, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), server.server_port))]

    class Connection(socket.socket):
        def connect(self, address):
            connected.append(address[0])
            raise ConnectionRefusedError

    monkeypatch.setattr("pixtral_mlx.inputs.checked_http.socket.getaddrinfo", lookup)
    monkeypatch.setattr("pixtral_mlx.inputs.checked_http.socket.socket", Connection)
    with pytest.raises(px.ImageError):
        read_source("http://rebinding.example/x.png", STRICT)
    assert connected == ["93.184.215.14"] and asked == []
    assert ipaddress.ip_address(next(answers)).is_loopback, "it was not asked again"


def test_one_private_address_among_public_ones_is_enough(monkeypatch):
    places = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))
        for address in ("93.184.215.14", "10.0.0.1")
    ]
    monkeypatch.setattr(
        "pixtral_mlx.inputs.checked_http.socket.getaddrinfo", lambda *_, **__: places
    )
    with pytest.raises(px.ImageError, match="allowed: addresses of the public internet"):
        read_source("http://mixed.example/x.png", STRICT)


def test_no_file_is_looked_for(tmp_path, model):
    """Neither its content nor whether it is there can be told from the answer."""
    there = tmp_path / "secret.png"
    Image.new("RGB", (20, 20)).save(there)
    said = set()
    for place in (there, tmp_path / "nothing.png", f"file://{there}", "/etc/passwd", "~/x.png"):
        for source in (place, str(place)):
            with pytest.raises(px.ImageError) as caught:
                read_source(source, STRICT)
            said.add(str(caught.value))
    assert len(said) == 1 and "secret" not in said.pop()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": "PATH"},
        {"type": "image_url", "image_url": {"url": "PATH"}},
        {"type": "input_image", "image_url": "PATH"},
        {"type": "image", "image": "PATH"},
        {"type": "image", "path": "PATH"},
        {"type": "image", "url": "file://PATH"},
        {"type": "document_url", "document_url": "PATH"},
        {"type": "file", "file": {"file_data": "PATH"}},
        {"type": "image", "source": {"type": "url", "url": "PATH"}},
    ],
)
def test_no_shape_of_a_message_reads_a_file(tmp_path, model, part):
    import json

    there = tmp_path / "x.png"
    Image.new("RGB", (20, 20)).save(there)
    part = json.loads(json.dumps(part).replace("PATH", str(there)))
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]
    with pytest.raises(px.ImageError, match=r"a file of the server.s machine|base64"):
        model.encode(messages, image_options=px.ImageOptions(sources=STRICT))
