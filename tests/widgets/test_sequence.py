"""The prompt token by token: traits and answers."""

import numpy as np
import pytest
import traitlets
from views import EXTERNAL, SCENE, answer_to

import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx.inputs.placeholders import text_prompt
from pixtral_mlx.model.prompt import image_tokens
from pixtral_mlx_widgets.sequence_strip import kinds, sequence, shapes


@pytest.fixture
def strip(pair):
    pair.select(image=0, patch=None)
    return w.SequenceStrip(pair)


def by_hand(tokens):
    """What each id is, by the names of Tekken's control tokens."""
    return [{10: 1, 12: 2, 13: 3}.get(token, 0) for token in tokens]


def test_the_sequence_is_the_prompt(pair, strip):
    found = strip.ask("sequence", breaks=True)
    tokens = pair.prompt.tokens
    assert found["ids"].tolist() == tokens
    assert found["ids"].dtype == np.int32 and found["kinds"].dtype == np.uint8
    assert found["kinds"].tolist() == by_hand(tokens)
    label = pair.look(lambda model: [model.tokenizer.label(token) for token in tokens]).result()
    assert [found["labels"][str(token)] for token in tokens] == label
    assert {found["labels"][str(i)] for i in found["control"]} == {
        "<s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]",
    }  # fmt: skip
    assert [image["start"] for image in found["images"]] == [s.start for s in pair.prompt.spans]


def test_without_breaks_only_the_breaks_are_gone(pair, strip):
    found = strip.ask("sequence", breaks=False)
    assert found["ids"].tolist() == [token for token in pair.prompt.tokens if token != 12]
    for image, grid in zip(found["images"], pair.prompt.grids, strict=True):
        patches = grid.rows * grid.columns
        there = found["kinds"][image["start"] : image["start"] + patches + 1]
        assert there.tolist() == [1] * patches + [3] and image["breaks"] is False


def test_a_patch_and_its_place_are_one_choice(pair, strip):
    span = pair.prompt.spans[1]
    strip.image = 1
    strip.patch = (2, 1)
    assert strip.position == span.start + 2 * (span.grid.columns + 1) + 1
    first = pair.prompt.spans[0]
    strip.position = first.start + 3 * (first.grid.columns + 1) + 7
    assert (strip.image, strip.patch) == (0, (3, 7))
    assert pair.selection["patch"] == (3, 7)
    strip.position = first.start + first.grid.columns
    assert (strip.image, strip.patch) == (0, None)  # a break
    strip.position = 0
    assert strip.patch is None


def test_another_view_chooses_here(pair, strip):
    pair.select(image=1, patch=(1, 0))
    span = pair.prompt.spans[1]
    assert strip.position == span.position(1, 0)


def test_the_chosen_token_stays_when_the_breaks_go(pair, strip):
    tokens = pair.prompt.tokens
    for place, token in enumerate(tokens):
        strip.breaks = True
        strip.position = place
        strip.breaks = False
        if token == 12:
            assert strip.position is None
            continue
        gone = tokens[:place].count(12)
        assert strip.position == place - gone
        strip.breaks = True
        assert strip.position == place


@pytest.mark.parametrize("grid", [(4, 8), (8, 4), (6, 6), (5, 5), (1, 1), (1, 9)])
def test_shapes_differ_with_breaks_and_not_without(grid):
    rows, columns = grid
    found = shapes(px.PatchGrid(*grid), (10, 12, 13))
    other = px.PatchGrid(*found["grids"][1])
    assert found["grids"][0] == list(grid) and other.rows * other.columns == rows * columns
    assert found["without"]["differ"] is None
    for kinds_there in found["without"]["kinds"]:
        assert kinds_there.tolist() == [1] * (rows * columns) + [3]
    wanted = None if other == grid else min(columns, other.columns)
    assert found["with"]["differ"] == wanted


def test_four_by_eight_and_eight_by_four_are_the_same_without_breaks():
    ids = (10, 12, 13)
    rows = [image_tokens(px.PatchGrid(*grid), ids) for grid in ((4, 8), (8, 4))]
    assert px.first_difference(*rows) == 4
    bare = [[token for token in one if token != 12] for one in rows]
    assert px.first_difference(*bare) is None
    assert kinds(rows[0], ids).tolist() == by_hand(rows[0])
    assert not kinds([1, 10, 12], ()).any()  # of a model without eyes


def test_wrong_questions_to_the_strip(strip):
    assert "ask a question with a picture" in answer_to(strip, "shapes", {"image": 7})["problem"]
    assert "there is no 'break'" in answer_to(strip, "sequence", {"break": 1})["problem"]
    with pytest.raises(traitlets.TraitError):
        strip.arrangement = "spiral"
    with pytest.raises(ValueError, match="give a session, or a model"):
        w.SequenceStrip("chart.png")


def test_an_image_and_a_model_are_enough():
    strip = w.SequenceStrip(SCENE.image, model="mini")
    strip.session.wait(60)
    assert strip.ask("sequence", breaks=True)["images"][0]["columns"] == 10
    strip.session.close()


def test_long_prompts_are_answered_with_one_buffer_a_list(pair):
    prompt = pair.look(lambda model: text_prompt(model.tokenizer, 5000)).result()
    found = sequence(prompt, pair.look(lambda model: model.tokenizer).result())
    assert found["ids"].nbytes == 20_000 and len(found["labels"]) < 500


def test_pages_of_all_three_refer_to_no_other_host(pair):
    quantization = w.QuantizationView(pair, bits=3)
    quantization.do_measure()
    quantization.wait(60)
    for view in (w.SequenceStrip(pair), quantization, w.MemoryView(pair), w.MemoryView()):
        text = view.to_html()
        assert not EXTERNAL.search(text), type(view).__name__
        for what, arguments in view.questions_shown():
            name = f'["{what}",'
            assert any(key.startswith(name) for key in view.saved), (what, arguments)


def test_what_was_saved_goes_with_its_question(pair, monkeypatch):
    # Nothing is kept by itself while the test looks.
    monkeypatch.setattr("pixtral_mlx_widgets.view.SAVE_AFTER_SECONDS", 600)
    strip = w.SequenceStrip(pair)
    strip.keep()
    before = strip.saved
    assert before
    pair.ask("How many rows are there?", images=[SCENE.image], max_tokens=1)
    pair.wait(60)
    assert strip.saved == {}
    strip.keep()
    assert strip.saved.keys() and strip.saved != before
