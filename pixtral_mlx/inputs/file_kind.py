"""What a file is, by its first bytes, whatever its name or its server says."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..files import open_file

PICTURES = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*",
    b"II+\0", b"MM\0+", b"RIFF",
)  # fmt: skip
"""How the pictures begin that are read here, but for PPM and what is in a container (`ftyp`)."""

_PPM = re.compile(rb"P[1-6][\s#]")
_PDF_MARK = b"%PDF-"
_MARK_BYTES = 1024
_HEIC_BRANDS = {
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1",
}  # fmt: skip
_AVIF_BRANDS = {b"avif", b"avis"}

LFS_POINTER = "a Git LFS pointer"
_AGAIN = "download the model by its hub id, or the file by the arrow beside it there"
_ANSWER_BYTES = 200  # "Entry not found", "Invalid username or password."
ON_A_MAC = "on a Mac, `sips -s format jpeg FILE --out FILE.jpg` converts it"
_OTHERS: Sequence[tuple[re.Pattern[bytes], str, str]] = [
    (re.compile(pattern, re.DOTALL), what, advice)
    for pattern, what, advice in (
        (rb"version https://git-lfs", LFS_POINTER,
         "`git lfs pull` fetches it"),
        (rb"(\xff\x0a|\0\0\0\x0cJXL )", "JPEG XL", ON_A_MAC),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000", ON_A_MAC),
        (rb"8BPS", "a Photoshop document", ON_A_MAC),
        (rb"....ftypcrx |FUJIFILMCCD-RAW|IIRO|IIU\0|\0MRM", "a camera's raw picture", ON_A_MAC),
        (rb"....ftyp|\x1a\x45\xdf\xa3|....moov|....mdat", "a video",
         "take a picture out of it first"),
        (rb"%!PS", "PostScript", "convert it to PDF"),
        (rb"PK\x03\x04", "a ZIP archive or an Office document", "export it as PDF, or unpack it"),
        (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "a compressed archive",
         "unpack it first"),
        (rb"\s*[{\[]\s*[\"{\[]", "JSON", "give the picture itself; a server may have answered so"),
    )
]  # fmt: skip


def is_pdf(data: bytes) -> bool:
    """Whether this is a PDF. Its mark may stand anywhere in the first 1,024 bytes, after what
    scanners and mail programs put before it; but what begins as a picture is a picture."""
    return data.startswith(_PDF_MARK) or (
        _PDF_MARK in data[:_MARK_BYTES] and not is_picture(data)
    )  # fmt: skip


def is_picture(data: bytes) -> bool:
    """Whether it begins as a picture that is read here, HEIC included."""
    return (
        data.startswith(PICTURES)
        or _PPM.match(data) is not None
        or bool(_brands(data) & (_HEIC_BRANDS | _AVIF_BRANDS))
    )


def is_heic(data: bytes) -> bool:
    """Whether these are pictures in HEVC in a HEIF container, by the brands at its start.

    AVIF has the same container and names itself among the brands; Pillow reads it.
    """
    brands = _brands(data)
    return bool(brands & _HEIC_BRANDS) and not brands & _AVIF_BRANDS


def what_else(data: bytes) -> tuple[str, str]:
    """What a file is that is no picture: ("a web page", what to do about it); both may be ""."""
    start = data[:_MARK_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"<"):
        if b"<svg" in start:
            return "an SVG drawing", "export it as PNG"
        if b"<html" in start or b"<!doctype html" in start:
            return "a web page", "save the picture itself, whose address is another one"
        return "XML", "give the picture itself"
    for pattern, what, advice in _OTHERS:
        if pattern.match(data):
            return what, advice
    return "", ""


def saved_instead(path: Path) -> str:
    """What was saved in the place of a model's file, and what to do; "" where that is not plain.

    Browsers, curl and git save pages, answers of the server and pointers under the file's name.
    """
    try:
        with open_file(path) as file:
            data = file.read(_MARK_BYTES)
    except OSError:
        return ""
    kind = what_else(data)[0]
    if kind == LFS_POINTER:
        return f"{kind}, not the file itself; run `git lfs pull` in its folder"
    if data.startswith(b"GGUF"):
        return (
            "a GGUF file, which llama.cpp reads; give a folder of safetensors files, or a hub id"
            " such as mistralai/Pixtral-12B-2409"
        )
    if kind in ("a web page", "XML"):
        return f"{kind} saved under this name, not the file; {_AGAIN}"
    text = data.decode("ascii", errors="replace").strip()
    if 0 < len(data) < _ANSWER_BYTES and text.isprintable() and text[:1].isalpha():
        return f"an answer of the server ({text!r}), not the file; {_AGAIN}"
    return ""


def _brands(data: bytes) -> set[bytes]:
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), len(data), _MARK_BYTES)
    return {data[at : at + 4] for at in range(8, end, 4)}
