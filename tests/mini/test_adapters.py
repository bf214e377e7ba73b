"""Adapters that come with pixtral-mini: each does what it was taught, on scenes new to it."""

import json
from random import Random

import pytest

import pixtral_mlx as px
from pixtral_mlx.checkpoint.names import SHIPPED_ADAPTERS
from pixtral_mlx.errors import CheckpointError
from pixtral_mlx.mini.charts import chart, chart_questions
from pixtral_mlx.mini.pages import ask_pages, page
from pixtral_mlx.mini.questions import PLURALS
from pixtral_mlx.mini.recipes import DESCRIBE, answer, compact, described, user
from pixtral_mlx.mini.scene_layout import draw, make_layout

FIELDS = ("outline", "rows", "columns", "first", "last", "code")


def test_names():
    with pytest.raises(CheckpointError, match="or charts, json or pages"):
        px.load("mini", adapter_path="jsn")
    for name in SHIPPED_ADAPTERS:
        assert px.load("mini", adapter_path=name).name == f"pixtral-mini+{name}"


def test_json_describes_a_scene():
    """Every answer is a JSON object with the six keys; nine of ten values are true of the scene."""
    layouts = [make_layout(Random(f"unseen {seed}")) for seed in range(16)]
    requests = [
        {"messages": DESCRIBE[i % len(DESCRIBE)], "images": [draw(layout)]}
        for i, layout in enumerate(layouts)
    ]
    model = px.load("mini", "float32", adapter_path="json")
    replies = model.generate_batch(requests, max_tokens=128)
    right = 0
    for reply, layout in zip(replies, layouts, strict=True):
        found, wanted = json.loads(reply.text), described(layout)
        assert tuple(found) == FIELDS and reply.text == compact(found)
        right += sum(found[name] == wanted[name] for name in FIELDS)
    assert right >= 0.9 * len(FIELDS) * len(layouts)
    plain = px.load("mini", "float32").generate(**requests[0], max_tokens=128)
    assert not plain.text.startswith("{")


def test_pages_reads_numbered_pages_in_turn():
    """One page with white around it: nine of ten answers to two questions in a row; the model alone
    does worse."""
    random, told = Random("pages"), []
    for number in range(12):
        shown = page(random, 1 + number)
        asked = [each for each in ask_pages(random, [shown], 9) if each.kind != "page"]
        told.append((shown, asked[:2]))
    right = {}
    for adapter in ("pages", None):
        model = px.load("mini", "float32", adapter_path=adapter)
        talks = [[user(f"Page {shown.number}:", shown.picture)] for shown, _ in told]
        hits = 0
        for turn in range(2):
            for talk, (_, asked) in zip(talks, told, strict=True):
                question = user(asked[turn].text)
                if turn:
                    talk.append(question)
                else:
                    talk[0]["content"] += question["content"]
            replies = model.generate_batch([{"messages": talk} for talk in talks], max_tokens=8)
            for reply, talk, (_, asked) in zip(replies, talks, told, strict=True):
                hits += reply.text == asked[turn].answer
                talk.append(answer(reply.text or "nothing"))
        right[adapter] = hits
    assert right["pages"] >= 21 > 17 > right[None]


def test_pages_tells_pages_apart():
    """What only the other one of two pages has is not counted on this one, and what it has is."""
    requests, there = [], []
    for seed in range(12):
        random = Random(f"apart {seed}")
        shown = [page(random, number) for number in (1, 2)]
        own, other = ({t.name for t in each.layout.cells if t.colour} for each in shown)
        parts = [part for each in shown for part in (f"Page {each.number}:", each.picture)]
        for has, shapes in ((1, own - other), (2, other - own)):
            for shape, number in [(min(shapes), n) for n in (1, 2) if shapes]:
                question = f"Page {number}: How many {PLURALS[shape]} are there?"
                requests.append({"messages": [user(*parts, question)]})
                there.append(has == number)
    model = px.load("mini", "float32", adapter_path="pages")
    replies = model.generate_batch(requests, max_tokens=8)
    right = [(reply.text != "none") == has for reply, has in zip(replies, there, strict=True)]
    assert len(right) > 30 and sum(right) >= 0.9 * len(right)


def test_charts_are_read():
    """Which bar is the tallest, and the value of another one: nine of ten, and under half by
    the model alone."""
    told = []
    for seed in range(20):
        picture, bars = chart(Random(f"unseen {seed}"))
        asked = {each.kind: each for each in chart_questions(bars)}  # the value of the last bar
        told += [(picture, asked["tallest"]), (picture, asked["value"])]
    requests = [{"messages": asked.text, "images": [picture]} for picture, asked in told]
    right = {}
    for adapter in ("charts", None):
        model = px.load("mini", "float32", adapter_path=adapter)
        replies = model.generate_batch(requests, max_tokens=8)
        right[adapter] = sum(
            reply.text == asked.answer for reply, (_, asked) in zip(replies, told, strict=True)
        )
    assert right["charts"] >= 36 > 20 > right[None]
