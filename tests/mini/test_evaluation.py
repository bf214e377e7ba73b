"""How pixtral-mini is measured: what is counted, what the tables say, and the shipped weights."""

import re
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pixtral_mlx.errors import CheckpointError
from pixtral_mlx.interpret.edits import MaskPatches, NoBreakTokens
from pixtral_mlx.mini import CHECKPOINT, Question, scene
from pixtral_mlx.mini.__main__ import main
from pixtral_mlx.mini.evaluation import (
    FIRST_SEED,
    GRID_KINDS,
    IN_TURN,
    Findings,
    _in_turn,
    evaluate,
    transposed,
    transposed_answers,
)
from pixtral_mlx.mini.looking import Looked, look
from pixtral_mlx.mini.questions import KINDS
from pixtral_mlx.mini.report import (
    BEGIN,
    END,
    WHOLE,
    answers_table,
    conditions,
    evidence_table,
    fingerprint,
    report,
    write_section,
)
from pixtral_mlx.mini.scene_layout import Layout, Thing
from pixtral_mlx.model.prompt import PatchGrid

README = CHECKPOINT / "README.md"


# What is counted ------------------------------------------------------------------------------


def test_evaluation_counts_exact_answers(mini):
    """The same questions, asked one by one in the plain way; and the same from two processes."""
    alone = evaluate(CHECKPOINT, 2, quantized=False, dtype="float32")
    asked, right, seen = Counter(), Counter(), []
    for s in (scene(FIRST_SEED), scene(FIRST_SEED + 1)):
        for q in s.questions:
            variants = {"stored": [], "no breaks": [NoBreakTokens()]}
            for variant, edits in variants.items():
                if edits and q.kind not in GRID_KINDS:
                    continue
                reply = mini.generate(q.text, images=q.images, edits=edits, trace=True)
                asked[q.kind, variant] += 1
                right[q.kind, variant] += reply.text == q.answer
                if not edits and reply.text == q.answer and q.patches:
                    seen.append(reply.trace.image_rows(0, q.evidence_image))
    variants = ("stored", "no breaks")
    here = {key: count for key, count in alone.asked.items() if key[1] in variants}
    assert here == asked
    assert all(alone.right[key] == right[key] for key in asked)
    assert 0 < right.total() < asked.total()
    assert sum(map(len, alone.looked.values())) == len(seen)
    several = evaluate(CHECKPOINT, 2, quantized=False, dtype="float32", workers=2)
    assert (several.asked, several.right) == (alone.asked, alone.right)
    for kind, own in alone.looked.items():
        for one, other in zip(own, several.looked[kind], strict=True):
            np.testing.assert_array_equal(one.shares, other.shares)


def test_later_turns_are_what_a_conversation_asks(mini):
    """Each of the ten questions about the picture after the one before, and all in a row."""
    shown = scene(FIRST_SEED)
    questions = [q for q in shown.questions if q.kind != "which"]
    found, said = evaluate(CHECKPOINT, 1, quantized=False, dtype="float32"), []
    right = Counter()
    for question in questions:
        content = [{"type": "text", "text": question.text}]
        if not said:
            content.insert(0, {"type": "image", "image": shown.image})
        said.append({"role": "user", "content": content})
        answer = mini.generate(said).text
        right[question.kind] += answer == question.answer
        said.append({"role": "assistant", "content": answer})
    for variant in IN_TURN:
        asked = {kind for kind, v in found.asked if v == variant}
        assert asked == {q.kind for q in questions[1:]}
    later = [q.kind for q in questions[1:]]
    assert [found.right[kind, "conversation"] for kind in later] == [right[k] for k in later]


def test_four_bits_are_asked_too():
    seen = []
    found = evaluate(
        CHECKPOINT, 1, first_seed=5, dtype="float32", progress=lambda *at: seen.append(at)
    )
    assert seen == [(1, 1)]
    kinds = {q.kind for q in scene(5).questions}
    for variant in WHOLE:
        assert {kind for kind, v in found.asked if v == variant} == kinds


@pytest.mark.parametrize(("width", "height"), [(128, 64), (32, 160), (93, 31)])
def test_transposed_breaks_are_those_of_the_transposed_picture(mini, width, height):
    prompt = mini.encode("Is this wide?", [Image.new("RGB", (width, height))])
    turned = transposed(prompt, mini.tokenizer.image_ids)
    expected = mini.encode("Is this wide?", [Image.new("RGB", (height, width))])
    assert turned.tokens == expected.tokens != prompt.tokens
    assert (turned.grids, turned.spans) == (expected.grids, expected.spans)
    assert turned.images[0].shape == prompt.images[0].shape


