"""pixtral-mini's recipe: lessons are real requests, and training resumes bit for bit."""

import itertools
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image, ImageColor

import pixtral_mlx as px
from pixtral_mlx.errors import CheckpointError
from pixtral_mlx.inputs.tokenizer import Tokenizer
from pixtral_mlx.mini import CHECKPOINT, learning, scene
from pixtral_mlx.mini.__main__ import main
from pixtral_mlx.mini.curves import HEIGHT, LOSS, MARGIN, RIGHT, WIDTH, draw_curves
from pixtral_mlx.mini.export import export, take_weights
from pixtral_mlx.mini.learning import Pupil, mini_config, rounded_text_loss, text_loss
from pixtral_mlx.mini.lessons import SINK, Feeder, Words, text_lesson, vision_lesson
from pixtral_mlx.mini.questions import Asked
from pixtral_mlx.mini.stages import Course, Stage, rate_at
from pixtral_mlx.model.prompt import Prompt
from pixtral_mlx.pixtral import Pixtral
from pixtral_mlx.quantization.conversion import convert

TEKKEN = CHECKPOINT / "tekken.json"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(TEKKEN, mini_config(1).vision)


def tiny_config(tokenizer):
    config = mini_config(tokenizer.n_words)
    text = replace(config.text, dim=64, n_layers=4, head_dim=16, hidden_dim=64)
    vision = replace(config.vision, hidden_size=64, intermediate_size=32, num_hidden_layers=1)
    return replace(config, text=text, vision=vision)


# Lessons --------------------------------------------------------------------------------------


def test_lessons_are_what_a_request_becomes(tokenizer):
    """A lesson's ids and pixels are those of `Tokenizer.encode` and the official pipeline."""
    maker = Words(tokenizer)
    for seed in range(20):
        s = scene(seed)
        for question in s.questions:
            prompt = tokenizer.encode(question.text, question.images)
            layouts = (s.layout, s.other)[: len(question.images)]
            prefix, places = maker.prefix([(x.rows, x.columns) for x in layouts])
            asked = Asked(question.kind, question.text, question.answer)
            tokens, learnt = maker.encode([[asked]])
            stop = len(prompt.tokens) - len(prefix)
            assert prefix + tokens[0, :stop].tolist() == prompt.tokens
            assert learnt[0].tolist() == [0.0] * stop + [1.0] * (tokens.shape[1] - stop)
            assert tokenizer.decode(tokens[0, stop:-1].tolist()) == question.answer
            assert len(places) == len(prefix)


def test_a_conversation_is_what_a_request_becomes(tokenizer):
    s = scene(3)
    maker, picture = Words(tokenizer), s.questions[0].images[0]
    turns = [Asked(q.kind, q.text, q.answer) for q in s.questions[:3]]
    messages = [{"role": "user", "content": [{"type": "image", "image": picture}]}]
    messages[0]["content"].append({"type": "text", "text": turns[0].text})
    for before, turn in itertools.pairwise(turns):
        messages.append({"role": "assistant", "content": before.answer})
        messages.append({"role": "user", "content": turn.text})
    prompt = tokenizer.encode(messages)
    tokens, learnt = maker.encode([turns])
    prefix, _ = maker.prefix([(s.layout.rows, s.layout.columns)])
    stop = len(prompt.tokens) - len(prefix)
    assert prefix + tokens[0, :stop].tolist() == prompt.tokens
    said = tokenizer.decode(tokens[learnt == 1].tolist())
    assert said == "".join(turn.answer for turn in turns)


def test_a_lesson_depends_on_its_number_only(tokenizer):
    vision, maker = mini_config(1).vision, Words(tokenizer)
    one = text_lesson(1, 7, vision, tokenizer=maker, progress=1.0, budget=600)
    text_lesson(1, 8, vision, tokenizer=maker, progress=1.0, budget=600)
    two = text_lesson(1, 7, vision, tokenizer=maker, progress=1.0, budget=600)
    assert all(map(np.array_equal, one.pixels, two.pixels))
    assert np.array_equal(one.tokens, two.tokens)


def test_evidence_of_a_lesson_is_that_of_the_scene(tokenizer):
    """Every marked id of the prefix is a patch, and for one thing it is the four of its cell."""
    vision, found = mini_config(1).vision, 0
    for step in range(30):
        lesson = text_lesson(5, step, vision, tokenizer=Words(tokenizer), progress=1.0, budget=300)
        patches = np.array(lesson.prefix) == 10
        assert not lesson.evidence[..., ~patches].any()
        assert not lesson.evidence[lesson.learnt == 0].any()
        for tokens, learnt, evidence in zip(
            lesson.tokens, lesson.learnt, lesson.evidence, strict=True
        ):
            text = tokenizer.decode(tokens[learnt == 0].tolist())
            if text.startswith(("What colour is", "Where is the ")):
                first = evidence[int(learnt.argmax())]
                assert first.sum() == 4
                assert len(np.unique(lesson.places[first], axis=0)) == 1
                found += 1
            if re.match("What is (above|below|under|(to the )?(left|right) of) ", text):
                assert evidence[int(learnt.argmax())].sum() == 1
                found += 1
    assert found > 10


