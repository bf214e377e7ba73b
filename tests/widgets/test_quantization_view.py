"""What quantization does, by the view of it: the errors and answers of the core."""

import threading

import pytest
import traitlets
from views import SCENE, answer_to

import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx.quantization.conversion import convert


@pytest.fixture
def rough(pair):
    return w.QuantizationView(pair, bits=2)


def test_errors_bytes_and_the_worst_are_those_of_the_core(pair, rough):
    rough.do_measure()
    rough.wait(60)
    wanted = pair.look(lambda model: list(px.quantization_errors(model, bits=2))).result()
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


def test_choices_are_those_of_a_conversion(pair, rough):
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
        w.QuantizationView(pair, bits=9)


def test_another_choice_forgets_what_was_measured(pair, rough):
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


def test_a_step_under_way_is_not_of_the_next_choice(pair, rough, monkeypatch):
    begun, free = threading.Event(), threading.Event()
    real = px.quantization_errors

    def slow(model, **options):
        for error in real(model, **options):
            begun.set()
            free.wait(10)
            yield error

    monkeypatch.setattr(px, "quantization_errors", slow)
    rough.do_measure()
    assert begun.wait(10)
    rough.bits = 8
    rough.do_measure()
    free.set()
    rough.wait(60)
    assert {one["scheme"] for one in rough.errors} == {"8 bits, groups of 64"}


def test_answers_are_compared_as_the_core_does(pair, rough):
    pair.ask("Describe the picture.", images=[SCENE.image])
    pair.wait(60)
    rough.do_compare()
    rough.wait(120)
    assert rough.problem == ""
    prompt = pair.asked

    def wanted(model):
        copy = px.quantized_copy(model, bits=2)
        replies = [one.generate(prompt, max_tokens=48) for one in (model, copy)]
        end = [model.tokenizer.eos_id]
        tokens = [r.tokens + end * (r.finish_reason == "stop") for r in replies]
        kl = px.compare_runs(model, prompt, tokens[0], other=copy).kl
        return [r.text for r in replies], px.first_difference(*tokens), kl

    texts, parting, kl = pair.look(wanted).result()
    found = rough.comparison
    assert found["texts"] == texts and texts[0] != texts[1]
    assert found["parting"] == parting
    assert found["kl"] == pytest.approx(kl.tolist(), rel=1e-4, abs=1e-6)
    assert "".join(found["pieces"][0]).removesuffix("</s>") == texts[0]
    assert found["pieces"][0][:parting] == found["pieces"][1][:parting]


def test_a_version_that_is_quantized_already(pair, tmp_path):
    convert("mini", tmp_path / "four", bits=4, dtype="float32")
    view = w.QuantizationView(pair, quantized=str(tmp_path / "four"))
    view.do_measure()
    view.wait(60)
    fresh = pair.look(lambda m: list(px.quantization_errors(m, bits=4, dtype="float32")))
    assert [e["error"] for e in view.errors] == pytest.approx([e.error for e in fresh.result()])


def test_what_cannot_be_measured_is_one_sentence(pair):
    other = w.Session(px.quantized_copy(px.load("mini"), bits=4))
    view = w.QuantizationView(other)
    assert "there is no question yet" in answer_to(view, "compare")["problem"]
    view.do_measure()
    view.wait(60)
    assert "already quantized" in view.problem and view.work == {}
    other.close()


def test_measuring_can_be_stopped_and_done_again(pair, rough):
    rough.do_measure()
    rough.do_stop()
    assert rough.work == {}
    rough.do_measure()
    rough.wait(60)
    assert len(rough.errors) == 39
