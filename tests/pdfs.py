"""PDFs made in code: pages of one colour, and empty pages of any size."""

import hashlib
import io
import struct

from PIL import Image

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]


def make_pdf(pages=3, size=(170, 220)) -> bytes:
    """Pages of one colour each, letter by default (at 20 dots an inch)."""
    images = [Image.new("RGB", size, COLOURS[n % len(COLOURS)]) for n in range(pages)]
    file = io.BytesIO()
    images[0].save(file, "PDF", save_all=True, append_images=images[1:], resolution=20)
    return file.getvalue()


def make_blank(*sizes, extra=b"", trailer=b"") -> bytes:
    """Empty pages of these sizes in points, written by hand."""
    kids = b" ".join(b"%d 0 R" % (n + 3) for n in range(len(sizes)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(sizes), kids),
    ]
    for width, height in sizes:
        box = f"{width} {height}".encode()
        objects.append(b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %s]%s>>" % (box, extra))
    return joined(objects, trailer)


def make_endless() -> bytes:
    """Two pages: a form of the first draws itself twice each time, which takes for ever, or all
    memory; the second is empty."""
    resources = b"/Resources<</XObject<</X 5 0 R>>>>"
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 50 50]%s>>"
    form = b"/Type/XObject/Subtype/Form/BBox[0 0 50 50]" + resources
    return joined(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count 2/Kids[3 0 R 6 0 R]>>",
            page % (b"/Contents 4 0 R" + resources),
            stream(b"", b"/X Do"),
            stream(form, b"/X Do /X Do"),
            page % b"",
        ]
    )


def stream(entries: bytes, data: bytes) -> bytes:
    """An object that is a stream."""
    return b"<<%s/Length %d>>stream\n%s\nendstream" % (entries, len(data), data)


def joined(objects, trailer=b"") -> bytes:
    """A file of these objects, the first of which is its catalog."""
    file, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(file))
        file += b"%d 0 obj%s endobj\n" % (number, body)
    start = len(file)
    file += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    file += b"".join(b"%010d 00000 n \n" % place for place in places)
    file += b"trailer<</Size %d/Root 1 0 R%s>>\n" % (len(objects) + 1, trailer)
    return bytes(file + b"startxref\n%d\n%%%%EOF" % start)


def make_locked(password: str, *sizes) -> bytes:
    """Empty pages that open with a password (40-bit RC4, PDF 1.1; they hold nothing to encrypt)."""
    filling = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
    padded = (password.encode("latin-1") + filling)[:32]
    owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
    key = hashlib.md5(padded + owner + struct.pack("<i", -4) + b"a").digest()[:5]
    secret = b"/O<%s>/U<%s>" % (owner.hex().encode(), _rc4(key, filling).hex().encode())
    lock = b"/Encrypt<</Filter/Standard/V 1/R 2/P -4%s>>/ID[<61><61>]" % secret
    return make_blank(*sizes or ((50, 50),), trailer=lock)


def _rc4(key: bytes, data: bytes) -> bytes:
    box, j = list(range(256)), 0
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) % 256
        box[i], box[j] = box[j], box[i]
    i = j = 0
    found = bytearray()
    for byte in data:
        i = (i + 1) % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        found.append(byte ^ box[(box[i] + box[j]) % 256])
    return bytes(found)


def make_text(*pages, size=(400, 300), extra=b"") -> bytes:
    """Pages of words in Helvetica: each a list of (x, y of the baseline, points, text), from the
    lower left corner; `extra` goes into every page's dictionary."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(len(pages)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(pages), kids),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for n, lines in enumerate(pages):
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %d %d]/Resources<</Font<</F 3 0 R>>>>"
            b"/Contents %d 0 R%s>>" % (*size, 5 + 2 * n, extra)
        )
        drawn = [
            f"BT /F {points} Tf {x} {y} Td ({text}) Tj ET".encode("latin-1")
            for x, y, points, text in lines
        ]
        objects.append(stream(b"", b"\n".join(drawn)))
    return joined(objects)
