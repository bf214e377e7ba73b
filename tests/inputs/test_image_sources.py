"""Pictures as other programs hand them over: arrays, open files, data URLs, base64."""

import base64
import io
import os

import mlx.core as mx
import numpy as np
from image_files import encoded, picture, refused, same

from pixtral_mlx.inputs.image import FORMATS, open_image


def test_arrays_of_every_program_and_kind():
    image = picture()
    pixels = np.asarray(image)
    for source in (mx.array(pixels), Holder(pixels)):
        assert same(open_image(source), image)
    for kind in (np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64):
        assert same(open_image(pixels.astype(kind)), image)
    for kind in (mx.float32, mx.float16, mx.bfloat16):
        white = open_image(mx.ones((2, 3, 3), dtype=kind))
        assert white.getpixel((2, 1)) == (255, 255, 255)
    grey = open_image(pixels[..., :1])
    assert grey.mode == "L" and np.array_equal(np.asarray(grey), pixels[..., 0])
    mask = np.array([[True, False]])
    for source in (mask, mask[..., None], mx.array(mask)):
        assert np.asarray(open_image(source)).tolist() == [[255, 0]]
    # What goes beyond 255 has 16 bits, whatever it is kept in.
    assert np.asarray(open_image(np.array([[0, 255]]))).tolist() == [[0, 255]]
    assert np.asarray(open_image(np.array([[0, 256]]))).tolist() == [[0, 1]]
    deep = [[0, 128, 256], [32768, 65278, 65535]]
    for kind in (np.uint16, np.int32, np.int64):
        assert np.asarray(open_image(np.array(deep, kind))).tolist() == [[0, 0, 1], [128, 254, 255]]


class Holder:
    """Another program's array."""

    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return self._array


def test_open_files_are_read_from_their_beginning(tmp_path):
    image, path = picture(), tmp_path / "a.png"
    image.save(path)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")  # and the position is at its end
    for _ in range(2):
        assert same(open_image(buffer), image)
    with path.open("rb") as file:
        assert same(open_image(file), image)
    read, write = os.pipe()
    with os.fdopen(write, "wb") as file:
        file.write(path.read_bytes())
    with os.fdopen(read, "rb") as pipe:
        assert same(open_image(pipe), image)
    with path.open(encoding="latin-1") as text:
        refused(text, "gives str, not bytes: open it with open(name, 'rb')")
    refused(file, "cannot be read")  # it is closed


def test_data_urls_as_browsers_take_them():
    image = picture()
    data = encoded(image)
    payload = base64.b64encode(data).decode()
    assert len(data) % 3 and payload.endswith("=")
    lines = "\r\n".join(payload[i : i + 76] for i in range(0, len(payload), 76))
    percent = "".join(f"%{byte:02X}" for byte in data)
    for url in (
        f"data:image/png;base64,{lines}",
        f"data:image/png;base64,  {payload}\n",
        f"data:image/png;base64,{payload.rstrip('=')}",
        f"data:image/png;base64,{payload.replace('+', '%2B').replace('=', '%3D')}",
        f"  DATA:image/png;charset=utf-8; BASE64 ,{payload}",
        f"data:;base64,{payload}#top",
        f"data:image/png,{percent}",
        f"data:,{percent}",
    ):
        assert same(open_image(url), image)
    for wrong in ("A" * 33, "AA=A", "AAA==", "AAAA=", "iVBO-_ORw0KGgo="):
        refused(f"data:image/png;base64,{wrong}", "not valid base64")


def test_base64_without_an_address(tmp_path, monkeypatch):
    for kind in FORMATS:
        image = picture()
        payload = base64.b64encode(encoded(image, kind)).decode()
        for text in (payload, payload.rstrip("="), f"{payload[:10]}\n{payload[10:]}\n"):
            assert open_image(text).size == image.size, kind
    # A file of that name comes first, and what begins like no picture is a name.
    monkeypatch.chdir(tmp_path)
    small = base64.b64encode(encoded(picture(), "GIF")).decode().replace("/", "+")[:60]
    picture().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / small)
    assert same(open_image(small), picture())
    refused("A" * 40, "no such file")
