"""Documents to rows of data over HTTP, as the command writes them."""

import base64
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import pixtral_mlx as px
from pixtral_mlx.mini import scene

PATH = "/v1/extract"
SCHEMA = {
    "type": "object",
    "properties": {
        "rows": {"type": "integer", "maximum": 5, "x-question": "How many rows are there?",
                 "x-present": False},
        "star": {"enum": ["red", "green", "blue", None], "x-question": "What colour is the star?",
                 "x-present": "How many stars are there?"},
        "first": {"type": "string", "x-question": "What is in row 1, column 1?"},
    },
    "required": ["rows", "star"],
    "x-checks": ["rows <= 1"],
}  # fmt: skip


def part(picture: str) -> dict:
    return {"type": "image_url", "image_url": {"url": picture}}


def pdf(*pages) -> str:
    """Pictures as a PDF, as a data URL."""
    file = io.BytesIO()
    pages[0].save(file, "PDF", save_all=True, append_images=pages[1:], resolution=72)
    return "data:application/pdf;base64," + base64.b64encode(file.getvalue()).decode()


def test_the_row_is_that_of_the_library(server, drawing, mini):
    """Mini cannot write JSON: the first pass is begun, ended early, and gives way to questions."""
    picture, known = drawing
    body = {"schema": SCHEMA, "sources": [part(picture)], "min_confidence": 0.5}
    written = server.metric("generated_tokens_total")
    row = server.post({**body, "model": "pixtral-12b"}, PATH).json()
    assert server.metric("generated_tokens_total") - written < 200  # of thousands, were it not
    wanted = px.extract(mini, known.image, SCHEMA, min_confidence=0.5).row()
    assert row["one_by_one"] and row["source"] == "sources[0]"
    assert (row["data"], row["needs_review"]) == (wanted["data"], True)
    assert row["reasons"] == [f"rows <= 1: {known.layout.rows} and 1"]
    assert [*row["fields"]] == [*wanted["fields"]]
    for pointer, field in row["fields"].items():
        for name, value in wanted["fields"][pointer].items():
            inexact = isinstance(value, float | list)
            assert field[name] == (pytest.approx(value, abs=1e-3) if inexact else value), name


def test_pages_of_a_pdf_a_few_at_a_time(server, mini):
    pages = [scene(seed, 2, 3).image for seed in (7, 8)]
    schema = {
        "type": "object", "required": ["rows"],
        "properties": {"rows": {
            "type": "array", "x-question": "How many rows are there?",
            "items": {"type": "string", "maxLength": 30, "x-present": False,
                      "x-question": "What is in row {n}, column 1?"},
        }},
    }  # fmt: skip
    file = {"type": "file", "file": {"filename": "two.pdf", "file_data": pdf(*pages)}}
    budget = px.patch_grid(*pages[0].size, mini.config.vision).tokens
    options = {"one_by_one": True, "pages_at_once": 1, "double_check": False}
    body = {"schema": schema, "sources": file, "image_budget": budget, **options}
    row = server.post(body, PATH).json()
    assert row["source"] == "two.pdf" and [page["number"] for page in row["pages"]] == [1, 2]
    pictures = px.ImageOptions(image_budget=budget)
    wanted = px.extract(mini, pdf(*pages), schema, image_options=pictures, **options)
    assert row["data"] == wanted.data and len(row["data"]["rows"]) == 4
    assert [field["page"] for field in row["fields"].values()] == [1, 1, 2, 2]


def test_what_is_refused(server, drawing):
    right = {"schema": SCHEMA, "sources": [part(drawing[0])]}
    text = {"type": "text", "text": "x"}
    low = {"type": "image_url", "image_url": {"url": drawing[0], "detail": "low"}}
    for fields, param, said in (
        ({"schema": None}, "schema", "schema is missing"),
        ({"schema": {"type": "string"}}, "schema", "must describe an object"),
        ({"schema": "/etc/passwd"}, "schema", "allowed: business_card"),
        ({"schema": {**SCHEMA, "x-checks": ["rows"]}}, "schema", "x-checks"),
        ({"sources": []}, "sources", "sources must be a list"),
        ({"sources": [text]}, "sources", "sources[0]: no file"),
        ({"sources": [low]}, "sources", "allowed: image_budget"),
        ({"sources": [part("/etc/passwd")]}, None, "of the server's"),
        ({"sources": [part("data:,x")]}, None, "not a picture"),
        ({"double_cheque": True}, "double_cheque", "no field 'double_cheque'; allowed: model,"),
        ({"progress": 1}, "progress", "no field 'progress'"),
        ({"min_confidence": 2}, "min_confidence", "must be between 0 and 1, got 2"),
        ({"one_by_one": "yes"}, "one_by_one", "must be True, False or None"),
        ({"temperature": -1}, "temperature", "must be between 0 and 100"),
        ({"image_budget": 0}, "image_budget", "must be 2 or more"),
    ):
        answer = server.post({**right, **fields}, PATH)
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"] == param, (fields, error)
        assert said in error["message"] and "\n" not in error["message"], error
    assert server.post({**right, "model": "gpt"}, PATH).json()["error"]["code"] == "model_not_found"
    assert server.post({"sources": right["sources"], "schema": "receipt"}, PATH).status_code == 200


def test_places_and_pictures_are_limited_and_others_are_answered_in_between(start, drawing):
    """One is answered at a time: a question of a document, somebody else's, the next one."""
    server = start("--max-images", "2", "--max-concurrency", "1", "--max-waiting", "1",
                   "--api-key", "k", "--max-body", "0.1")  # fmt: skip
    body = {"schema": SCHEMA, "sources": [part(drawing[0])], "one_by_one": True}
    assert server.post(body, PATH).status_code == 401
    server.http.headers["authorization"] = "Bearer k"
    assert server.post({**body, "instructions": "x" * 200_000}, PATH).status_code == 413
    three = pdf(*[scene(seed, 2, 3).image for seed in (7, 8, 9)])
    error = server.post({"schema": SCHEMA, "sources": [part(three)]}, PATH).json()["error"]
    assert error["code"] == "too_many_images" and "has 3 pictures" in error["message"]
    many = {"type": "object", "properties": {f"f{n}": {"type": "string"} for n in range(500)}}
    leaves = threading.Thread(target=left, args=(server, {**body, "schema": many}))
    leaves.start()
    while server.metric("images_total") < 2:
        assert leaves.is_alive()
        time.sleep(0.02)
    for _ in range(3):
        assert server.ask("Why?", max_tokens=2)["choices"]
    assert leaves.is_alive()
    with ThreadPoolExecutor(2) as crowd:
        found = [*crowd.map(lambda _: server.post(body, PATH).status_code, range(2))]
    assert sorted(found) == [200, 429]
    leaves.join()
    server.rest()  # the questions that are left are not asked
    assert server.metric("images_total") < 500 and "Traceback" not in server.log


def left(server, body: dict) -> None:
    """A client that does not wait for its row."""
    with pytest.raises(httpx.ReadTimeout):
        server.post(body, PATH, timeout=2)
