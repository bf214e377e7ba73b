"""Sizes as people say them: data in decimal units, machines as they are sold."""

import mlx.core as mx
import pytest

import pixtral_mlx as px
from pixtral_mlx.cost.chips import CHIPS, expected_usable_bytes
from pixtral_mlx.engine import capacity
from pixtral_mlx.tables import format_bytes, format_memory, format_share

SOLD = sorted({size for chip in CHIPS.values() for size in chip.memory_gb})


@pytest.mark.parametrize("size", SOLD)
def test_a_machine_is_said_as_it_is_sold(size):
    assert format_memory(size * 2**30) == f"{size} GB"


def test_what_may_be_used_is_a_part_of_what_was_sold():
    said = {size: format_memory(expected_usable_bytes(size), size * 2**30) for size in (8, 16, 64)}
    assert said == {8: "5.3 of 8 GB", 16: "11 of 16 GB", 64: "48 of 64 GB"}
    assert format_memory(5e6, 16 * 2**30) == format_bytes(5_000_000)
    assert format_memory(16 * 2**30, 16 * 2**30) == "16 GB"


@pytest.mark.parametrize("size", SOLD)
def test_what_does_not_fit_is_never_said_to_be_less_than_what_there_is(size):
    """Needs are said in 10**9 bytes, memory in 2**30."""
    usable = expected_usable_bytes(size)
    needed, there = format_bytes(int(usable) + 1), format_memory(usable, size * 2**30)
    assert float(needed.split()[0]) > float(there.split()[0])


def test_an_error_says_the_memory_of_a_mac_as_sold(model, prompt, monkeypatch):
    mac = {"device_name": "Apple M3 Max", "memory_size": 64 * 2**30}
    mac |= {"max_recommended_working_set_size": 48 * 2**30}
    monkeypatch.setattr(mx, "device_info", lambda: mac)
    monkeypatch.setattr(capacity, "weights_bytes", lambda model: 60 * 10**9)
    with pytest.raises(px.CapacityError, match=r"; 48 of 64 GB are available: "):
        capacity.check_memory(model, prompt, 10)


def test_a_share_has_two_digits():
    said = {0.414: "41 %", 0.0996: "10 %", 0.056: "5.6 %", 0.0002: "< 0.1 %", 0: "0 %"}
    assert {share: format_share(share) for share in said} == said
