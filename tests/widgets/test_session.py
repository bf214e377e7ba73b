"""The session and what all widgets share, without a browser."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx.mini import scene
from pixtral_mlx_widgets import bundle, page
from pixtral_mlx_widgets.packing import heat, packed

SCENE = scene(3, 4, 5)


@pytest.fixture(scope="module")
def counting(asked):
    """A session that has counted the rows of `SCENE`."""
    return asked("How many rows are there?", SCENE.image)


def sent_by(view, content, buffers=()):
    """What the view answers to a message of the browser: (content, buffers)."""
    answers, arrived = [], threading.Event()

    def send(content, buffers=None):
        answers.append((content, buffers))
        arrived.set()

    view.send = send
    view._receive(view, content, list(buffers))
    assert arrived.wait(20), "no answer"
    return answers[0]


def test_an_answer_is_started_and_waited_for(counting):
    assert counting.reply.text == "four"
    assert not counting.busy
    assert counting.tokens == len(counting.reply.tokens)
    assert [m["role"] for m in counting.messages] == ["user", "assistant"]
    assert counting.prompt.grids == [(8, 10)]
    assert counting.epoch >= 1


def test_a_second_question_waits_for_the_first():
    session = w.Session("mini", dtype="float32")
    epochs = []
    session.observe(lambda change: epochs.append(change["new"]), "epoch")
    session.ask("Describe the picture.", images=[SCENE.image])
    with pytest.raises(RuntimeError, match=r"wait\(\) for it, or stop\(\) it"):
        session.ask("How many rows are there?", images=[SCENE.image])
    with ThreadPoolExecutor() as pool:  # this thread's loop may be that of a browser's tests
        pool.submit(asyncio.run, session.done()).result()
    session.ask("How many columns are there?", images=[SCENE.image])
    assert session.wait(60).text == "five"
    assert epochs == [1, 2]
    session.close()


def test_stop_keeps_what_was_written():
    session = w.Session("mini", dtype="float32")
    session.observe(lambda change: change["new"] >= 2 and session.stop(), "tokens")
    session.ask("Describe the picture.", images=[SCENE.image], max_tokens=200)
    reply = session.wait(60)
    assert reply.finish_reason == "interrupted"
    assert 2 <= len(reply.tokens) < 12
    session.close()


def test_waiting_tells_the_truth_whoever_asks_meanwhile():
    """Of eight threads that ask at once one is heard, and each who waits gets the answer to the
    question that was the last one when they began to wait."""
    session = w.Session("mini", dtype="float32")
    questions = ["How many rows are there?", "How many columns are there?"]
    wanted = dict(zip(questions, ("four", "five"), strict=True))

    def ask(number):
        try:
            session.ask(questions[number % 2], images=[SCENE.image])
        except RuntimeError:
            return None
        return questions[number % 2], session.messages[0]["content"][1]["text"], session.wait(60)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            (heard,) = filter(None, pool.map(ask, range(8)))
            assert heard[0] == heard[1] and heard[2].text == wanted[heard[0]]
    told = []

    def next_question(change):
        if not change["new"] and len(told) == 0:
            told.append(questions[1])
            session.ask(questions[1], images=[SCENE.image])

    session.observe(next_question, "busy")
    session.ask(questions[0], images=[SCENE.image])
    assert session.wait(60).text == "four"  # though another one has begun by now
    assert session.wait(60).text == "five"
    session.close()


@pytest.mark.parametrize("trait", ["busy", "epoch", "tokens", "progress", "messages", "reply"])
def test_an_observer_that_fails_stops_the_answer_and_is_heard(trait):
    session = w.Session("mini", dtype="float32")
    session.worker.submit(lambda model: model).result(60)  # which observers do not see

    def fail(change):
        raise ZeroDivisionError("mine")

    session.observe(fail, trait)
    with pytest.raises(ZeroDivisionError, match="mine"):
        session.ask("Describe the picture.", images=[SCENE.image], max_tokens=200)
        session.wait(60)
    session.unobserve(fail, trait)
    assert not session.busy and session.progress == {}
    session.ask("How many rows are there?", images=[SCENE.image])
    assert session.wait(60).text == "four"
    session.close()


def test_an_observer_cannot_wait_for_its_own_answer():
    session = w.Session("mini", dtype="float32")
    session.observe(lambda change: session.wait(), "tokens")
    session.ask("How many rows are there?", images=[SCENE.image])
    with pytest.raises(RuntimeError, match="wait on another thread"):
        session.wait(60)
    session.close()


def test_a_missing_model_is_told_in_one_sentence():
    session = w.Session("/no/such/folder")
    grid = w.PatchGrid(session)
    for _ in range(200):
        if grid.problem:
            break
        time.sleep(0.05)
    assert "/no/such/folder" in grid.problem
    assert "\n" not in grid.problem
    content, _ = sent_by(grid, {"id": 7, "what": "pixels", "arguments": {"image": 0}})
    assert content["id"] == 7
    assert "/no/such/folder" in content["problem"]


def test_an_unreadable_picture_is_told_and_the_session_goes_on(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    session = w.Session("mini", dtype="float32")
    grid = w.PatchGrid(session)
    session.ask("What do you see?", images=[tmp_path / "broken.png"])
    with pytest.raises(px.ImageError):
        session.wait(60)
    assert "broken.png" in grid.problem
    session.ask("How many rows are there?", images=[SCENE.image])
    assert session.wait(60).text == "four"
    assert grid.problem == ""
    session.close()


def test_prompts_and_edits_show_what_was_sent(counting):
    other = w.Session("mini", dtype="float32")
    edits = [px.edits.NoBreakTokens()]
    other.ask("How many rows are there?", images=[SCENE.image], edits=edits)
    other.wait(60)
    assert len(other.prompt.tokens) == len(counting.prompt.tokens) - 7
    assert other.prompt.spans == other.reply.trace.prompt.spans
    assert w.PatchGrid(other).facts["images"][0]["breaks"] is False
    other.close()


def test_equal_looks_are_computed_once(counting):
    calls = []
    counting.look(lambda model: time.sleep(0.2))
    futures = [counting.look(lambda model: calls.append(1), key="same") for _ in range(3)]
    for future in futures:
        future.result()
    assert calls == [1]


def test_a_failed_look_is_tried_again(counting):
    def fail(model):
        raise ValueError("no")

    with pytest.raises(ValueError):
        counting.look(fail, key="failing").result()
    assert counting.look(lambda model: 5, key="failing").result() == 5


def test_the_selection_is_shared_by_linked_views(counting):
    first, second = w.PatchGrid(counting), w.PatchGrid(counting)
    alone = w.PatchGrid(counting, linked=False)
    first.patch = (3, 4)
    assert second.patch == (3, 4)
    assert counting.selection["patch"] == (3, 4)
    assert alone.patch is None
    counting.select(patch=None)
    assert first.patch is None
    with pytest.raises(ValueError, match="allowed: image, patch, token, layer, head"):
        counting.select(pach=(0, 0))


def test_every_question_is_answered(counting):
    grid = w.PatchGrid(counting)
    content, buffers = sent_by(grid, {"id": 1, "what": "pixels", "arguments": {"image": 0}})
    assert content["data"]["mime"] == "image/png"
    assert buffers[0][:4] == b"\x89PNG"
    for what, arguments, words in (
        ("nonsense", {}, "does not know the question"),
        (None, {}, "does not know the question"),
        ("__class__", {}, "does not know the question"),
        ("pixels", {"picture": 1}, "there is no 'picture'"),
        ("pixels", {}, "image"),
        ("pixels", {"image": 9}, "image 9"),
    ):
        content, _ = sent_by(grid, {"id": 2, "what": what, "arguments": arguments})
        assert words in content["problem"], what
        assert content["id"] == 2


def test_questions_are_answered_while_an_answer_is_written():
    session = w.Session("mini", dtype="float32")
    grid = w.PatchGrid(session)
    seen = []
    session.observe(
        lambda change: change["new"] == 3 and seen.append(grid.ask("size", image=0, side=64)),
        "tokens",
    )
    session.ask("Describe the picture.", images=[SCENE.image])
    session.wait(60)
    assert [(size["rows"], size["columns"]) for size in seen] == [(4, 4)]
    session.close()


def test_arrays_travel_as_buffers():
    data, buffers = packed({"a": [np.arange(3, dtype=np.uint8)], "b": b"xy", "c": np.float32(2)})
    assert data == {
        "a": [{"buffer": 0, "shape": [3], "type": "uint8"}],
        "b": {"buffer": 1, "shape": [2], "type": "uint8"}, "c": 2.0,
    }  # fmt: skip
    assert buffers == [b"\x00\x01\x02", b"xy"]


def test_heat_keeps_the_numbers():
    values = np.array([[0.0, 0.1], [0.2, 0.4]], np.float32)
    sent = heat(values)
    assert sent["top"] == pytest.approx(0.4)
    assert sent["sum"] == pytest.approx(0.7)
    assert np.abs(sent["map"] / 255 * sent["top"] - values).max() < 0.4 / 255
    assert heat(np.zeros((2, 2)))["map"].max() == 0


def test_pages_refer_to_no_other_host(counting, tmp_path):
    grid = w.PatchGrid(counting)
    text = grid.to_html(tmp_path / "grid.html")
    assert (tmp_path / "grid.html").read_text() == text
    for address in ("http://", "https://", "//cdn", "url(", "import("):
        assert address not in text.replace("http://www.w3.org", "")
    assert "default-src 'none'" in text
    with pytest.raises(FileExistsError, match="choose another name"):
        grid.to_html(tmp_path / "grid.html")


def test_text_of_the_model_cannot_leave_its_place_in_a_page(counting):
    view = w.PatchGrid(counting, linked=False)
    view.problem = "</script><script>alert(1)</script>"
    assert "</script><script>alert" not in view.to_html()


def test_modules_are_joined_without_imports_left():
    source = bundle.module("patch_grid")
    assert "import {" not in source
    assert source.count("export default { render }") == 1
    assert "export function" not in source


def test_saved_answers_are_named_as_the_browser_names_them(counting):
    grid = w.PatchGrid(counting)
    grid.keep()
    names = [json.loads(name) for name in grid.saved]
    assert ["pixels", {"image": 0}] in names
    assert all(json.dumps(n, sort_keys=True, separators=(",", ":")) in grid.saved for n in names)


def test_a_picture_without_a_browser_says_what_to_do(counting, monkeypatch):
    monkeypatch.setattr(page, "find_browser", lambda: None)
    with pytest.raises(RuntimeError, match="install Chromium or Chrome"):
        w.PatchGrid(counting).to_png()


@pytest.mark.parametrize("size", [(1024, 768), (16, 16), (1920, 1080), (64, 16)])
def test_patch_grid_needs_no_model(size):
    from PIL import Image

    from pixtral_mlx.model.config import PIXTRAL_12B_VISION

    grid = w.PatchGrid(Image.new("RGB", size))
    wanted = px.patch_grid(*size, PIXTRAL_12B_VISION)
    assert (grid.facts["images"][0]["rows"], grid.facts["images"][0]["columns"]) == wanted
    assert grid.facts["tokens"] == wanted.tokens
    assert grid.ask("size", image=0, side=0)["width"] == size[0]
