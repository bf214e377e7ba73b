"""The prompt token by token, what quantization does, and what fits: traits and answers."""

import re
import time

import checkpoints
import numpy as np
import pytest
import traitlets

import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx.cost import chips
from pixtral_mlx.inputs.placeholders import text_prompt
from pixtral_mlx.mini import scene
from pixtral_mlx.model.config import PIXTRAL_12B
from pixtral_mlx.model.prompt import image_tokens
from pixtral_mlx.quantization.conversion import convert
from pixtral_mlx.quantization.options import ConversionOptions
from pixtral_mlx.quantization.plan import plan_for
from pixtral_mlx_widgets.sequence_strip import kinds, sequence, shapes

SCENE, OTHER = scene(3, 4, 5), scene(8, 2, 3)
EXTERNAL = re.compile(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\(\s*["']?http|wss?://""")


@pytest.fixture(scope="module")
def session():
    session = w.Session("mini", dtype="float32")
    session.ask("Describe the picture.", images=[SCENE.image, OTHER.image])
    session.wait(60)
    yield session
    session.close()


def heard(view, **message):
    """What the browser would be sent."""
    sent, send = [], view.send
    view.send = lambda content, buffers=None: sent.append(content)
    view._receive(view, {"id": 1, **message}, [])
    end = time.monotonic() + 20
    while not sent and time.monotonic() < end:
        time.sleep(0.01)
    view.send = send
    return sent[0]


# SequenceStrip ----------------------------------------------------------------------------------


@pytest.fixture
def strip(session):
    session.select(image=0, patch=None)
    return w.SequenceStrip(session)


def by_hand(tokens):
    """What each id is, by the names of Tekken's control tokens."""
    return [{10: 1, 12: 2, 13: 3}.get(token, 0) for token in tokens]


def test_the_sequence_is_the_prompt(session, strip):
    found = strip.ask("sequence", breaks=True)
    tokens = session.prompt.tokens
    assert found["ids"].tolist() == tokens
    assert found["ids"].dtype == np.int32 and found["kinds"].dtype == np.uint8
    assert found["kinds"].tolist() == by_hand(tokens)
    label = session.look(lambda model: [model.tokenizer.label(token) for token in tokens]).result()
    assert [found["labels"][str(token)] for token in tokens] == label
    assert {found["labels"][str(i)] for i in found["control"]} == {
        "<s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]",
    }  # fmt: skip
    assert [image["start"] for image in found["images"]] == [s.start for s in session.prompt.spans]


def test_without_breaks_only_the_breaks_are_gone(session, strip):
    found = strip.ask("sequence", breaks=False)
    assert found["ids"].tolist() == [token for token in session.prompt.tokens if token != 12]
    for image, grid in zip(found["images"], session.prompt.grids, strict=True):
        patches = grid.rows * grid.columns
        there = found["kinds"][image["start"] : image["start"] + patches + 1]
        assert there.tolist() == [1] * patches + [3] and image["breaks"] is False


def test_a_patch_and_its_place_are_one_choice(session, strip):
    span = session.prompt.spans[1]
    strip.image = 1
    strip.patch = (2, 1)
    assert strip.position == span.start + 2 * (span.grid.columns + 1) + 1
    first = session.prompt.spans[0]
    strip.position = first.start + 3 * (first.grid.columns + 1) + 7
    assert (strip.image, strip.patch) == (0, (3, 7))
    assert session.selection["patch"] == (3, 7)
    strip.position = first.start + first.grid.columns
    assert (strip.image, strip.patch) == (0, None)  # a break
    strip.position = 0
    assert strip.patch is None


def test_another_view_chooses_here(session, strip):
    session.select(image=1, patch=(1, 0))
    span = session.prompt.spans[1]
    assert strip.position == span.position(1, 0)


def test_the_chosen_token_stays_when_the_breaks_go(session, strip):
    tokens = session.prompt.tokens
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
    assert (
        "ask a question with a picture"
        in heard(strip, what="shapes", arguments={"image": 7})["problem"]
    )
    assert "there is no 'break'" in heard(strip, what="sequence", arguments={"break": 1})["problem"]
    with pytest.raises(traitlets.TraitError):
        strip.arrangement = "spiral"
    with pytest.raises(ValueError, match="give a session, or a model"):
        w.SequenceStrip("chart.png")


def test_an_image_and_a_model_are_enough():
    strip = w.SequenceStrip(SCENE.image, model="mini")
    strip.session.wait(60)
    assert strip.ask("sequence", breaks=True)["images"][0]["columns"] == 10
    strip.session.close()


def test_long_prompts_are_answered_with_one_buffer_a_list(session):
    prompt = session.look(lambda model: text_prompt(model.tokenizer, 5000)).result()
    found = sequence(prompt, session.look(lambda model: model.tokenizer).result())
    assert found["ids"].nbytes == 20_000 and len(found["labels"]) < 500


def test_pages_of_all_three_refer_to_no_other_host(session):
    quantization = w.QuantizationView(session, bits=3)
    quantization.do_measure()
    quantization.wait(60)
    for view in (w.SequenceStrip(session), quantization, w.MemoryView(session), w.MemoryView()):
        text = view.to_html()
        assert not EXTERNAL.search(text), type(view).__name__
        for what, arguments in view.questions_shown():
            name = f'["{what}",'
            assert any(key.startswith(name) for key in view.saved), (what, arguments)


def test_what_was_saved_goes_with_its_question(session, monkeypatch):
    # Nothing is kept by itself while the test looks.
    monkeypatch.setattr("pixtral_mlx_widgets.view.SAVE_AFTER_SECONDS", 600)
    strip = w.SequenceStrip(session)
    strip.keep()
    before = strip.saved
    assert before
    session.ask("How many rows are there?", images=[SCENE.image], max_tokens=1)
    session.wait(60)
    assert strip.saved == {}
    strip.keep()
    assert strip.saved.keys() and strip.saved != before


# QuantizationView -------------------------------------------------------------------------------


@pytest.fixture
def rough(session):
    return w.QuantizationView(session, bits=2)


def test_errors_bytes_and_the_worst_are_those_of_the_core(session, rough):
    rough.do_measure()
    rough.wait(60)
    wanted = session.look(lambda model: list(px.quantization_errors(model, bits=2))).result()
    assert [(e["name"], e["error"], e["after"]) for e in rough.errors] == [
        (e.name, e.error, e.bytes_after) for e in wanted
    ]
    ranked = sorted(wanted, key=lambda e: -e.error)
    assert rough.worst == [(e.name, e.error) for e in ranked[:10]]
    layer = next(one for one in rough.layers if one["layer"] == 3)
    squares = [(e.error * e.norm, e.norm) for e in wanted if e.layer == 3]
    lost, whole = (sum(x**2 for x in column) for column in zip(*squares, strict=True))
    assert layer["error"] == pytest.approx((lost / whole) ** 0.5)
    assert rough.work == {} and rough.problem == ""


def test_choices_are_those_of_a_conversion(session, rough):
    with pytest.raises(traitlets.TraitError, match="bits is 7; allowed with mode affine: 2, 3"):
        rough.bits = 7
    with pytest.raises(traitlets.TraitError, match="group_size is 16"):
        rough.group_size = 16
    rough.mode = "nvfp4"
    assert (rough.bits, rough.group_size) == (4, 16)
    with pytest.raises(traitlets.TraitError, match="allowed with mode nvfp4: 4"):
        rough.bits = 8
    rough.mode = "affine"
    assert rough.group_size == 64
    with pytest.raises(ValueError, match=r"^bits must be 2, 3, 4, 5, 6, 8, 16 or None, got 9$"):
        w.QuantizationView(session, bits=9)


def test_another_choice_forgets_what_was_measured(session, rough):
    rough.do_measure()
    rough.wait(60)
    two = rough.errors
    rough.bits = 8
    assert rough.errors == [] and rough.worst == []
    rough.vision = True
    rough.do_measure()
    rough.wait(60)
    assert len(rough.errors) == len(two) + 4 * 7
    assert max(e["error"] for e in rough.errors) < min(e["error"] for e in two) / 10


def test_answers_are_compared_as_the_core_does(session, rough):
    session.ask("Describe the picture.", images=[SCENE.image])
    session.wait(60)
    rough.do_compare()
    rough.wait(120)
    assert rough.problem == ""
    prompt = session.asked

    def wanted(model):
        copy = px.quantized_copy(model, bits=2)
        replies = [one.generate(prompt, max_tokens=48) for one in (model, copy)]
        end = [model.tokenizer.eos_id]
        tokens = [r.tokens + end * (r.finish_reason == "stop") for r in replies]
        kl = px.compare_runs(model, prompt, tokens[0], other=copy).kl
        return [r.text for r in replies], px.first_difference(*tokens), kl

    texts, parting, kl = session.look(wanted).result()
    found = rough.comparison
    assert found["texts"] == texts and texts[0] != texts[1]
    assert found["parting"] == parting
    assert found["kl"] == pytest.approx(kl.tolist(), rel=1e-4, abs=1e-6)
    assert "".join(found["pieces"][0]).removesuffix("</s>") == texts[0]
    assert found["pieces"][0][:parting] == found["pieces"][1][:parting]


def test_a_version_that_is_quantized_already(session, tmp_path):
    convert("mini", tmp_path / "four", bits=4, dtype="float32")
    view = w.QuantizationView(session, quantized=str(tmp_path / "four"))
    view.do_measure()
    view.wait(60)
    fresh = session.look(lambda m: list(px.quantization_errors(m, bits=4, dtype="float32")))
    assert [e["error"] for e in view.errors] == pytest.approx([e.error for e in fresh.result()])


def test_what_cannot_be_measured_is_one_sentence(session):
    other = w.Session(px.quantized_copy(px.load("mini"), bits=4))
    view = w.QuantizationView(other)
    assert "there is no question yet" in heard(view, what="compare")["problem"]
    view.do_measure()
    view.wait(60)
    assert "quantized already" in view.problem and view.work == {}
    other.close()


def test_measuring_can_be_stopped_and_done_again(session, rough):
    rough.do_measure()
    rough.do_stop()
    assert rough.work == {}
    rough.do_measure()
    rough.wait(60)
    assert len(rough.errors) == 39


# MemoryView -------------------------------------------------------------------------------------


def test_the_12b_needs_no_model():
    view = w.MemoryView(chip="M3 Max", memory_gb=64, text_tokens=0)
    found = view.estimate()
    assert found["tokens"] == 4160 and found["grid"] == [64, 64]
    assert found["weights"] / 1e9 == pytest.approx(7.71, abs=0.005)
    assert found["kv"] == 4160 * 163_840
    assert found["read"] == pytest.approx(6.5125e9 + found["kv"], rel=1e-3)
    assert found["tokens_per_second"] == pytest.approx(400e9 / found["read"])
    assert found["operations"] == pytest.approx(101.6e12, rel=1e-3)
    assert found["prefill_seconds"] == pytest.approx(101.6e12 / (40 * 256 * 1.4e9), rel=1e-3)
    assert found["usable"] == 48 * 2**30 and found["fits"]
    assert found["activations"] + found["reserve"] == 2e9


def test_a_view_and_the_table_of_macs_say_the_same():
    """5 bits and one picture: not on 16 GB, where they would fit but for the reserve."""
    view = w.MemoryView(chip="M3 Pro", memory_gb=18, bits=5, text_tokens=1000)
    assert view.estimate()["fits"]
    view.chip = "M4"
    view.memory_gb = 16
    found = view.estimate()
    assert not found["fits"]
    assert found["weights"] + found["kv"] + found["activations"] <= found["usable"]


def test_sliders_change_what_they_say():
    view = w.MemoryView()
    one = view.estimate()
    view.images = 8
    eight = view.estimate()
    assert eight["tokens"] - one["tokens"] == 7 * 4160
    assert eight["kv"] - one["kv"] == 7 * 4160 * 163_840
    assert eight["tokens_per_second"] < one["tokens_per_second"]
    view.side = 512
    assert view.estimate()["image_tokens"] == 33 * 32
    view.text_tokens = 1200
    assert view.estimate()["tokens"] == 8 * 33 * 32 + 1200
    view.bits = 16
    assert view.estimate()["weights"] / 1e9 == pytest.approx(25.37, abs=0.005)
    view.chip = "M1"
    assert view.memory_gb == 16
    assert not view.estimate()["fits"]


def test_a_session_counts_its_own_bytes(session):
    view = w.MemoryView(session)
    assert view.bits == 0

    def held(model):
        from mlx.utils import tree_flatten

        return sum(array.nbytes for _, array in tree_flatten(model.parameters()))

    found = view.estimate()
    assert found["weights"] == session.look(held).result()
    assert found["kv_per_token"] == 2 * 5 * 2 * 32 * 4  # float32
    view.bits = 4
    assert view.estimate()["weights"] == plan_for(session.config, ConversionOptions(bits=4)).nbytes


def test_other_sizes_and_wrong_ones(tmp_path):
    folder = checkpoints.make_official(tmp_path / "small", dtype="bfloat16")
    assert w.MemoryView(str(folder)).estimate()["kv_per_token"] == 2 * 3 * 2 * 16 * 2
    assert w.MemoryView(PIXTRAL_12B).estimate()["context"] == 131_072
    with pytest.raises(TypeError, match="allowed: a Session"):
        w.MemoryView(3)
    with pytest.raises(ValueError, match="bits 0 is the model as it is loaded"):
        w.MemoryView(bits=0)
    view = w.MemoryView()
    with pytest.raises(traitlets.TraitError, match="side is 4; allowed: 16 or more"):
        view.side = 4
    with pytest.raises(traitlets.TraitError):
        view.chip = "M9"
    assert "a run needs a model" in heard(view, what="measure")["problem"]


def test_a_run_is_measured(session, monkeypatch):
    view = w.MemoryView(session, side=128, images=2, text_tokens=50, prediction=10.0)
    asked, epoch = session.prompt, session.epoch
    monkeypatch.setattr(chips, "this_chip", lambda *_: chips.CHIPS["M2"])
    view.do_measure()
    view.wait(120)
    assert view.problem == "" and view.work == {}
    found = view.measured
    # Two pictures of 8 x 9 tokens, 50 words, and what the template adds.
    assert 2 * 72 + 49 <= found["prompt_tokens"] <= 2 * 72 + 60
    assert found["tokens_per_second"] > 0 and found["prompt_seconds"] > 0
    context = found["prompt_tokens"] + 16
    bytes_read = view.estimate()["read"] - view.estimate()["kv"] + context * 2560
    assert found["gigabytes_per_second"] == pytest.approx(
        found["tokens_per_second"] * bytes_read / 1e9
    )
    assert found["bound"] == pytest.approx(100e9 / bytes_read)
    assert found["peak_bytes"] > view.estimate()["weights"]
    assert (session.prompt, session.epoch) == (asked, epoch)  # the conversation is left alone


def test_too_much_for_the_context_is_one_sentence(session):
    view = w.MemoryView(session, side=1024, images=4)
    view.do_measure()
    view.wait(60)
    assert "the context holds 1 to 8,192" in view.problem and view.measured == {}
