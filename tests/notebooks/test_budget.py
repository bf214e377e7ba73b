"""What notebooks 8 and 9 share: timing, rounding, and the answers to their exercises."""

import mlx.core as mx
import numpy as np
import pytest

import course
import pixtral_mlx as px
from course import budget, inside
from pixtral_mlx.model.config import PIXTRAL_12B

NONSENSE = (None, "four", (), {}, ("a", "b"), [1.0], True)
TOKENS = 4160
RIGHT = 2 * 40 * 8 * 128 * 2 * TOKENS


def test_seconds_are_those_of_the_fastest_run(monkeypatch):
    ticks = iter([0.0, 5.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr(budget.time, "perf_counter", lambda: next(ticks))
    calls = []

    def work():
        calls.append(1)
        return mx.zeros(1)

    assert budget.seconds(work, times=3) == 2.0
    assert len(calls) == 4  # one is not counted


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (RIGHT / 2, "twice"),
        (RIGHT * 4, "query heads"),
        (RIGHT * 2, "two bytes"),
        (RIGHT / 40, "one layer"),
        (RIGHT / TOKENS * 4096, "Break tokens"),
        (RIGHT / TOKENS, "one token"),
        (1e9, "key heads"),
    ],
)
def test_a_wrong_count_of_bytes_is_explained(answer, hint):
    verdict = budget.check_kv(answer, PIXTRAL_12B, TOKENS)
    assert not verdict.right
    assert hint in verdict.text


def test_the_right_count_of_bytes_is_right():
    assert budget.check_kv(RIGHT, PIXTRAL_12B, TOKENS).right
    assert budget.check_kv(682e6, PIXTRAL_12B, TOKENS).right


def test_speed_is_bandwidth_by_bytes_of_a_step():
    assert budget.check_speed(10.2, 100, 10, 12).right
    for wrong in (100 / 12, 5, -1, 0, 20):
        assert not budget.check_speed(wrong, 100, 10, 12).right
    assert "encoder" in budget.check_speed(100 / 12, 100, 10, 12).text


def test_bits_of_the_ruler_count():
    assert budget.check_bytes(3.5, 3.5).right
    assert "scale" in budget.check_bytes(3, 3.5).text
    assert not budget.check_bytes(4, 3.5).right


def test_the_worst_part_is_the_one_with_the_largest_effect():
    effects = {"a": 0.1, "b": 0.3, "c": 0.2}
    assert budget.check_part("b", effects).right
    assert "more: 2" in budget.check_part("a", effects).text
    assert not budget.check_part("d", effects).right


@pytest.mark.parametrize("nonsense", NONSENSE, ids=repr)
def test_checks_explain_nonsense(nonsense):
    for verdict in (
        budget.check_kv(nonsense, PIXTRAL_12B, TOKENS),
        budget.check_speed(nonsense, 100, 10, 12),
        budget.check_bytes(nonsense, 3.5),
        budget.check_part(nonsense, {"a": 0.1}),
    ):
        assert not verdict.right
        assert "give" in verdict.text.lower()


def test_parts_are_what_a_conversion_quantizes(mini):
    parts = budget.parts_of(mini)
    errors = list(px.quantization_errors(mini, bits=4))
    assert sum(map(len, parts.values())) == len(errors)
    sizes = sum(e.shape[0] * e.shape[1] for e in errors)
    assert sum(m.weight.size for part in parts.values() for m in part) == sizes
    assert budget.bytes_in(parts, dict.fromkeys(parts, 4)) == sizes * 4.5 / 8


def test_a_twin_shares_weights_until_they_are_rounded(mini):
    other, asked = budget.twin(mini), course.questions(course.scenes(1), "rows")
    read = inside.answers(mini, asked)
    assert inside.mean_kl(read, other=other) == 0
    matrices = budget.parts_of(other)["layer 0"]
    before = [matrix.weight for matrix in matrices]
    with budget.rounded(matrices, bits=2):
        assert inside.mean_kl(read, other=other) > 0
        rounded = np.array(matrices[0].weight)
        assert len(np.unique(rounded.reshape(-1, 64)[0])) <= 4
    assert all(m.weight is w for m, w in zip(matrices, before, strict=True))
    assert inside.mean_kl(read, other=other) == 0


def test_rounding_is_that_of_a_conversion(mini):
    """All parts rounded by hand answer as a quantized copy does."""
    other, asked = budget.twin(mini), course.questions(course.scenes(1), "rows", "wide")
    read, copy = inside.answers(mini, asked), px.quantized_copy(mini, bits=3)
    every = [matrix for part in budget.parts_of(other).values() for matrix in part]
    by_copy = [px.read_answer(copy, one.prompt, one.tokens) for one in read]
    with budget.rounded(every, bits=3):
        assert inside.mean_kl(by_copy, other=other) < 1e-4
