"""Mistakes made on purpose: each must be noticed, and where it was made.

Every fault (`faults.py`) patches the package in this process; then the comparisons of the parity
tests run and must fail at the point that the fault is about. The control runs the same without a
fault.
"""

import cases
import checkpoints
import golden_checks
import pytest
from faults import FAULTS
from golden_checks import Golden

import pixtral_mlx as px
from pixtral_mlx.checkpoint import layouts


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the checkpoint of the golden arrays is written."""
    return tmp_path_factory.mktemp("official")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_mistake_is_noticed(place, monkeypatch, fault):
    case, point = FAULTS[fault]
    pixtral = golden_checks.load(place)
    fault(monkeypatch, pixtral)
    with pytest.raises(AssertionError, match=f"^{case}: {point}: "):
        golden_checks.check_all(pixtral, Golden(case))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_mistake_changes_what_the_model_says(place, monkeypatch, fault):
    """The logits notice too (or the prompt already differs), not only an inner comparison."""
    case, _ = FAULTS[fault]
    pixtral, golden = golden_checks.load(place), Golden(case)
    fault(monkeypatch, pixtral)
    prompt = pixtral.encode(golden.messages, image_options=golden_checks.OPTIONS)
    if prompt.tokens == golden.arrays["tokens"].tolist():
        with pytest.raises(AssertionError, match=f"^{case}: logits: "):
            golden_checks.check_logits(pixtral, golden, prompt)


@pytest.mark.parametrize("case, point", [("one_image", "vision_0"), ("text_only", "decoder_0")])
def test_hf_rows_left_as_they_are_are_noticed(tmp_path, monkeypatch, case, point):
    monkeypatch.setattr(layouts.Transform, "_swap", staticmethod(lambda array, _: array))
    pixtral = px.load(checkpoints.make_hf(tmp_path, seed=cases.SEED), dtype="float32")
    with pytest.raises(AssertionError, match=f"^{case}: {point}: "):
        golden_checks.check_all(pixtral, Golden(case))


def test_control_without_a_mistake(place):
    pixtral = golden_checks.load(place)
    for case in sorted({case for case, _ in FAULTS.values()}):
        golden_checks.check_all(pixtral, Golden(case))
