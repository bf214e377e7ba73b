"""What a file is, by its first bytes: pictures, PDFs, and all that people give instead."""

import gzip
import io
import json
import zipfile

import pytest
from image_files import encoded, picture, refused
from pdfs import make_pdf
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.inputs.file_kind import is_pdf, is_picture


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as held:
        held.writestr("word/document.xml", "<w:document/>")
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214\nsize 12345\n"
SVG = b'<?xml version="1.0"?>\n<!-- drawn by hand -->\n<svg xmlns="http://www.w3.org/2000/svg"/>'
OTHERS = {
    "a Git LFS pointer": (LFS, "git lfs pull"),
    "an SVG drawing": (SVG, "PNG"),
    "a web page": (b"\xef\xbb\xbf \n<!DOCTYPE html><html><img src=x></html>", "picture itself"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "picture itself"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "sips -s format jpeg"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "sips"),
    "a Photoshop document": (b"8BPS\0\x01" + bytes(40), "sips"),
    "a camera's raw picture": (b"\0\0\0\x18ftypcrx \0\0\0\1" + bytes(40), "sips"),
    "a video": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(40), "out of it"),
    "PostScript": (b"%!PS-Adobe-3.0\n", "PDF"),
    "a ZIP archive or an Office document": (archive(), "PDF"),
    "a compressed archive": (gzip.compress(b"x"), "unpack"),
    "JSON": (json.dumps({"error": "not found"}).encode(), "server"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_refused_file_is_told_what_it_is(tmp_path, what):
    data, advice = OTHERS[what]
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    line = refused(path, f"photo.jpg: {what}, not a picture that can be read: ")
    assert advice in line and len(line) < 400
    assert not is_picture(data) and not is_pdf(data)


def test_what_is_nothing_known_is_told_what_is_read(tmp_path):
    refused(b"\0\1\2\3" * 20, "not a picture that can be read; allowed: PNG, JPEG")
    refused(b"", "0 bytes")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_the_first_bytes_decide(tmp_path, kind):
    """A picture whose metadata speaks of PDFs is a picture, whatever its name is."""
    data = encoded(picture(8, 8), kind)
    assert is_picture(data)
    data = data[:64] + b"%PDF-" + data[64:]
    assert not is_pdf(data)
    path = tmp_path / "report.pdf"
    path.write_bytes(encoded(picture(8, 8), kind))
    assert px.open_image(path).size == (8, 8)


@pytest.mark.parametrize("before", [b"", b"\r\n", b"From: scanner@example.org\r\n\r\n", bytes(900)])
def test_a_pdf_may_begin_late(mini, before):
    data = before + make_pdf(2)
    assert is_pdf(data)
    content = [{"type": "image", "image": data}, {"type": "text", "text": "?"}]
    prompt = mini.encode([{"role": "user", "content": content}])
    assert len(prompt.images) == 2


def test_a_mark_after_the_first_kilobyte_is_none():
    assert not is_pdf(bytes(1024) + make_pdf(1))


def test_hostile_text_takes_no_time():
    for data in (b"<!---->" * 10**5, b"<" * 10**6, b" " * 10**6, b"{" * 10**6):
        with pytest.raises(px.ImageError):
            px.open_image(data)
    assert isinstance(px.open_image(encoded(picture())), Image.Image)
