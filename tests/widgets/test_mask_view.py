"""Whom patches see, with the mask and without it: traits and answers, no browser."""

import numpy as np
import pytest
from views import EXTERNAL, OTHER, SCENE, eventually

import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx.mini import scene
from pixtral_mlx.model.tap import Tap


@pytest.fixture
def masks(pair):
    view = w.MaskView(pair)
    yield view
    view.broken = False


def encoded(session, images):
    return session.look(lambda m: m.encode("How many rows are there?", images=images)).result()


def test_an_added_picture_stands_where_the_model_expects_it(pair, masks):
    third = scene(5, 3, 3).image
    masks.add(third)
    wanted = encoded(pair, [SCENE.image, OTHER.image, third])
    shown = masks.prompt_shown()
    assert shown.tokens == wanted.tokens
    assert shown.spans == wanted.spans
    for ours, theirs in zip(shown.images, wanted.images, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert masks.added == 1
    assert len(masks.facts["images"]) == 3
    assert len(pair.prompt.images) == 2
    masks.do_reset()
    assert masks.prompt_shown() is pair.prompt
    assert len(masks.facts["images"]) == 2


def test_the_leak_is_what_two_plain_runs_differ_by(pair, masks):
    """Independently: each image encoded alone, and all logits of both runs."""
    masks.broken = True
    eventually(lambda: masks.leak)
    prompt = pair.prompt

    def measure(model):
        tap = Tap(prompt, [px.edits.NoVisionMask()])
        alone = [np.array(model.vision_encoder([image])) for image in prompt.images]
        broken = np.array(model.vision_encoder(prompt.images, tap))
        runs = [model.logits(prompt), model.logits(prompt, edits=[px.edits.NoVisionMask()])]
        return alone, broken, *(np.array(logits[-1]).astype(float) for logits in runs)

    alone, broken, p, q = pair.look(measure).result()
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


def test_words_of_the_prompt(pair, masks):
    found = masks.ask("words", tokens=len(pair.prompt.tokens))
    assert found["ids"].tolist() == pair.prompt.tokens
    label = pair.look(lambda m: [m.tokenizer.label(t) for t in pair.prompt.tokens]).result()
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