def test_every_answer_of_a_conversation_is_explained(tokenizer):
    """As the same questions alone are, one after another."""
    vision, later = mini_config(1).vision, 0
    for step in range(12):
        lesson = text_lesson(
            5, step, vision, tokenizer=Words(tokenizer), progress=1.0, budget=300, earlier=3
        )
        patches = np.array(lesson.prefix) == 10
        assert not lesson.evidence[..., ~patches].any()
        assert not lesson.evidence[lesson.learnt == 0].any()
        for row, learnt in enumerate(lesson.learnt):
            said = tokenizer.decode(lesson.tokens[row][learnt == 0].tolist())
            begins = np.flatnonzero(np.diff(learnt) > 0) + 1
            later += len(begins) - 1
            named = (lesson.target[row] >= 0).all(axis=-1)
            assert set(np.flatnonzero(named)) <= set(begins - 1)
            places = re.findall(r"in (?:row \d, column \d|the \w+ row, \w+ column)", said)
            assert named.sum() == len(places)
    assert later > 10


@pytest.mark.parametrize("most", [3, 6])
def test_what_is_counted_takes_a_share_that_grows_with_its_number(tokenizer, most):
    vision, seen = mini_config(1).vision, set()
    words = ("none", "one", "two", "three", "four", "five", "six")
    for step in range(20):
        lesson = text_lesson(
            5, step, vision, tokenizer=Words(tokenizer), progress=1.0, budget=300, counting=20.0,
            most=most,
        )  # fmt: skip
        for tokens, learnt, evidence, share in zip(
            lesson.tokens, lesson.learnt, lesson.evidence, lesson.share, strict=True
        ):
            text = tokenizer.decode(tokens[learnt == 0].tolist())
            if not re.match("(How many|Count the) (?!rows|columns)", text):
                assert (share == 1).all()
                continue
            number = words.index(tokenizer.decode(tokens[learnt == 1].tolist()))
            assert evidence[int(learnt.argmax())].sum() == 4 * number
            assert share[learnt == 1] == pytest.approx(number / (number + SINK))
            seen.add(number)
    assert max(seen) == most


def test_looking_is_taught_by_the_share_on_the_evidence(tokenizer):
    """Against the softmax of one head, written out."""
    config = tiny_config(tokenizer)
    mx.random.seed(0)
    attention, lesson = Pupil(config).model.decoder.layers[0].attention, text_lesson(
        0, 3, config.vision, tokenizer=Words(tokenizer), progress=1.0, budget=600
    )  # fmt: skip
    B, L = lesson.tokens.shape
    P, K, D = len(lesson.prefix), config.text.n_kv_heads, config.text.head_dim
    rng = np.random.default_rng(0)
    x = mx.array(rng.normal(size=(B, L - 1, config.text.dim)).astype(np.float32))
    keys = mx.array(rng.normal(size=(B, K, P, D)).astype(np.float32))
    cache = SimpleNamespace(offset=P, keys=keys)
    share = rng.uniform(size=(B, L)).astype(np.float32)
    lesson = replace(lesson, share=share, by_place=rng.uniform(size=(B, L)) < 0.5)
    queries = attention.wq(x).reshape(B, L - 1, -1, D).transpose(0, 2, 1, 3)
    queries = np.array(attention.rope(queries, P))
    group, losses, known = queries.shape[1] // K, 0.0, 0
    for b in range(B):
        for position in np.flatnonzero(lesson.evidence[b, 1:].any(axis=-1)):
            known += 1
            head = (K - 1) * int(lesson.by_place[b, position + 1])
            for query in queries[b, head * group : (head + 1) * group, position]:
                row = np.exp(attention.scale * np.array(keys[b, head]) @ query)
                on = row[lesson.evidence[b, position + 1]].sum() / row.sum()
                wanted = share[b, position + 1]
                losses -= wanted * np.log(on) + (1 - wanted) * np.log(1 - on)
    found = learning._look_loss(attention, x, cache, lesson).item()
    assert found == pytest.approx(losses / (known * group), rel=1e-4)


