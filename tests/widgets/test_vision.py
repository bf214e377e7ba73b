"""Where patches look, how they are turned and whom they see: traits and answers, no browser."""

import re
import threading
import time

import numpy as np
import pytest

import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx.mini import scene
from pixtral_mlx.model.tap import Tap
from pixtral_mlx_widgets.long_work import LongWork

SCENE, OTHER = scene(3, 4, 5), scene(8, 2, 3)
EXTERNAL = re.compile(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\(\s*["']?http|wss?://""")


@pytest.fixture(scope="module")
def session():
    session = w.Session("mini", dtype="float32")
    session.ask("How many rows are there?", images=[SCENE.image, OTHER.image])
    session.wait(60)
    yield session
    session.close()


@pytest.fixture
def view(session):
    session.select(image=0, patch=None)
    return w.VisionAttention(session, layer=1, patch=(4, 7))


def eventually(check, seconds=20):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def looked_up(session, layer, patch, head, image=0):
    trace = session.trace
    return session.look(lambda _: trace.vision_attention(layer, patch, head, image)).result()


# VisionAttention ----------------------------------------------------------------------------------


def test_all_heads_come_in_one_answer_and_their_mean_last(session, view):
    for image, patch in ((0, (4, 7)), (1, (3, 0))):
        found = view.ask("heads", layer=2, patch=list(patch), image=image)
        rows, columns = session.prompt.grids[image]
        assert found["maps"].shape == (5, rows, columns)
        assert found["maps"].dtype == np.uint8
        for head in (0, 1, 2, 3, None):
            row = looked_up(session, 2, patch, head, image)
            at = 4 if head is None else head
            np.testing.assert_allclose(found["maps"][at] / 255 * found["top"][at], row, atol=0.003)
            assert found["top"][at] == pytest.approx(row.max(), rel=1e-5)


def test_what_a_caption_says_is_counted_patch_by_patch(session, view):
    found = view.ask("heads", layer=0, patch=[1, 8], image=0)
    for head in range(4):
        row = looked_up(session, 0, (1, 8), head)
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


def test_a_patch_given_at_the_start_is_chosen_for_all(session, view):
    assert view.patch == (4, 7)
    assert session.selection["patch"] == (4, 7)
    session.select(patch=(0, 1))
    assert view.patch == (0, 1)


def test_the_rollout_is_computed_when_it_is_wanted(session, view):
    with pytest.raises(ValueError, match="not computed"):
        view.ask("rollout", patch=[4, 7], image=0)
    view.mode = "rollout"
    eventually(lambda: view.rolled == [0, 4, 7])
    trace = session.trace
    whole = session.look(lambda _: trace.vision_rollout((4, 7), 0)).result()
    found = view.ask("rollout", patch=[4, 7], image=0)
    np.testing.assert_allclose(found["maps"][0] / 255 * found["top"][0], whole, atol=0.002)
    assert view.work == {}
    view.patch = (2, 2)
    eventually(lambda: view.rolled == [0, 2, 2])
    with pytest.raises(ValueError, match="not computed"):
        view.ask("rollout", patch=[7, 7], image=0)


def test_what_does_not_exist_is_said(view):
    with pytest.raises(IndexError, match="vision layer 9: there are 4, 0 to 3"):
        view.ask("heads", layer=9, patch=[0, 0], image=0)
    with pytest.raises(IndexError, match="rows 0 to 7"):
        view.ask("heads", layer=0, patch=[8, 0], image=0)
    with pytest.raises(IndexError, match="image 2"):
        view.ask("heads", layer=0, patch=[0, 0], image=2)


def test_a_layer_that_the_model_does_not_have_is_brought_back(session):
    assert w.VisionAttention(session, layer=40, head=11).layer == 3


def test_its_page_holds_every_layer_of_a_small_picture(view):
    page = view.to_html()
    assert not EXTERNAL.search(page)
    layers = [key for key in view.saved if '"heads"' in key]
    assert len(layers) == 4
    assert len(page) < 200_000


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


def test_long_work_lets_others_in_between(session):
    seen, reports, ended = [], [], []
    work = LongWork(
        session, lambda _: slow(40, seen), report=lambda *counts: reports.append(counts),
        finish=lambda *found: ended.append(found),
    )  # fmt: skip
    work.start()
    eventually(lambda: reports)
    at = session.look(lambda _: len(seen)).result()
    assert 0 < at < 20
    assert work.ended.wait(20)
    assert ended == [(39, "")]
    assert seen == list(range(40))


def test_long_work_stops(session):
    seen, ended, begun = [], [], threading.Event()
    work = LongWork(
        session, lambda _: slow(400, seen), report=lambda *_: begun.set(),
        finish=lambda *found: ended.append(found),
    )  # fmt: skip
    work.start()
    assert begun.wait(10)
    work.stop()
    session.look(lambda _: None).result()
    count = len(seen)
    time.sleep(0.1)
    assert len(seen) == count < 100
    assert not ended


def test_an_error_of_long_work_is_one_sentence(session):
    def broken(_):
        raise IndexError("layer 9: there are 3")
        yield

    ended = []
    work = LongWork(
        session, broken, report=lambda *_: None, finish=lambda *found: ended.append(found)
    )
    work.start()
    assert work.ended.wait(10)
    assert ended == [(None, "layer 9: there are 3")]


def test_a_rollout_can_be_stopped(session, view, monkeypatch):
    monkeypatch.setattr(px.Trace, "vision_rollout_steps", lambda *_: slow(400, []))
    view.patch = (6, 6)
    view.mode = "rollout"
    eventually(lambda: view.work.get("done", 0) > 0)
    assert view.work["total"] == 400
    view.do_stop()
    assert view.work == {}
    session.look(lambda _: None).result()
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


def test_the_grid_follows_the_session_and_patches_stay_inside(session):
    session.select(image=0, patch=None)
    view = w.RopeExplorer(session)
    assert (view.rows, view.columns) == (8, 10)
    assert session.selection["patch"] is None
    assert view.facts["pairs"] == session.config.vision.head_dim // 2
    view.patch = (7, 9)
    assert session.selection["patch"] == (7, 9)
    view.rows = view.columns = 90
    view.patch = (80, 80)
    assert session.selection["patch"] == (7, 9)
    session.select(patch=(1, 1))
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


# MaskView -----------------------------------------------------------------------------------------


@pytest.fixture
def masks(session):
    view = w.MaskView(session)
    yield view
    view.broken = False


def encoded(session, images):
    return session.look(lambda m: m.encode("How many rows are there?", images=images)).result()


def test_an_added_picture_stands_where_the_model_expects_it(session, masks):
    third = scene(5, 3, 3).image
    masks.add(third)
    wanted = encoded(session, [SCENE.image, OTHER.image, third])
    shown = masks.prompt_shown()
    assert shown.tokens == wanted.tokens
    assert shown.spans == wanted.spans
    for ours, theirs in zip(shown.images, wanted.images, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert masks.added == 1
    assert len(masks.facts["images"]) == 3
    assert len(session.prompt.images) == 2
    masks.do_reset()
    assert masks.prompt_shown() is session.prompt
    assert len(masks.facts["images"]) == 2


def test_the_leak_is_what_two_plain_runs_differ_by(session, masks):
    """Independently: each image encoded alone, and all logits of both runs."""
    masks.broken = True
    eventually(lambda: masks.leak)
    prompt = session.prompt

    def measure(model):
        tap = Tap(prompt, [px.edits.NoVisionMask()])
        alone = [np.array(model.vision_encoder([image])) for image in prompt.images]
        broken = np.array(model.vision_encoder(prompt.images, tap))
        runs = [model.logits(prompt), model.logits(prompt, edits=[px.edits.NoVisionMask()])]
        return alone, broken, *(np.array(logits[-1]).astype(float) for logits in runs)

    alone, broken, p, q = session.look(measure).result()
    start = 0
    for image, should in enumerate(alone):
        part = broken[start : start + len(should)]
        start += len(should)
        expected = np.sqrt(((part - should) ** 2).mean() / (should**2).mean())
        assert expected > 0.05
        assert masks.leak["features"][image] == pytest.approx(expected, rel=1e-3)
    p, q = (x - np.log(np.exp(x - x.max()).sum()) - x.max() for x in (p, q))
    assert masks.leak["kl"] == pytest.approx((np.exp(p) * (p - q)).sum(), rel=1e-2)
    assert masks.leak["words"][0][1] == pytest.approx(np.exp(p.max()), abs=1e-3)
    assert masks.leak["words"][1][1] == pytest.approx(np.exp(q.max()), abs=1e-3)
    assert masks.work == {}


def test_one_image_cannot_leak():
    session = w.Session("mini", dtype="float32")
    session.ask("How many rows are there?", images=[SCENE.image], max_tokens=1)
    session.wait(60)
    view = w.MaskView(session)
    view.broken = True
    eventually(lambda: view.leak)
    assert view.leak["features"] == [0.0]
    assert view.leak["kl"] == pytest.approx(0, abs=1e-9)
    view.do_add(7)  # and it is measured again
    eventually(lambda: len(view.leak.get("features", ())) == 2)
    assert min(view.leak["features"]) > 0.05
    session.close()


def test_words_of_the_prompt(session, masks):
    found = masks.ask("words", tokens=len(session.prompt.tokens))
    assert found["ids"].tolist() == session.prompt.tokens
    label = session.look(lambda m: [m.tokenizer.label(t) for t in session.prompt.tokens]).result()
    assert [found["labels"][str(i)] for i in found["ids"]] == label
    with pytest.raises(ValueError, match="does not have 3 tokens"):
        masks.ask("words", tokens=3)


def test_a_new_question_takes_added_pictures_away():
    session = w.Session("mini", dtype="float32")
    with pytest.raises(ValueError, match="ask a question"):
        w.MaskView(session).add(SCENE.image)
    session.ask("How many rows are there?", images=[SCENE.image], max_tokens=1)
    session.wait(60)
    view = w.MaskView(session)
    view.add(OTHER.image)
    with pytest.raises(px.ImageError):
        view.add("no such file.png")
    session.ask("How many columns are there?", images=[OTHER.image], max_tokens=1)
    session.wait(60)
    eventually(lambda: view.added == 0 and len(view.facts["images"]) == 1)
    session.ask("Hello", max_tokens=1)
    session.wait(60)
    view.add(OTHER.image)
    assert len(view.facts["images"]) == 1
    session.close()


def test_mask_page_says_what_was_measured(masks):
    masks.broken = True
    page = masks.to_html()
    assert masks.leak
    assert '"kl"' in page
    assert not EXTERNAL.search(page)
