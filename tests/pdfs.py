"""PDFs made in code: pages of one colour, and empty pages of any size."""

import io

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
    file, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(file))
        file += b"%d 0 obj%s endobj\n" % (number, body)
    start = len(file)
    file += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    file += b"".join(b"%010d 00000 n \n" % place for place in places)
    file += b"trailer<</Size %d/Root 1 0 R%s>>\n" % (len(objects) + 1, trailer)
    return bytes(file + b"startxref\n%d\n%%%%EOF" % start)
