"""Documents page by page, by Mistral's client."""

import base64
import io

import httpx
import mistralai.client as mistral
import pytest
from mistralai.client.errors import SDKError

from pixtral_mlx.mini import scene
from pixtral_mlx.server.ocr import TASK

MODEL = "pixtral-12b"
SCENES = [scene(seed, 2, 3).image for seed in (7, 8, 9)]


@pytest.fixture(scope="module")
def ocr(server):
    with mistral.Mistral(server_url=server.address, api_key="none") as client:
        yield client.ocr


def url(kind: str, pages=SCENES, mime: str = "application/octet-stream", **options) -> str:
    """Pictures as a file, as a data URL."""
    file, pages = io.BytesIO(), [page.copy() for page in pages]  # Pillow leaves notes in them
    several = {"save_all": True, "append_images": pages[1:]} if len(pages) > 1 else {}
    pages[0].save(file, kind, **several, **options)
    return f"data:{mime};base64,{base64.b64encode(file.getvalue()).decode()}"


def said(server, picture: str) -> str:
    parts = [
        {"type": "image_url", "image_url": picture},
        {"type": "text", "text": TASK},
    ]
    found = server.post({"messages": [{"role": "user", "content": parts}]}).json()
    return found["choices"][0]["message"]["content"]


def test_a_picture_is_a_page(server, ocr):
    picture = url("PNG", SCENES[:1], dpi=(150, 150))
    document = {"type": "image_url", "image_url": picture}
    found = ocr.process(model=MODEL, document=document, include_image_base64=True)
    (page,) = found.pages
    assert page.index == 0 and page.markdown == said(server, picture) != ""
    size = SCENES[0].size
    assert (page.dimensions.dpi, page.dimensions.width, page.dimensions.height) == (150, *size)
    assert (found.model, found.usage_info.pages_processed, page.images) == (MODEL, 1, [])
    assert found.usage_info.doc_size_bytes == len(base64.b64decode(picture.partition(",")[2]))


def test_pages_of_a_tiff_in_the_order_that_is_asked_for(server, ocr):
    document = {"type": "document_url", "document_url": url("TIFF")}
    alone = [said(server, url("PNG", [page])) for page in SCENES]
    assert len(set(alone)) > 1  # or they could be mixed up
    found = ocr.process(model=MODEL, document=document)
    assert [page.markdown for page in found.pages] == alone
    assert [page.index for page in found.pages] == [0, 1, 2]
    for pages in ([2, 0, 2], "2,0-0"):
        found = ocr.process(model=MODEL, document=document, pages=pages)
        assert [page.index for page in found.pages] == [2, 0]
        assert [page.markdown for page in found.pages] == [alone[2], alone[0]]


def test_a_pdf_states_the_resolution_of_its_pages(ocr):
    pdf = url("PDF", SCENES[:2], "application/pdf", resolution=72)
    found = ocr.process(
        model=MODEL, document={"type": "document_url", "document_url": pdf}, pages=[1]
    )
    (page,) = found.pages
    longest = max(SCENES[1].size)
    assert max(page.dimensions.width, page.dimensions.height) == 1024
    assert page.index == 1 and page.dimensions.dpi == round(72 * 1024 / longest)


def test_what_is_refused(server, ocr):
    picture = {"type": "image_url", "image_url": url("PNG", SCENES[:1])}
    for fields, param, part in (
        ({"pages": [1]}, "pages", "pages names 1; allowed: 0; the first page is 0"),
        ({"pages": "1-x"}, "pages", "whole numbers from 0"),
        ({"pages": "0-9999," * 200}, "pages", "whole numbers from 0"),
        (
            {"document": {"type": "file", "file_id": "abc"}},
            None,
            "file_id names a file on a server",
        ),
        ({"document": {"type": "text", "text": "x"}}, None, "type 'text'"),
        ({"document": {"type": "image_url", "image_url": "/etc/passwd"}}, None, "of the server's"),
        ({"document": "x"}, "document", "must be an object"),
        ({"table_format": "html"}, "table_format", "leave it out"),
        ({"pages": True}, "pages", "whole numbers from 0"),
    ):
        answer = server.post({"document": picture, **fields}, "/v1/ocr")
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"] == param, (fields, error)
        assert part in error["message"] and "\n" not in error["message"], error
    with pytest.raises(SDKError, match="there is no model 'mistral-ocr-latest'"):
        ocr.process(model="mistral-ocr-latest", document=picture)


def test_places_are_given_back(start):
    server = start("--max-images", "2", "--max-concurrency", "1")
    document = {"type": "document_url", "document_url": url("TIFF")}
    error = server.post({"document": document}, "/v1/ocr").json()["error"]
    assert error["code"] == "too_many_images" and "has 3 pictures" in error["message"]
    for pages in ([0, 2], [0]):
        found = server.post({"document": document, "pages": pages}, "/v1/ocr").json()
        assert [page["index"] for page in found["pages"]] == pages
    for _ in range(3):
        broken = {"type": "document_url", "document_url": "data:,x"}
        assert server.post({"document": broken}, "/v1/ocr").status_code == 400
        with pytest.raises(httpx.ReadTimeout):
            server.post({"document": document, "pages": [0, 1]}, "/v1/ocr", timeout=0.02)
    assert server.ask("hello", max_tokens=1)["choices"]
    server.rest()
