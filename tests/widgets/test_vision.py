"""Where patches look and how they are turned: traits and answers, no browser."""

import threading
import time

import numpy as np
import pytest
from views import EXTERNAL, SCENE, eventually

import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx_widgets.long_work import LongWork


@pytest.fixture
def view(pair):
    pair.select(image=0, patch=None)
    return w.VisionAttention(pair, layer=1, patch=(4, 7))


def looked_up(session, layer, patch, head, image=0):
    trace = session.trace
    return session.look(lambda _: trace.vision_attention(layer, patch, head, image)).result()


# VisionAttention ----------------------------------------------------------------------------------


def test_all_heads_come_in_one_answer_and_their_mean_last(pair, view):
    for image, patch in ((0, (4, 7)), (1, (3, 0))):
        found = view.ask("heads", layer=2, patch=list(patch), image=image)
        rows, columns = pair.prompt.grids[image]
        assert found["maps"].shape == (5, rows, columns)
        assert found["maps"].dtype == np.uint8
        for head in (0, 1, 2, 3, None):
            row = looked_up(pair, 2, patch, head, image)
            at = 4 if head is None else head
            np.testing.assert_allclose(found["maps"][at] / 255 * found["top"][at], row, atol=0.003)
            assert found["top"][at] == pytest.approx(row.max(), rel=1e-5)


def test_what_a_caption_says_is_counted_patch_by_patch(pair, view):
    found = view.ask("heads", layer=0, patch=[1, 8], image=0)
    for head in range(4):
        row = looked_up(pair, 0, (1, 8), head)
        near = far = 0.0
        for r in range(8):
            for c in range(10):
                near += row[r, c] if abs(r - 1) <= 2 and abs(c - 8) <= 2 else 0
                far += row[r, c] * ((r - 1) ** 2 + (c - 8) ** 2) ** 0.5
        assert found["near"][head] == pytest.approx(near, abs=1e-5)
        assert found["distance"][head] == pytest.approx(far, abs=1e-4)
        best = max(range(8), key=lambda r: row[r].sum())
        assert found["row"][head] == [best, pytest.approx(row[best].sum(), abs=1e-5)]
        best = max(range(10), key=lambda c: row[:, c].sum())
        assert found["column"][head] == [best, pytest.approx(row[:, best].sum(), abs=1e-5)]
        r, c = found["peak"][head]
        assert row[r, c] == row.max()


def test_head_and_mode_go_together(view):
    assert (view.mode, view.head) == ("mean", None)
    view.head = 2
    assert view.mode == "head"
    view.mode = "mean"
    assert view.head is None
    view.mode = "head"
    assert view.head == 0


def test_a_patch_given_at_the_start_is_chosen_for_all(pair, view):
    assert view.patch == (4, 7)
    assert pair.selection["patch"] == (4, 7)
    pair.select(patch=(0, 1))
    assert view.patch == (0, 1)


def test_the_rollout_is_computed_when_it_is_wanted(pair, view):
    with pytest.raises(ValueError, match="not been computed"):
        view.ask("rollout", patch=[4, 7], image=0)
    view.mode = "rollout"
    eventually(lambda: view.rolled == [0, 4, 7])
    trace = pair.trace
    whole = pair.look(lambda _: trace.vision_rollout((4, 7), 0)).result()
    found = view.ask("rollout", patch=[4, 7], image=0)
    np.testing.assert_allclose(found["maps"][0] / 255 * found["top"][0], whole, atol=0.002)
    assert view.work == {}
    view.patch = (2, 2)
    eventually(lambda: view.rolled == [0, 2, 2])
    with pytest.raises(ValueError, match="not been computed"):
        view.ask("rollout", patch=[7, 7], image=0)


def test_what_does_not_exist_is_said(view):
    with pytest.raises(IndexError, match="vision layer 9: there are 4, 0 to 3"):
        view.ask("heads", layer=9, patch=[0, 0], image=0)
    with pytest.raises(IndexError, match="rows 0 to 7"):
        view.ask("heads", layer=0, patch=[8, 0], image=0)
    with pytest.raises(IndexError, match="image 2"):
        view.ask("heads", layer=0, patch=[0, 0], image=2)


