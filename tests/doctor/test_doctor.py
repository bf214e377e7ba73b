"""`pixtral-mlx doctor`: every look gives a line whatever happens; nothing private is told."""

import getpass
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import doctor_looks
import huggingface_hub.constants
import mlx.core as mx
import pytest
from checkpoints import make_official
from fake_hub import serve
from published_files import repository

from pixtral_mlx import cli
from pixtral_mlx.cli import doctor
from pixtral_mlx.cost import chips
from pixtral_mlx.doctor import kernels
from pixtral_mlx.doctor import machine_checks as checks
from pixtral_mlx.doctor.apart import apart
from pixtral_mlx.doctor.check import FAIL, OK, SKIPPED, WARN, Check, attempt
from pixtral_mlx.doctor.kernels import Case, LayerCheck
from pixtral_mlx.engine.capacity import RESERVE_BYTES
from pixtral_mlx.model import device

HOUSE = Path(__file__).parents[2]
USER, TOKEN = "quintessa", "hf_quintessential"


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    """(page, report, seconds) of the command as a person runs it, with a hub that is there."""
    home = tmp_path_factory.mktemp("people") / USER
    make_official(home / "my-model", vision={"image_size": 1024})
    with serve({"mistralai/Pixtral-12B-2409": repository()}) as hub:
        environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
        environment |= {
            "HOME": str(home), "USER": USER, "LOGNAME": USER, "HF_TOKEN": TOKEN,
            "HF_HOME": str(home / "hub"), "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0",
            "PYTHONPATH": os.pathsep.join([str(HOUSE), str(HOUSE / "widgets")]),
        }  # fmt: skip
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pixtral_mlx", "doctor", "--json", str(home / "d.json"),
             "--model", str(home / "my-model"), "--dtype", "float32"],
            env=environment, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        seconds = time.perf_counter() - start
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout, json.loads((home / "d.json").read_text()), seconds


def test_the_page(examined):
    page, report, seconds = examined
    first, *_ = page.splitlines()
    found = (
        rf"pixtral-mlx doctor [\d.]+: {report['passed']} of {report['looked_at']} checks passed on "
    )
    assert re.match(found, first), first
    assert report["failed"] == 0 and report["passed"] + report["warnings"] == report["looked_at"]
    states = {check["name"]: check["status"] for check in report["checks"]}
    for name in (
        "machine",
        "versions",
        "memory",
        "precision",
        "bandwidth",
        "mini",
        "disk",
        "fonts",
    ):
        assert states[name] in (OK, WARN), name
    for name in ("vision layer, float32", "text layer, float32", "hub", "fetch", "tensor names"):
        assert states[name] == OK, name
    assert states["published answers"] == SKIPPED and states["speed"] == OK
    assert all(f"| {name} | " in page for name in states)
    assert seconds < 300  # three minutes, on a machine that does nothing else
    assert report["model"] == "my-model"


def test_the_numbers(examined):
    facts = {check["name"]: check["facts"] for check in examined[1]["checks"]}
    layers = [layer for found in facts.values() for layer in found.get("layers", ())]
    cases = kernels.cases(gpu=device.on_gpu())
    assert [layer["name"] for layer in layers] == [str(case) for case in cases]
    assert all(layer["passed"] and layer["seconds"] > 0 for layer in layers)
    bandwidth = facts["bandwidth"]
    bound = bandwidth["gigabytes_per_second"] * 1e9 / bandwidth["decode_step_bytes"]
    assert bandwidth["bound_tokens_per_second"] == pytest.approx(bound)
    assert bandwidth["decode_step_bytes"] == pytest.approx(6.51e9 + 4096 * 163_840, rel=0.002)
    assert facts["hub"]["token"] is True and facts["fetch"]["bytes"] > 70_000
    assert facts["speed"]["decode_tokens_per_second"] > 0
    assert facts["tensor names"]["tensors"] == 585


def test_nothing_private_is_told(examined):
    page, report, _ = examined
    for text in (page, json.dumps(report)):
        for secret in (USER, TOKEN, "people", str(HOUSE)):
            assert secret not in text


