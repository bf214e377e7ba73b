"""Pictures of a request: how many tokens they take, known before they are decoded."""

import base64

import pytest
from image_files import encoded, png_header
from pdfs import make_pdf
from PIL import Image


def url(file: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(file).decode()}"


def asked(*parts) -> dict:
    content = [*parts, {"type": "text", "text": "What?"}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1}


WIDE = url(encoded(Image.new("L", (1024, 272))))
"""17 rows of 64 patches and a break, a little more than 1,056 tokens; within them, 17 of 61."""


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_low_detail_takes_fewer_tokens(server, path):
    def tokens(detail) -> int:
        if path == "/v1/responses":
            part = {"type": "input_image", "image_url": WIDE, "detail": detail}
            body = {"input": asked(part)["messages"], "max_output_tokens": 1}
            return server.post(body, path).json()["usage"]["input_tokens"]
        part = {"type": "image_url", "image_url": {"url": WIDE, "detail": detail}}
        return server.post(asked(part), path).json()["usage"]["prompt_tokens"]

    low, high, auto, none = map(tokens, ("low", "high", "auto", None))
    assert high == auto == none == low + 17 * 65 - 17 * 62


def test_another_detail_is_refused_by_its_name(server):
    part = {"type": "image_url", "image_url": {"url": WIDE, "detail": "tiny"}}
    found = server.post(asked(part))
    assert found.status_code == 400
    assert "content[0]: detail 'tiny'; allowed: low, high, auto" in found.json()["error"]["message"]


def test_too_many_tokens_are_refused_before_a_picture_is_decoded(server):
    """These would be found damaged, if they were."""
    part = {"type": "image_url", "image_url": {"url": url(png_header(1024, 1024))}}
    error = server.post(asked(part, part)).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert "the pictures alone take 8,320 tokens; the context holds 8,192" in error["message"]
    assert "damaged" in server.post(asked(part)).json()["error"]["message"]


def test_too_many_pages_are_refused_before_one_is_drawn(server):
    """They would be too many tokens as well, which is looked at later."""
    part = {"type": "input_file", "file_data": url(make_pdf(33), "application/pdf")}
    error = server.post(asked(part)).json()["error"]
    assert error["code"] == "too_many_images" and "has 33 pictures" in error["message"]