def test_a_layer_that_the_model_does_not_have_is_brought_back(pair):
    assert w.VisionAttention(pair, layer=40, head=11).layer == 3


def test_its_page_holds_every_layer_of_a_small_picture(view):
    page = view.to_html()
    assert not EXTERNAL.search(page)
    layers = [key for key in view.saved if '"heads"' in key]
    assert len(layers) == 4
    assert len(page) < 300_000


def test_no_trace_is_said():
    session = w.Session("mini", dtype="float32", trace=False)
    session.ask("How many rows are there?", images=[SCENE.image], max_tokens=1)
    session.wait(60)
    with pytest.raises(ValueError, match="trace=True"):
        w.VisionAttention(session).ask("heads", layer=0, patch=[0, 0], image=0)
    session.close()


# Long work ----------------------------------------------------------------------------------------


def slow(steps, seen):
    for done in range(steps):
        seen.append(done)
        time.sleep(0.02)
        yield done + 1, steps, done


def test_long_work_lets_others_in_between(pair):
    seen, reports, ended = [], [], []
    work = LongWork(
        pair, lambda _: slow(40, seen), report=lambda *counts: reports.append(counts),
        finish=lambda *found: ended.append(found),
    )  # fmt: skip
    work.start()
    eventually(lambda: reports)
    at = pair.look(lambda _: len(seen)).result()
    assert 0 < at < 20
    assert work.ended.wait(20)
    assert ended == [(39, "")]
    assert seen == list(range(40))


def test_long_work_stops(pair):
    seen, ended, begun = [], [], threading.Event()
    work = LongWork(
        pair, lambda _: slow(400, seen), report=lambda *_: begun.set(),
        finish=lambda *found: ended.append(found),
    )  # fmt: skip
    work.start()
    assert begun.wait(10)
    work.stop()
    pair.look(lambda _: None).result()
    count = len(seen)
    time.sleep(0.1)
    assert len(seen) == count < 100
    assert not ended


def test_long_work_says_nothing_once_it_is_stopped(pair):
    """Nor of the step that was under way then."""
    begun, free, told = threading.Event(), threading.Event(), []

    def one_step(_):
        begun.set()
        free.wait(10)
        time.sleep(0.05)  # longer than a turn: it would be reported
        yield 1, 2, None

    work = LongWork(
        pair, one_step, report=lambda *_: told.append("report"),
        finish=lambda *_: told.append("finish"),
    )  # fmt: skip
    work.start()
    assert begun.wait(10)
    work.stop()
    free.set()
    pair.look(lambda _: None).result()
    assert told == []


def test_an_error_of_long_work_is_one_sentence(pair):
    def broken(_):
        raise IndexError("layer 9: there are 3")
        yield

    ended = []
    work = LongWork(pair, broken, report=lambda *_: None, finish=lambda *found: ended.append(found))
    work.start()
    assert work.ended.wait(10)
    assert ended == [(None, "layer 9: there are 3")]


def test_a_rollout_can_be_stopped(pair, view, monkeypatch):
    monkeypatch.setattr(px.Trace, "vision_rollout_steps", lambda *_: slow(400, []))
    view.patch = (6, 6)
    view.mode = "rollout"
    eventually(lambda: view.work.get("done", 0) > 0)
    assert view.work["total"] == 400
    view.do_stop()
    assert view.work == {}
    pair.look(lambda _: None).result()
    assert view.rolled != [0, 6, 6]


# RopeExplorer -------------------------------------------------------------------------------------


def naive_angles(row, column, pairs=32, theta=1e4):
    """By the paper: even frequencies turn with the row, odd ones with the column."""
    frequencies = [theta ** -(2 * j / (2 * pairs)) for j in range(pairs)]
    return [row * f for f in frequencies[0::2]] + [column * f for f in frequencies[1::2]]