def test_labels_name_what_patches_show():
    lesson = vision_lesson(0, 0, mini_config(1).vision, budget=100)
    assert lesson.labels.shape[:2] == (len(lesson.pixels[0]), lesson.pixels[0][0, 0].size // 256)
    assert lesson.labels[..., 0].min() >= 0
    assert lesson.labels[..., 2].max() >= 0


def test_workers_end_when_the_process_that_started_them_is_killed():
    script = """
import os, sys, time
from pixtral_mlx.mini.processes import worker_processes
if __name__ == "__main__":
    with worker_processes(2) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(2)}, flush=True)
        pool.submit(time.sleep, 60)
        time.sleep(60)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        workers = [int(pid) for pid in child.stdout.readline().split()]
        assert workers and all(map(_runs, workers))
        child.kill()
    deadline = time.monotonic() + 20
    while any(map(_runs, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # a process that nobody waits for may stay as a zombie
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_workers_give_the_lessons_in_order():
    assert list(Feeder(abs, workers=1, ahead=3).lessons(2, 9)) == list(range(2, 9))
    assert list(Feeder(abs, workers=0).lessons(2, 5)) == [2, 3, 4]


def test_the_loss_is_that_of_whole_prompts(tokenizer):
    """Questions that share one reading of their picture get the logits of separate requests."""
    config = tiny_config(tokenizer)
    mx.random.seed(0)
    pupil = Pupil(config)
    lesson = text_lesson(0, 3, config.vision, tokenizer=Words(tokenizer), progress=1.0, budget=600)
    caught = {}
    original = learning._answers

    def catch(*arguments):
        caught["logits"], looked = original(*arguments)
        return caught["logits"], looked

    learning._answers = catch
    try:
        text_loss(pupil, lesson)
    finally:
        learning._answers = original
    questions = len(lesson.tokens) // len(lesson.pixels[0])
    for row in (0, len(lesson.tokens) - 1):
        pictures = [pixels[row // questions] for pixels in lesson.pixels]
        prompt = Prompt([*lesson.prefix, *lesson.tokens[row].tolist()], pictures)
        whole = np.array(pupil.model.logits(prompt))[len(lesson.prefix) : -1]
        assert np.abs(whole - np.array(caught["logits"][row])).max() < 1e-4


def test_rounded_lessons_see_what_a_conversion_leaves(tmp_path, tokenizer):
    """The loss of the rounded weights is that of `convert`'s 4 bits, and the gradient is the one
    there; the weights themselves stay as they were."""
    config = tiny_config(tokenizer)
    mx.random.seed(0)
    pupil, converted = Pupil(config), Pupil(config)
    export(pupil.model, TEKKEN, tmp_path / "stored")
    pupil.model = px.load(tmp_path / "stored", dtype="float32")
    convert(tmp_path / "stored", tmp_path / "4bit", dtype="float32")
    converted.model, converted.heads = px.load(tmp_path / "4bit"), pupil.heads
    maker = Words(tokenizer)
    lesson = text_lesson(0, 3, config.vision, tokenizer=maker, progress=1.0, budget=300)
    before = {name: np.array(a) for name, a in tree_flatten(pupil.parameters())}
    pupil.freeze()
    pupil.model.decoder.unfreeze()
    loss = partial(rounded_text_loss, pupil, group_size=64)
    (found, _), gradients = nn.value_and_grad(pupil, loss)(lesson)
    wanted, _ = text_loss(converted, lesson)
    plain, _ = text_loss(pupil, lesson)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-5)
    assert abs(found.item() - plain.item()) > 1e-3
    after = dict(tree_flatten(pupil.parameters()))
    assert all(np.array_equal(values, after[name]) for name, values in before.items())

    rounded = {
        n: learning._rounded(64, mx.array(a)) for n, a in before.items() if "vision" not in n
    }
    pupil.load_weights([(n, a) for n, a in rounded.items() if n.startswith("model.")], strict=False)
    there = nn.value_and_grad(pupil, partial(text_loss, pupil))(lesson)[1]
    for (name, one), (_, two) in zip(tree_flatten(gradients), tree_flatten(there), strict=True):
        assert mx.allclose(one, two, rtol=1e-3, atol=1e-6), name


# Training -------------------------------------------------------------------------------------

STAGES = (
    Stage("see", 3, 0.02, 64),
    Stage("answer", 3, 0.02, 300, 2),
    Stage("round", 3, 0.02, 300, 2),
    Stage("heads", 2, 0.05, 300),
    Stage("average", 4, 0.02, 300, 2),
    Stage("converse", 3, 0.003, 300, 2, earlier=2),
)


def weights(course):
    return {name: np.array(a) for name, a in tree_flatten(course.pupil.parameters())}


def test_a_run_that_stops_goes_on_bit_for_bit(tmp_path, tokenizer, monkeypatch):
    config = tiny_config(tokenizer)

    def course(name):
        return Course(tmp_path / name, TEKKEN, config=config, stages=STAGES, workers=0)

    whole = course("whole")
    whole.run()
    monkeypatch.setattr("pixtral_mlx.mini.stages.SAVE_EVERY", 1)

    class Stopped(Exception):
        pass

    def stop_after(steps):
        def report(record):
            nonlocal steps
            steps -= 1
            if not steps:
                raise Stopped

        return report

    for steps in (2, 3, 3, 4, 4):
        with pytest.raises(Stopped):
            course("parts").run(stop_after(steps))
    resumed = course("parts")
    resumed.run()
    assert all(np.array_equal(a, weights(resumed)[name]) for name, a in weights(whole).items())
    logs = [
        [json.loads(x)["loss"] for x in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 18
    with pytest.raises(CheckpointError, match="seed 0, not 1"):
        Course(tmp_path / "parts", TEKKEN, config=config, stages=STAGES, seed=1)


def test_curves_are_where_the_numbers_are(tmp_path):
    """A panel a stage; two thirds of it done; level curves at 100, 50 and 25 %."""
    record = {"stage": "see", "steps": 90, "loss": 2.0, "right": [0.5, 0.25], "seconds": 1.0}
    records = [record | {"step": step + 1} for step in range(60)]
    records += [r | {"stage": "answer"} for r in records]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (WIDTH, 2 * HEIGHT)
        for top in (0, HEIGHT):
            for value, colour in ((1.0, LOSS), (0.5, RIGHT[0]), (0.25, RIGHT[1])):
                y = round(top + HEIGHT - MARGIN - value * (HEIGHT - 2 * MARGIN))
                row = [picture.getpixel((x, y)) for x in range(MARGIN, WIDTH - MARGIN)]
                own = [x for x, seen in enumerate(row) if seen == ImageColor.getrgb(colour)]
                assert own[0] < 12
                assert own[-1] == pytest.approx((WIDTH - 2 * MARGIN) * 2 / 3, abs=12)


def test_stages_move_what_they_should(tmp_path, tokenizer):
    config = tiny_config(tokenizer)
    course = Course(tmp_path / "run", TEKKEN, config=config, stages=STAGES, workers=0)
    before = weights(course)
    moved = {stage.name: set() for stage in STAGES}

    def report(record):
        nonlocal before
        after = weights(course)
        for name, values in after.items():
            if not np.array_equal(values, before[name]):
                moved[record["stage"]].add(".".join(name.split(".")[:2]))
        before = after

    course.run(report)
    assert moved["see"] == {"model.vision_encoder", "heads.patches"}
    assert moved["answer"] == {"model.projector", "model.decoder", "heads.places"}
    assert moved["round"] == moved["average"] == moved["converse"] == moved["answer"]
    assert moved["heads"] == {"heads.places"}


def test_averaging_ends_with_the_mean_of_all_but_the_first_quarter(tmp_path, tokenizer):
    stages = (Stage("average", 8, 0.02, 300, 2),)
    course = Course(tmp_path, TEKKEN, config=tiny_config(tokenizer), stages=stages, workers=0)
    seen = []
    course.run(lambda _: seen.append(weights(course)))
    after = weights(Course(tmp_path, TEKKEN, stages=stages, workers=0))
    for name, values in after.items():
        each = np.array([step[name] for step in seen[2:]], np.float64)
        assert np.allclose(values, each.mean(axis=0), rtol=1e-5, atol=1e-7), name
    assert not np.allclose(
        after["model.projector.w_in.weight"],
        seen[-1]["model.projector.w_in.weight"],
        rtol=1e-5,
        atol=1e-7,
    )


def test_rates_rise_and_fall_but_stay_level_while_weights_are_averaged():
    falls, level = Stage("finish", 1000, 0.1, 300), Stage("average", 1000, 0.1, 300)
    assert [rate_at(falls, step) for step in (49, 99, 400)] == pytest.approx([0.05, 0.1, 0.1])
    assert rate_at(falls, 700) == pytest.approx(0.05)
    assert [rate_at(level, step) for step in (49, 99, 999)] == pytest.approx([0.05, 0.1, 0.1])


def test_an_export_is_an_official_checkpoint_and_comes_back(tmp_path, tokenizer):
    config = tiny_config(tokenizer)
    model = Pixtral(config, TEKKEN)
    export(model, TEKKEN, tmp_path)
    loaded = px.load(tmp_path)
    assert loaded.config.text == config.text
    pupil = Pupil(config)
    take_weights(pupil, tmp_path)
    ours = dict(tree_flatten(pupil.model.parameters()))
    for name, array in tree_flatten(model.parameters()):
        assert np.array_equal(np.array(array.astype(mx.bfloat16).astype(mx.float32)), ours[name])


# The command ----------------------------------------------------------------------------------


def test_mistakes_are_one_line(tmp_path, capsys):
    assert main(["export", str(tmp_path / "out"), "--state", str(tmp_path / "none")]) == 1
    error = capsys.readouterr().err
    assert "no training state" in error
    assert error.count("\n") == 1
