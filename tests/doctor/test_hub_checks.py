"""What doctor asks the hub, against one that runs in this process."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkpoints import official_shapes
from fake_hub import serve
from published_files import PARAMS, repository, weights

from pixtral_mlx.doctor import hub_checks
from pixtral_mlx.doctor.check import attempt
from pixtral_mlx.model.config import PIXTRAL_12B

NAME = "mistralai/Pixtral-12B-2409"
SCRIPT = """
import json
from pixtral_mlx.doctor import hub_checks as h
hub = h.Hub()
print(json.dumps([check(hub).record() for check in (h.check_hub, h.check_fetch, h.check_names)]))
"""


def asked(endpoint, home, **settings):
    """The three records, by a process that knows only this hub; its standard error is empty."""
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), **settings}
    if "HF_TOKEN" not in settings:
        environment.pop("HF_TOKEN", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120
    )
    assert not done.stderr
    return json.loads(done.stdout)


def test_the_published_files_are_those_of_the_tables(tmp_path):
    with serve({NAME: repository()}) as hub:
        hub.elsewhere = True
        hub.declared["consolidated.safetensors"] = 25_366_000_000
        found, fetched, names = asked(hub.endpoint, tmp_path, HF_TOKEN="hf_secret")
        spans = [span for name, span in hub.downloads() if name.endswith(".safetensors")]
    assert [each["status"] for each in (found, fetched, names)] == ["ok"] * 3
    assert found["facts"]["sizes"]["consolidated.safetensors"] == 25_366_000_000
    assert "25.37 GB" in found["text"] and "a token is present" in found["text"]
    assert spans == ["bytes=0-1048575"]
    assert hub.tokens["elsewhere"] == {None} and "Bearer hf_secret" in hub.tokens["hub"]
    assert "hf_secret" not in json.dumps([found, fetched, names])
    assert names["facts"]["tensors"] == len(official_shapes(PARAMS))


def test_no_more_than_a_megabyte_comes(tmp_path):
    with serve({NAME: repository(weights() + bytes(5_000_000))}) as hub:
        _, fetched, names = asked(hub.endpoint, tmp_path)
    assert fetched["facts"]["bytes"] == 2**20 and names["status"] == "ok"
    assert hub.sent < 2**20 + 10_000


def changed(**other):
    return {**official_shapes(PARAMS), **other}


def without(name):
    return {each: shape for each, shape in official_shapes(PARAMS).items() if each != name}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (weights(without("norm.weight")), "norm.weight is missing"),
        (weights(changed(extra=(3,))), "extra is not known"),
        (weights(changed(**{"norm.weight": (4096,)})), "norm.weight is (4096,), expected (5120,)"),
        (weights(first=0x7FC0), "10,000 of the first numbers are NaN or infinite"),
        (weights()[:5000], "4,992 arrived"),
        (b"\x10\0\0\0\0\0\0\0not json at all!", "JSONDecodeError"),
    ],
    ids=["missing", "unknown", "shape", "nan", "short", "garbage"],
)  # fmt: skip
def test_files_that_have_changed_fail(data, said):
    (found,) = attempt("names", lambda: hub_checks.check_names(hub_checks.Hub(begin=data)))
    assert found.status == "fail" and said in found.text


def test_shapes_are_those_of_the_file():
    assert hub_checks.official_shapes(PIXTRAL_12B) == official_shapes(PARAMS)


def test_a_hub_that_is_not_there_is_a_warning(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        found, fetched, names = asked(endpoint, tmp_path)
    assert [each["status"] for each in (found, fetched, names)] == ["warn", "skipped", "skipped"]
    assert "not reachable" in found["text"] and "no token" in found["text"]


def test_a_hub_that_says_nothing_is_not_waited_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.perf_counter()
        found, *_ = asked(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
    assert found["status"] == "warn" and time.perf_counter() - start < 60


def test_a_hub_that_is_switched_off_or_refuses(tmp_path):
    with serve({NAME: repository()}) as hub:
        off, *_ = asked(hub.endpoint, tmp_path, HF_HUB_OFFLINE="1")
        hub.gated.add(NAME)
        found, fetched, names = asked(hub.endpoint, tmp_path)
    assert off["status"] == "skipped" and "HF_HUB_OFFLINE" in off["text"]
    assert [each["status"] for each in (found, fetched, names)] == ["ok", "warn", "skipped"]
    assert "status 403" in fetched["text"]


def test_a_repository_that_lacks_a_file_fails(tmp_path):
    files = repository()
    del files["tekken.json"]
    with serve({NAME: files}) as hub:
        found, *_ = asked(hub.endpoint, tmp_path)
    assert found["status"] == "fail" and "no tekken.json" in found["text"]


def test_work_has_so_many_seconds():
    with pytest.raises(TimeoutError, match=r"slower than 0\.05 s"):
        hub_checks.within(0.05, lambda: time.sleep(2))
    with pytest.raises(ZeroDivisionError):
        hub_checks.within(5, lambda: 1 / 0)
    assert hub_checks.within(5, lambda: 7) == 7
