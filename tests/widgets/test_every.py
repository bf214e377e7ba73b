"""What holds for each of the ten widgets, without a browser."""

import json
import re
import threading

import numpy as np
import pytest
from views import EXTERNAL, SCENE, answer_to, eventually

import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx.mini import scene
from pixtral_mlx_widgets.view import View

KINDS = tuple(name for name in w.__all__ if name != "Session")
ALONE = ("MaskView", "PatchGrid", "SequenceStrip", "VisionAttention", "AnswerLens", "Ablation")
"""For these an image and a model are enough."""

CHOSEN = {
    "Ablation": ("choices", {"breaks": True}), "AnswerLens": ("token", 1),
    "MaskView": ("broken", True), "MemoryView": ("chip", "M2"), "PatchGrid": ("patch", (2, 3)),
    "QuantizationView": ("bits", 3),
    "RopeExplorer": ("probe", (1, 1)), "SequenceStrip": ("position", 5),
    "Studio": ("tab", "Memory"), "VisionAttention": ("layer", 2),
}  # fmt: skip
"""A choice of the reader in each kind: the trait and its value."""


def made(kind, session):
    """A widget of a kind, with something to look at."""
    view = getattr(w, kind)(session, linked=False)
    if kind == "VisionAttention":
        view.patch = (2, 3)
    return view


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shown_is_answered_and_saved(session, kind):
    view = made(kind, session)
    eventually(lambda: view.opening or not view.opens)
    questions = list(view.questions_shown())
    assert questions
    for what, arguments in questions:
        content = answer_to(view, what, arguments)
        assert content["id"] == 3
        assert "problem" not in content, content
    view.keep()
    assert {json.dumps([w, a], sort_keys=True, separators=(",", ":")) for w, a in questions} == set(
        view.saved
    )
    assert answer_to(view, "alive", {})["data"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_chosen_is_a_trait_that_can_be_read_and_watched(session, kind):
    view, (name, value) = made(kind, session), CHOSEN[kind]
    assert view.trait_metadata(name, "sync"), "the browser must see it"
    seen = []
    view.observe(lambda change: seen.append(change["new"]), name)
    before = getattr(view, name)
    view.set_state({name: list(value) if isinstance(value, tuple) else value})  # as a browser does
    assert getattr(view, name) == value
    assert seen == ([value] if before != value else [])


@pytest.mark.parametrize("kind", KINDS)
def test_its_page_is_whole(session, kind, tmp_path):
    view = made(kind, session)
    text = view.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == text
    assert f"<title>{kind} " in text
    assert not EXTERNAL.search(text)
    state = json.loads(re.search(r'id="state">(.*?)</script>', text, re.DOTALL)[1])
    for question in view.questions_shown():
        name = json.dumps(question, sort_keys=True, separators=(",", ":"))
        assert name in state["state"]["saved"]
    inner = [one["name"] for one in state["inner"].values()]
    if kind == "Studio":
        assert sorted(inner) == sorted(getattr(w, k).name for k in KINDS if k != "Studio")


def test_a_page_has_every_word_though_something_else_is_kept_meanwhile(session, monkeypatch):
    """As by the timer that keeps what is shown: the chosen word alone."""
    lens = w.AnswerLens(session, linked=False)
    ask, state = lens.ask, lens._page_state
    timer = threading.Thread(target=lens.keep)
    begun, page_is_made = threading.Event(), threading.Event()

    def slow(what, **arguments):
        if threading.current_thread() is timer and what == "look":  # it has begun on one word
            begun.set()
            page_is_made.wait(2)
        return ask(what, **arguments)

    def late():
        page_is_made.set()
        timer.join(5)
        return state()

    monkeypatch.setattr(lens, "ask", slow)
    monkeypatch.setattr(lens, "_page_state", late)
    timer.start()
    begun.wait(10)
    text = lens.to_html()
    timer.join()
    for token in range(len(session.reply.tokens)):
        assert json.dumps(f'["token",{{"token":{token}}}]') in text


# What goes wrong ----------------------------------------------------------------------------------


def is_a_sentence(text, *words):
    return text and "\n" not in text and all(word in text for word in words)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_model_is_told_in_the_widget(kind):
    session = w.Session("/no/such/folder")
    view = getattr(w, kind)(session)
    eventually(lambda: is_a_sentence(view.problem, "/no/such/folder", "give a model folder"))
    assert view.state == "empty"


def test_a_missing_model_of_which_only_the_sizes_are_wanted_is_told_in_the_widget():
    for view in (w.MemoryView("/no/such"), w.PatchGrid(scene(1, 2, 2).image, model="/no/such")):
        assert is_a_sentence(view.problem, "/no/such", "not a model folder")
        assert view.state == "empty"


@pytest.mark.parametrize("kind", ALONE)
def test_an_unreadable_picture_is_told_in_the_widget(kind, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    view = getattr(w, kind)(tmp_path / "broken.png", model="mini")
    eventually(lambda: is_a_sentence(view.problem, "broken.png", "convert it"))
    assert view.state == "empty"
    if view.session is not None:
        view.session.ask("How many rows are there?", images=[scene(3, 4, 5).image])
        assert view.session.wait(60).text == "four"
        eventually(lambda: view.problem == "" and view.state == "ready")
        view.session.close()


def test_sizes_of_a_model_by_its_name_or_its_folder():
    from pixtral_mlx.mini import CHECKPOINT

    grids = [w.PatchGrid(scene(3, 4, 5).image, model=model) for model in ("mini", CHECKPOINT)]
    assert [grid.facts["text"]["context"] for grid in grids] == [8192, 8192]
    assert w.PatchGrid(scene(3, 4, 5).image).facts["text"]["context"] == 131_072
    assert w.MemoryView("mini").estimate()["context"] == 8192


@pytest.fixture(scope="module")
def dead():
    """A session whose thread has ended, and a widget of each kind that was there before."""
    session = w.Session("mini", dtype="float32")
    session.ask("Describe the picture.", images=[SCENE.image])
    session.wait(60)
    views = {kind: made(kind, session) for kind in KINDS}

    def fail(model):
        raise MemoryError("no memory is left")

    session.worker._answer = fail
    with pytest.raises(RuntimeError, match="the model's thread ended"):
        session.worker.submit(lambda model: None).result(20)
    session._answers.clear()
    return session, views


SAID = ("the model's thread ended", "no memory is left", "open it again")


@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_worker_is_told_at_the_next_click(dead, kind):
    view = dead[1][kind]
    what, arguments = next(iter(view.questions_shown()))
    for _ in range(2):
        assert is_a_sentence(answer_to(view, what, arguments)["problem"], *SAID)


@pytest.mark.parametrize(
    ("kind", "what", "arguments"),
    [
        ("AnswerLens", "knock", {"token": 1, "image": 0}), ("QuantizationView", "measure", {}),
        ("MemoryView", "measure", {}), ("Ablation", "run", {}), ("AnswerLens", "again", {}),
        ("Studio", "try", {"number": 0}),
    ],
)  # fmt: skip
def test_long_work_without_a_worker_ends_with_a_sentence(dead, kind, what, arguments):
    view = dead[1][kind]
    if kind == "Ablation":
        view.edits = [px.edits.NoBreakTokens()]
    problem = answer_to(view, what, arguments).get("problem", "")
    eventually(lambda: is_a_sentence(problem or view.problem or view.work["problem"], *SAID))
    work = getattr(view, "work", {})
    assert "stage" not in work, "it looks as if it were still going on"


def test_rollouts_and_leaks_without_a_worker_end_with_a_sentence(dead):
    view, masks = dead[1]["VisionAttention"], dead[1]["MaskView"]
    view.mode = "rollout"
    masks.broken = True
    for one in (view, masks):
        eventually(lambda one=one: is_a_sentence(one.problem, *SAID) and not one.work)


def test_errors_of_a_worker_do_not_grow_with_every_caller(dead):
    def depth():
        try:
            dead[0].worker.submit(lambda model: None)
        except RuntimeError as error:
            trace, frames = error.__traceback__, 0
            while trace:
                trace, frames = trace.tb_next, frames + 1
            return frames

    assert depth() == depth() <= 4


# Mistakes made on purpose -------------------------------------------------------------------------


def test_an_answer_that_never_comes_is_noticed(session, monkeypatch):
    monkeypatch.setattr(View, "_reply", lambda self, number, done: None)
    for kind in KINDS:
        view = made(kind, session)
        what, arguments = next(iter(view.questions_shown()))
        with pytest.raises(AssertionError, match="was not answered"):
            answer_to(view, what, arguments, seconds=0.3)


def test_an_answer_that_is_not_kept_is_noticed(session, monkeypatch):
    monkeypatch.setattr(View, "keep", lambda self: None)
    for kind in ("PatchGrid", "RopeExplorer"):
        with pytest.raises(AssertionError):
            test_what_is_shown_is_answered_and_saved(session, kind)


def test_a_choice_that_python_does_not_hear_is_noticed(session, monkeypatch):
    monkeypatch.setattr(View, "set_state", lambda self, state: None)
    with pytest.raises(AssertionError):
        test_what_is_chosen_is_a_trait_that_can_be_read_and_watched(session, "PatchGrid")


def test_maps_keep_their_numbers_on_the_way(session):
    """The row in the message is the row of the trace: the last check before the browser's."""
    lens = w.AnswerLens(session)
    found = lens.ask("look", token=4, layer=1, head=2, image=0)
    row = session.look(lambda _: session.trace.image_attention(4, 1, 2)).result()
    assert np.abs(found["map"] / 255 * found["top"] - row).max() <= row.max() / 255
