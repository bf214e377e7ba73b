"""Widgets on a model that merges patches: squares for its tokens, patches in the encoder."""

import cases
import checkpoints
import pytest
from views import eventually

import pixtral_mlx_widgets as w


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A session about a picture of 2 x 3 tokens, 4 x 6 patches."""
    folder = checkpoints.make_official(
        tmp_path_factory.mktemp("heir"), tokenizer="tekken-v13", vision=checkpoints.HEIR_VISION
    )
    session = w.Session(folder, dtype="float32")
    session.ask("What is this?", images=[cases.picture(80, 50)], max_tokens=4)
    session.wait(60)
    yield session
    session.close()


def test_squares_are_counted_and_said(merged):
    view = w.PatchGrid(merged)
    (image,) = view.facts["images"]
    assert (image["rows"], image["columns"], image["merge"]) == (2, 3, 2)
    size = view.answer_size(merged.worker.submit(lambda model: model).result(), 0, 0)
    assert (size["patches"], size["tokens"], size["merge"]) == (6, 8, 2)
    lens = w.AnswerLens(merged)
    assert lens.facts["images"] == view.facts["images"]


def test_the_encoders_patches_are_those_of_the_encoder(merged):
    view, grid = w.VisionAttention(merged), w.PatchGrid(merged)
    (image,) = view.facts["images"]
    assert (image["rows"], image["columns"], image["merge"]) == (4, 6, 1)
    found = view.answer_heads(None, 0, (3, 5), 0)
    assert found["maps"].shape == (5, 4, 6)
    view.patch = (3, 5)
    assert grid.patch == (1, 2)  # the square that holds it
    grid.patch = (1, 0)
    assert view.patch == (2, 0)
    view.patch = (3, 1)  # another patch of the same square
    assert grid.patch == (1, 0) and view.patch == (3, 1)
    view.patch = None
    assert grid.patch is None
    eventually(lambda: view.opening)
    assert view.patch_shown() == view.opening["patch"]
    assert all(place % 2 == 0 for place in view.opening["patch"])


@pytest.mark.parametrize("name", w.__all__)
def test_every_widget_makes_its_page(merged, name):
    if name == "Session":
        pytest.skip("not a widget")
    view = getattr(w, name)(merged)
    page = view.to_html()
    assert view.problem == ""
    assert len(page) > 1000