def test_answers_that_follow_transposed_breaks():
    turned = transposed_answers(Layout(2, 5, (Thing(),) * 10, 0))
    assert turned == {"rows": "five", "columns": "two", "wide": "tall"}
    for question in scene(0, rows=5, columns=2).questions:
        assert turned.get(question.kind, question.answer) == question.answer


def test_shares_are_those_of_a_slow_sum():
    """Two pictures of 1 x 2 and 2 x 2 patches, three words, two layers of two heads."""
    grids = [PatchGrid(1, 2), PatchGrid(2, 2)]
    random = np.random.default_rng(0)
    maps = [[random.random((2, 2, *grid)) for grid in grids] for _ in range(3)]
    for word in maps:
        for own in word:
            own[1, 1] = 0  # a head that looks elsewhere
    trace = SimpleNamespace(
        prompt=SimpleNamespace(grids=grids), tokens=[7, 8, 9], image_rows=lambda t, i: maps[t][i]
    )
    patches = ((0, 1), (1, 0))
    question = Question("which", "?", "the second", [], patches, evidence_image=1)
    looked = look(trace, question)
    for layer, head in ((0, 0), (0, 1), (1, 0)):
        there = sum(float(word[1][layer, head][p]) for word in maps for p in patches)
        whole = sum(float(own[layer, head].sum()) for word in maps for own in word)
        assert looked.shares[layer, head] == pytest.approx(there / whole)
    assert np.isnan(looked.shares[1, 1])
    assert looked.uniform == pytest.approx(2 / 6)
    there = sum(float(word[1][..., p[0], p[1]].sum()) for word in maps for p in patches)
    assert looked.overall == pytest.approx(there / sum(o.sum() for word in maps for o in word))
    assert not looked.hit
    maps[0][1][0, 0, 1, 0] = 50
    assert look(trace, question).hit
    assert look(trace, Question("rows", "?", "one", [], ())) is None


# What the tables say --------------------------------------------------------------------------


def looked(*shares):
    return Looked(np.array([shares]), 0.5, 0.25, True)


def test_tables_say_what_was_counted():
    found = Findings()
    for right in (True, True, True, False):
        found.count("at", "stored", right)
    other = Findings()
    other.count("wide", "stored", True)
    other.count("wide", "no breaks", False)
    other.count("wide", "transposed", True)
    other.count("wide", "second turn", True)
    found.add(other)
    rows = [re.split("  +", line.strip()) for line in answers_table(found)]
    assert rows[0] == ["kind", "questions", "stored", "second turn", "no breaks", "transposed"]
    assert rows[1] == ["at", "4", "75.0 %"]
    assert rows[2] == ["wide", "1", "100.0 %", "100.0 %", "0.0 %", "100.0 %"]
    assert rows[3] == ["all", "5", "80.0 %", "100.0 %"]
    assert "1 of 1 pictures" in "\n".join(report(found, []))


def test_a_head_that_looks_at_no_picture_has_no_share():
    nan = float("nan")
    table = evidence_table(
        {"at": [looked(0.5, nan)], "shape": [looked(0.7, nan), looked(0.8, 1.0)]}
    )
    rows = [re.split("  +", line.strip()) for line in table]
    assert rows == [
        ["layer.head", "shape", "at", "all"],
        ["answers", "2", "1", "3"],
        ["uniform", "25.0 %", "25.0 %", "25.0 %"],
        ["mean", "87.5 %", "50.0 %", "83.3 %"],
        ["best", "0.1", "0.0", "0.1"],
        ["0.0", "75.0 %", "50.0 %", "66.7 %"],
        ["0.1", "100.0 %", "-", "100.0 %"],
    ]


def test_the_section_is_replaced_and_the_rest_stays(tmp_path):
    readme = tmp_path / "README.md"
    with pytest.raises(CheckpointError, match="cannot be read"):
        write_section(readme, ["new"])
    readme.write_text("# Title\n")
    with pytest.raises(CheckpointError, match="has no lines"):
        write_section(readme, ["new"])
    readme.write_text(f"# Title\n{BEGIN}\nold\n{END}\nMore.\n")
    write_section(readme, ["new", "table"])
    write_section(readme, ["new", "table"])
    assert readme.read_text() == f"# Title\n{BEGIN}\n```\nnew\ntable\n```\n{END}\nMore.\n"


