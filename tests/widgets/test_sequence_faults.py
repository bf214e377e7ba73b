"""Mistakes made on purpose in the widgets' code: each must be noticed by their tests.

Every JavaScript fault changes one place of a copy of `static/`, and the node tests of that file
must then fail; the control runs them on the copy as it is. Python faults patch this process.
"""

from pathlib import Path

import numpy as np
import pytest
from noticing import load_tests
from views import in_node, scripts

import pixtral_mlx_widgets as w
from pixtral_mlx_widgets import sequence_strip

sequence, memory = load_tests("widgets/test_sequence"), load_tests("widgets/test_memory_view")
quantization = load_tests("widgets/test_quantization_view")
JS = Path(__file__).parent / "js"

# (file, what stands there, what is put there instead)
FAULTS = {
    "a row is as wide as its patches although breaks stand": (
        "sequence_strip",
        "return image.start + row * (image.columns + (image.breaks ? 1 : 0)) + column;",
        "return image.start + row * image.columns + column;",
    ),
    "rows and columns swapped": (
        "sequence_strip",
        "row: Math.floor((position - start) / wide), column:",
        "column: Math.floor((position - start) / wide), row:",
    ),
    "the pointer finds the next token": (
        "sequence_strip",
        "return left < ends[token] ? token : null;",
        "return left < ends[token] ? token + 1 : null;",
    ),
    "a line breaks one token late": (
        "sequence_strip",
        'at + wide > room',
        "at > room",
    ),
    "one shape is always the other": (
        "sequence_strip",
        "return differ == null ?",
        "return true ?",
    ),
    "the map is reversed": (
        "quantization_view",
        "(error - low) / (high - low)",
        "(high - error) / (high - low)",
    ),
    "a matrix stands under another's name": (
        "quantization_view",
        'export const KINDS = ["wq", "wk", "wv"',
        'export const KINDS = ["wk", "wq", "wv"',
    ),
    "the table goes the other way": (
        "quantization_view",
        "const sign = down ? -1 : 1;",
        "const sign = down ? 1 : -1;",
    ),
    "the KV cache lies under the weights": (
        "memory_view",
        "at += found[name];\n    return piece;",
        "return piece;",
    ),
    "too little memory is enough": (
        "memory_view",
        "return found.fits ?",
        "return !found.fits ?",
    ),
    "a prediction is judged upside down": (
        "memory_view",
        "measured.tokens_per_second / prediction",
        "prediction / measured.tokens_per_second",
    ),
}  # fmt: skip


def run_node(static: Path, name: str) -> int:
    """The exit status of a file's tests."""
    return in_node(JS / f"{name}.test.mjs", static).returncode


@pytest.fixture
def static(tmp_path):
    return scripts(tmp_path / "static")


@pytest.mark.parametrize("name", sorted({name for name, _, _ in FAULTS.values()}))
def test_without_a_fault_all_is_well(static, name):
    assert run_node(static, name) == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_javascript_is_noticed(static, fault):
    name, there, instead = FAULTS[fault]
    file = static / f"{name}.js"
    source = file.read_text(encoding="utf-8")
    assert source.count(there) == 1, "the fault's place has changed: bring it up to date"
    file.write_text(source.replace(there, instead), encoding="utf-8")
    assert run_node(static, name) != 0


def test_breaks_taken_for_ends_are_noticed(pair, monkeypatch):
    right = sequence_strip.kinds
    monkeypatch.setattr(sequence_strip, "kinds", lambda t, i: np.minimum(right(t, i), 2))
    with pytest.raises(AssertionError):
        sequence.test_the_sequence_is_the_prompt(pair, w.SequenceStrip(pair))


def test_breaks_that_stay_are_noticed(pair, monkeypatch):
    monkeypatch.setattr(w.SequenceStrip, "_shown", staticmethod(lambda prompt, breaks: prompt))
    with pytest.raises(AssertionError):
        sequence.test_without_breaks_only_the_breaks_are_gone(pair, w.SequenceStrip(pair))


def test_errors_of_another_width_are_noticed(pair, monkeypatch):
    monkeypatch.setattr(w.QuantizationView, "_options", lambda self: {"bits": 3})
    with pytest.raises(AssertionError):
        rough = w.QuantizationView(pair, bits=2)
        quantization.test_errors_bytes_and_the_worst_are_those_of_the_core(pair, rough)


def test_a_context_that_is_not_read_is_noticed(monkeypatch):
    monkeypatch.setattr("pixtral_mlx_widgets.memory_view.decode_bytes", lambda weights, *_: weights)
    with pytest.raises(AssertionError):
        memory.test_the_12b_needs_no_model()
