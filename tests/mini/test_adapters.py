"""Adapters that come with pixtral-mini: each does what it was taught, on scenes new to it."""

import json
from random import Random

import pytest

import pixtral_mlx as px
from pixtral_mlx.checkpoint.names import SHIPPED_ADAPTERS
from pixtral_mlx.errors import CheckpointError
from pixtral_mlx.mini.recipes import DESCRIBE, compact, described
from pixtral_mlx.mini.scene_layout import draw, make_layout

FIELDS = ("outline", "rows", "columns", "first", "last", "code")


def test_names():
    with pytest.raises(CheckpointError, match="or json"):
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
