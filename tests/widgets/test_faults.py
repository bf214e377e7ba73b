"""Mistakes made on purpose in the widgets: each must fail the test that is there for it.

Faults in JavaScript are made in a copy of the files, and node's tests run on the copy; faults in
Python are patched in this process. The control is `test_javascript.py`, which runs the same
tests on the files as they are.
"""

from pathlib import Path

import numpy as np
import pytest
from views import in_node, scripts

import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx.model import rope
from pixtral_mlx_widgets import mask_view, vision_attention

JS = Path(__file__).parent / "js"

# fault: the test file that must notice, the file, what stands there, what the mistake is
SCRIPT_FAULTS = {
    "an answer goes to no question": (
        "shared", "shared", "waiting.delete(message.id);\n    clearTimeout",
        "return;\n    clearTimeout",
    ),
    "answers of the prompt before": (
        "shared", "shared", "        answers.clear();\n", "",
    ),
    "an answer that was overtaken is shown": (
        "shared", "shared", "if (!wanted) show(answer", "show(answer",
    ),
    "a kernel that is gone is waited for": (
        "shared", "shared", "() => giveUp(id, question));", "wait);",
    ),
    "a living kernel is given up": (
        "shared", "shared", 'if (question.what === "alive") giveUp', "if (question.what) giveUp",
    ),
    "a busy kernel is given up": (
        "shared", "shared", 'else if (state !== "idle") wait();', "",
    ),
    "a cell that runs behind an idle status is not seen": (
        "shared", "shared", "asked !== null && Date.now() - asked >= TURN", "false",
    ),
    "a dead kernel is waited for": (
        "shared", "shared", 'now.status === "dead" || ', "",
    ),
    "the map of colours is reversed": (
        "shared", "colours", "Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1)",
        "(1 - Math.min(Math.max(share, 0), 1)) * (CIVIDIS.length - 1)",
    ),
    "map of the next head": (
        "vision_attention", "vision_attention", "index * size, (index + 1)",
        "(index + 1) * size, (index + 2)",
    ),
    "row and column changed over in the caption": (
        "vision_attention", "vision_attention", "at patch row ${map.row[0] + 1}",
        "at patch row ${map.column[0] + 1}",
    ),
    "thumbnails counted down instead of across": (
        "vision_attention", "head_strip", "* at.across + column", "+ at.lines * column",
    ),
    "a patch leaves the grid": ("rope_explorer", "rope_explorer", "row < rows", "row <= rows"),
    "one patch moves alone": (
        "rope_explorer", "rope_explorer", "[patch, probe].map(([row, column]) => [row + down,",
        "[patch, probe].map(([row, column], i) => [row + down * i,",
    ),
    "break one token early": (
        "mask_view", "mask_view", 'add("row", columns, { image, row });',
        'add("row", columns - 1, { image, row });',
    ),
    "blocks overlap": (
        "mask_view", "mask_view", "start += block.length;", "start += block.length - 1;",
    ),
    "the future is seen": (
        "mask_view", "mask_view", "key.token < query.token", "key.token > query.token",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", SCRIPT_FAULTS)
def test_mistake_in_a_script_is_noticed(fault, tmp_path):
    test, name, right, wrong = SCRIPT_FAULTS[fault]
    static = scripts(tmp_path / "static")
    file = static / f"{name}.js"
    source = file.read_text(encoding="utf-8")
    assert source.count(right) == 1, f"{right!r} stands {source.count(right)} times in {name}.js"
    file.write_text(source.replace(right, wrong), encoding="utf-8")
    done = in_node(JS / f"{test}.test.mjs", static)
    assert done.returncode != 0
    noticed = ("AssertionError", "still pending")  # the latter: an answer that never came
    assert any(words in done.stdout for words in noticed), done.stdout[-2000:]


def check_measured():
    maps = np.random.RandomState(0).rand(3, 4, 6).astype(np.float32)
    found = vision_attention.measured(maps, (1, 5))
    np.testing.assert_allclose(
        found["maps"] / 255 * np.array(found["top"])[:, None, None], maps, atol=0.004
    )
    near = maps[:, :4, 3:].sum(axis=(1, 2)) / maps.sum(axis=(1, 2))
    np.testing.assert_allclose(found["near"], near, rtol=1e-5)
    assert found["distance"][0] == pytest.approx(float(px.mean_distance(maps[0], (1, 5))))


def check_rope():
    pairs = w.RopeExplorer().ask("pairs")
    assert pairs["axis"] == ["row"] * 16 + ["column"] * 16
    assert pairs["radians"][16] == pytest.approx(1e4 ** -(1 / 32), rel=1e-6)


def check_leak():
    prompt = px.Prompt([], grids=[px.PatchGrid(1, 2), px.PatchGrid(1, 1)])
    runs = [
        {"features": np.array([[1.0], [1.0], [2.0]]), "next": np.log([0.5, 0.5]), "word": 0},
        {"features": np.array([[1.0], [1.0], [3.0]]), "next": np.log([0.25, 0.75]), "word": 1},
    ]
    found = mask_view.leak_between(*runs, prompt)
    assert found["features"] == [0.0, 0.5]
    assert found["kl"] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))


def maps_reversed(patch):
    right = vision_attention.heat
    patch.setattr(vision_attention, "heat", lambda one: right(one[::-1]))


def near_means_three(patch):
    patch.setattr(vision_attention, "NEAR", 3)


def rows_and_columns_swapped(patch):
    right = rope.Rope2D._grid_angles

    def swapped(self, rows, columns):
        return right(self, columns, rows).reshape(columns, rows, -1).swapaxes(0, 1).reshape(
            rows * columns, -1
        )  # fmt: skip

    patch.setattr(rope.Rope2D, "_grid_angles", swapped)


def images_off_by_one(patch):
    right = px.Prompt.patch_range

    def shifted(prompt, image):
        own = right(prompt, image)
        return range(own.start + image, own.stop + image)

    patch.setattr(px.Prompt, "patch_range", shifted)


PYTHON_FAULTS = {
    maps_reversed: check_measured,
    near_means_three: check_measured,
    rows_and_columns_swapped: check_rope,
    images_off_by_one: check_leak,
}


@pytest.mark.parametrize("check", sorted(set(PYTHON_FAULTS.values()), key=lambda c: c.__name__))
def test_control_without_a_mistake(check):
    check()


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
@pytest.mark.parametrize("fault", PYTHON_FAULTS, ids=lambda fault: fault.__name__)
def test_mistake_in_python_is_noticed(fault, monkeypatch):
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        PYTHON_FAULTS[fault]()