def test_names_are_taken_out_of_any_text(monkeypatch):
    monkeypatch.setenv("HOME", "/Users/jo.ann")
    monkeypatch.setattr(getpass, "getuser", lambda: "jo.ann")
    monkeypatch.setattr(platform, "node", lambda: "anns-mac.local")
    found = doctor.private({"a": ["/Users/jo.ann/x of jo.ann on anns-mac.local", 1, None]})
    assert found == {"a": ["~/x of ... on ...", 1, None]}
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    assert doctor.private("the root of it") == "the root of it"


def test_what_a_check_raises_is_its_line_and_ends_no_other():
    def broken():
        yield Check("a", OK, "seen")
        raise ZeroDivisionError("one\nby nothing")

    first, second = attempt("things", broken)
    assert first.text == "seen"
    assert (second.status, second.text) == (FAIL, "ZeroDivisionError: one by nothing")


def test_one_failed_look_is_status_1_and_the_others_are_there(monkeypatch, capsys):
    monkeypatch.setattr(checks, "check_memory", lambda: 1 / 0)
    monkeypatch.setattr(kernels, "check_kernels", doctor_looks.raises)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert cli.main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    found = {check["name"]: check for check in report["checks"]}
    assert report["failed"] == 2
    assert found["memory"]["text"].startswith("ZeroDivisionError")
    assert found["kernels"]["text"] == "RuntimeError: [METAL] no such kernel"
    assert {"machine", "first", "mini", "fonts", "JupyterLab"} <= set(found)


def test_a_process_that_metal_ends_leaves_a_line():
    first, second = apart("kernels", doctor_looks.ends_by_itself, "seen")
    assert (first.name, first.text) == ("first", "seen")
    assert second.status == FAIL and "SIGABRT" in second.text and second.advice


def test_one_that_never_ends_is_stopped():
    start = time.perf_counter()
    *_, last = apart("kernels", doctor_looks.never_ends, seconds=2)
    assert last.status == WARN and "after 2 s" in last.text
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize(
    ("layer_seconds", "status", "size"),
    [(0.01, OK, 512), (0.0625, OK, 512), (0.07, WARN, 256), (0.2, WARN, 128), (9, WARN, 32)],
)
def test_a_step_beside_the_time_that_macos_gives(layer_seconds, status, size):
    name = str(Case("text", mx.bfloat16, 512, 3584))
    layers = [LayerCheck(name, layer_seconds, 0.01, None, 0.03).facts()]
    found = checks.check_steps([Check("text layer", OK, "", "", {"layers": layers})])
    assert (found.status, found.facts["prefill_step_size"]) == (status, size)
    assert found.facts["step_seconds"] == pytest.approx(40 * layer_seconds)
    assert (f"--prefill-step-size {size}" in found.advice) == (status == WARN)
    assert checks.check_steps([]).status == SKIPPED


def test_a_wrong_layer_fails():
    right = LayerCheck("a", 1, 0.01, None, 0.03)
    wrong = LayerCheck("b", 1, 0.5, None, 0.03)
    assert kernels._kernel_check("text layer", "text", [right]).status == OK
    found = kernels._kernel_check("text layer", "text", [right, wrong])
    assert found.status == FAIL and "b: error 5.0e-01" in found.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pictures", "."], "--pictures needs --model"),
        (["--model", "mini", "--pictures", "nowhere"], "no such folder"),
        (["--json", "there.json"], "already exists"),
    ],
)
def test_mistakes_are_named_before_anything_is_looked_at(
    arguments, said, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("there.json").touch()
    assert cli.main(["doctor", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named_first(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "looks", lambda *_: pytest.fail("minutes were spent"))
    assert cli.main(["doctor", "--model", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err


def test_the_issue_forms_ask_for_the_page():
    for name in ("bug", "verified"):
        text = (HOUSE / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text()
        assert "pixtral-mlx doctor" in text and "id: page" in text and "id: json" in text


def test_widths_that_fit_are_those_of_the_table(monkeypatch):
    """16 GB: 5 bits would fit but for the reserve."""
    monkeypatch.setattr(checks, "usable_bytes", lambda: int(chips.expected_usable_bytes(16)))
    found = checks.check_memory()
    assert found.text.endswith("room for the 12B in 3, 4 bits and one full picture")
    assert found.facts["needed_bytes"]["4"] == 7_714_668_544 + 5160 * 163_840 + RESERVE_BYTES