def naive_score(patch, probe):
    turns = zip(naive_angles(*patch), naive_angles(*probe), strict=True)
    return float(np.mean([np.cos(a - b) for a, b in turns]))


def test_pairs_turn_with_the_row_or_with_the_column():
    pairs = w.RopeExplorer().ask("pairs")
    assert pairs["axis"] == ["row"] * 16 + ["column"] * 16
    down, right = naive_angles(1, 0)[:16], naive_angles(0, 1)[16:]
    np.testing.assert_allclose(pairs["radians"], down + right, rtol=1e-6)
    assert pairs["wavelength"][0] == pytest.approx(2 * np.pi, rel=1e-6)


def test_how_alike_each_patch_is():
    view = w.RopeExplorer(rows=7, columns=96, patch=(2, 90))
    found = view.ask("alike", rows=7, columns=96, patch=[2, 90])
    scores = found["low"] + found["map"] / 255 * (found["high"] - found["low"])
    for row in range(7):
        for column in (0, 40, 89, 90, 95):
            expected = naive_score((2, 90), (row, column))
            assert scores[row, column] == pytest.approx(expected, abs=0.004)
    assert scores[2, 90] == found["high"] == pytest.approx(1)


def test_the_score_stays_when_both_move():
    view = w.RopeExplorer(rows=96, columns=96)
    first = view.ask("score", rows=96, columns=96, patch=[3, 4], probe=[10, 1])["score"]
    assert first == pytest.approx(naive_score((3, 4), (10, 1)), abs=1e-6)
    for down, right in ((1, 0), (0, 5), (40, 40), (85, 90)):
        both = {"patch": [3 + down, 4 + right], "probe": [10 + down, 1 + right]}
        moved = view.ask("score", rows=96, columns=96, **both)
        assert moved["score"] == pytest.approx(first, abs=2e-6)
        assert moved["row"] + moved["column"] == pytest.approx(moved["score"], abs=1e-12)
    alone = view.ask("score", rows=96, columns=96, patch=[4, 4], probe=[10, 1])["score"]
    assert abs(alone - first) > 1e-3


def test_the_score_is_what_turned_queries_and_keys_give():
    """q . k of equal content through the model's own rotation, as a share of |q|^2."""
    import mlx.core as mx

    from pixtral_mlx.model.config import PIXTRAL_12B_VISION
    from pixtral_mlx.model.rope import Rope2D

    rope = Rope2D(PIXTRAL_12B_VISION)
    angles = rope.angles([(20, 20)])
    turned = np.array(rope.rotate(mx.ones((1, 1, 400, 64)), mx.cos(angles), mx.sin(angles)))[0, 0]
    found = w.RopeExplorer().ask("score", rows=20, columns=20, patch=[3, 4], probe=[17, 9])
    assert found["score"] == pytest.approx(turned[64] @ turned[349] / 64, abs=1e-6)


def test_the_grid_follows_the_session_and_patches_stay_inside(pair):
    pair.select(image=0, patch=None)
    view = w.RopeExplorer(pair)
    assert (view.rows, view.columns) == (8, 10)
    assert pair.selection["patch"] is None
    assert view.facts["pairs"] == pair.config.vision.head_dim // 2
    view.patch = (7, 9)
    assert pair.selection["patch"] == (7, 9)
    view.rows = view.columns = 90
    view.patch = (80, 80)
    assert pair.selection["patch"] == (7, 9)
    pair.select(patch=(1, 1))
    assert view.patch == (1, 1)
    view.probe = (89, 3)
    view.rows = 5
    assert view.probe == (4, 3)


def test_a_grid_that_is_too_large_is_refused():
    view = w.RopeExplorer()
    with pytest.raises(ValueError, match="97 × 3; allowed: 1 to 96"):
        view.ask("alike", rows=97, columns=3, patch=[0, 0])
    with pytest.raises(IndexError, match=r"patch \(4, 0\).*rows 0 to 3"):
        view.ask("score", rows=4, columns=3, patch=[0, 0], probe=[4, 0])
    assert not EXTERNAL.search(view.to_html())
    assert len(view.saved) == 3
