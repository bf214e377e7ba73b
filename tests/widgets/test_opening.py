"""On what each view opens: something of the answer, before anybody has chosen anything."""

import numpy as np
import pytest
from views import SCENE, eventually

import pixtral_mlx_widgets as w


@pytest.fixture(scope="module")
def session():
    session = w.Session("mini", dtype="float32")
    session.ask("Describe the picture.", images=[SCENE.image])
    session.wait(60)
    yield session
    session.close()


def strongest(session, token):
    """Where a token looks most, the mean over layers and heads: its value and patch."""
    found = session.look(lambda _: session.trace.image_attention(token)).result()
    return float(found.max()), [int(i) for i in np.unravel_index(found.argmax(), found.shape)]


def test_an_answer_opens_on_the_word_that_leans_most_on_the_picture(session):
    lens = w.AnswerLens(session)
    eventually(lambda: lens.opening)
    firsts = [word["tokens"][0] for word in lens.words]
    values = {token: strongest(session, token)[0] for token in firsts}
    best = max(values, key=values.get)
    assert lens.at() == best != len(session.reply.tokens) - 1
    assert lens.opening == {"token": best, "image": 0, "patch": strongest(session, best)[1]}
    assert lens.token is None and session.selection["token"] is None  # nobody has chosen it
    lens.token = 1
    assert lens.at() == 1


def test_a_patch_is_looked_from_before_one_is_chosen(session):
    view = w.VisionAttention(session)
    eventually(lambda: view.opening)
    assert view.patch is None
    assert view.patch_shown() == view.opening["patch"]
    asked = [arguments["patch"] for what, arguments in view.questions_shown() if what == "heads"]
    assert asked == [view.opening["patch"]] * 4
    view.patch = (1, 2)
    assert view.patch_shown() == [1, 2]


def test_while_an_answer_is_written_the_newest_word_is_followed(session):
    lens = w.AnswerLens(session)
    eventually(lambda: lens.opening)
    epoch = session.epoch
    session.ask(
        "Describe the picture.", images=[SCENE.image], max_tokens=2000, logit_bias={2: -1e9}
    )
    eventually(lambda: session.epoch > epoch and session.tokens > 5)
    assert lens.opening == {} and lens.at() >= 5
    session.stop()
    session.wait(60)
    eventually(lambda: lens.opening)


def test_pages_open_on_something_too(session):
    session.ask("Describe the picture.", images=[SCENE.image])
    session.wait(60)
    masks, bits = w.MaskView(session), w.QuantizationView(session)
    masks.to_html(), bits.to_html()
    assert len(masks.facts["images"]) == 2 and len(session.prompt.images) == 1
    assert len(bits.errors) > 30
    view = w.VisionAttention(session)
    view.to_html()
    assert view.opening and any(name.startswith('["heads"') for name in view.saved)