def test_the_command_prints_what_it_writes(tmp_path, capsys):
    for file in ("params.json", "tekken.json", "consolidated.safetensors"):
        shutil.copyfile(CHECKPOINT / file, tmp_path / file)
    command = ["evaluate", "--model", str(tmp_path), "--scenes", "1", "--first-seed", "5"]
    command += ["--dtype", "float32", "--write"]
    assert main(command) == 1
    assert "README.md: cannot be read" in capsys.readouterr().err
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "README.md").read_text() == f"{BEGIN}\n```\n{printed}```\n{END}\n"
    assert "scenes   1, seeds 5 to 5" in printed
    assert f"{len(scene(5).questions)}  " in printed.split("\nall ")[1]


# The shipped weights --------------------------------------------------------------------------


def shape(lines):
    """Lines without their figures and widths."""
    text = re.sub(r"[\d,]*\d(\.\d+)?|(?<= )-(?=\s|$)", "0", "\n".join(lines))
    text = re.sub(r"(?m)^machine .*|0 %", lambda m: m[0][:7] if "m" in m[0] else "0", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_readme_holds_what_the_command_writes_about_these_weights(mini):
    text = README.read_text(encoding="utf-8")
    section = text.split(f"{BEGIN}\n```\n")[1].split(f"```\n{END}\n")[0].splitlines()
    assert section[0] == f"weights  {fingerprint(CHECKPOINT)}", "evaluate --write, with the weights"
    found = Findings()
    sizes = mini.config.text.n_layers, mini.config.text.n_heads
    for kind in KINDS:
        about_grid = kind in GRID_KINDS
        for variant in (
            "stored",
            "4-bit/64",
            "4-bit/32",
            *(IN_TURN * (kind not in ("colour", "which"))),  # first; about two pictures
            *(("no breaks", "transposed") * about_grid),
        ):
            found.count(kind, variant, True)
        if not about_grid:
            found.looked[kind] = [Looked(np.full(sizes, 0.5), 0.5, 0.2, True)]
    how = conditions(CHECKPOINT, range(5), dtype=None, workers=1, seconds=1)
    expected = shape(report(found, how))
    assert shape(section)[1:] == expected[1:]
    machine = re.fullmatch(
        r"machine  .+, Python [\d.]+, MLX [\d.]+, [\w ]+, \d+ seconds in \d+ process(es)?",
        section[2],
    )
    assert machine


def test_the_shipped_checkpoint_sees(mini):
    kinds = ("colour", "shape", "where", "rows", "columns", "wide", "which")
    asked = [q for seed in range(6) for q in scene(2 * 10**9 + seed).questions if q.kind in kinds]
    right = [mini.generate(q.text, images=q.images).text == q.answer for q in asked]
    assert sum(right) / len(right) > 0.9


def test_the_shipped_checkpoint_goes_on(mini):
    """Right after another question about the same picture as often as alone."""
    said = [
        (answer, question.answer)
        for seed in range(6)
        for question, _, answer in _in_turn(mini, scene(2 * 10**9 + seed))
    ]
    assert sum(answer == right for answer, right in said) >= 0.95 * len(said)


def test_an_answer_rests_on_the_evidence(mini):
    """Without the patches of the thing that is asked for it is lost; without others it is not."""
    found = Counter()
    for seed in range(24):
        s = scene(4 * 10**9 + seed)
        for q in s.questions:
            if len(s.layout.cells) < 6 or q.kind not in ("colour", "shape"):
                continue
            prompt = mini.encode(q.text, q.images)
            rows, columns = prompt.grids[0]
            rest = [(r, c) for r in range(rows) for c in range(columns) if (r, c) not in q.patches]
            for name, hidden in (("evidence", q.patches), ("rest", rest[:4]), ("none", ())):
                reply = mini.generate(prompt, edits=[MaskPatches(hidden)])
                found[name] += reply.text == q.answer
    assert found["none"] >= 10
    assert found["rest"] >= 0.9 * found["none"]
    assert found["evidence"] <= 0.5 * found["none"]


def test_the_shipped_checkpoint_reads_the_shape_off_the_breaks(mini):
    """Moved breaks turn wide into tall, though not a pixel differs."""
    changes = Counter()
    for seed in range(30):
        s = scene(3 * 10**9 + seed)
        if s.layout.rows == s.layout.columns:
            continue
        (question,) = [q for q in s.questions if q.kind == "wide"]
        prompt = mini.encode(question.text, question.images)
        turned = transposed(prompt, mini.tokenizer.image_ids)
        changes[mini.generate(prompt).text, mini.generate(turned).text] += 1
    flipped = changes["wide", "tall"] + changes["tall", "wide"]
    assert min(changes["wide", "tall"], changes["tall", "wide"]) > 0
    assert flipped >= 0.8 * changes.total()
