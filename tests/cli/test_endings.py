"""How commands end: interrupted, left by their reader, or with nowhere to write."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from commands import ASK, COMMAND, environment
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.cli import generate, main
from pixtral_mlx.cli.settings import default_model

LONG = ("generate", "--model", "4bit", "--prompt", "Go on", "--max-tokens", "100000")


def interrupted_while_busy(code, *words, cwd=None, wait=0.0):
    """The status, stdout and stderr of code that says on stderr when it is busy."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), cwd=cwd,
    )  # fmt: skip
    with process:
        assert process.stderr.readline() == b"busy\n"
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err, time.perf_counter() - start


def test_ctrl_c_keeps_what_there_is(places, start):
    process = start(*LONG, cwd=places)
    first = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"note: interrupted; this is the answer so far\n"
    assert len(first) == 20 and out.endswith(b"\n")


def test_ctrl_c_in_json_still_gives_json(places, start):
    process = start(*LONG, "--json", cwd=places)
    time.sleep(4)
    for _ in range(10):  # a library may swallow it while it is being imported
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            out, err = process.communicate(timeout=15)
            break
    assert process.returncode == 130
    if err != b"pixtral-mlx generate: interrupted\n":  # on a slow machine: before it began
        assert json.loads(out)["finish_reason"] == "interrupted"


BUSY = """if True:
    import hashlib, sys
    from pixtral_mlx.cli import bench, main
    def run(_):
        print("busy", flush=True)
        if sys.argv[1] == "long":  # in C, which Python does not interrupt
            hashlib.pbkdf2_hmac("sha256", b"", b"", int(4e6))
        while True:
            pass
    bench.run = run
    sys.exit(main(["bench"]))"""


@pytest.mark.parametrize("step", ["long", "short"])
def test_ctrl_c_is_acknowledged_at_once(step):
    """Before the step ends; a short one needs no words."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, step],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == b"busy\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        if step == "long":
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)  # said once
        said = process.stderr.readline()
        if step == "long":
            assert said == b"note: stopping, as soon as the step that is being computed ends\n"
            assert process.poll() is None  # which was said while the step went on
            said = process.stderr.readline()
        assert said == b"pixtral-mlx bench: interrupted\n"
        assert process.stderr.read() == b""
    assert process.returncode == 130


STUCK = """if True:
    import hashlib, importlib, sys
    from pixtral_mlx.cli import main

    def long(*_, **__):
        print("written before", end="")
        print("busy", file=sys.stderr, flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", int(2e7))  # in C: 10 s or so
        raise AssertionError("that was to the end")

    class Model:
        encode = long
        def stream_batch(self, *_, **__):
            yield long()

    module = importlib.import_module("pixtral_mlx.cli." + sys.argv[1])
    module.load_model = lambda _: Model()
    module.machine_bandwidth = long
    sys.exit(main())"""


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "--prompt", "Hi"),
        ("generate", "--prompt", "Hi", "--json"),
        ("explain", "--prompt", "Hi", "--image", "picture.png", "-o", "stuck.png"),
        ("batch", "--prompt", "Hi", "picture.png", "-o", "stuck.jsonl"),
        ("bench",),
    ],
    ids=lambda words: " ".join((words[0], *words[3:4])),
)
def test_ctrl_c_ends_a_long_step_where_nothing_is_lost(command, places):
    """Before there is anything of an answer; what was written before is there."""
    *ended, seconds = interrupted_while_busy(STUCK, *command, cwd=places, wait=0.2)
    said = f"pixtral-mlx {command[0]}: interrupted\n".encode()
    assert ended == [130, b"written before", said]
    assert seconds < 2  # 0.1 s, on a machine that has nothing else to do
    assert not (places / "stuck.png").exists()
    (places / "stuck.jsonl").unlink(missing_ok=True)


def test_ctrl_c_is_python_s_again_afterwards(here):
    before = signal.getsignal(signal.SIGINT), threading.active_count()
    assert here("inspect", "picture.png") == 0
    deadline = time.monotonic() + 10
    while threading.active_count() > before[1] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (signal.getsignal(signal.SIGINT), threading.active_count()) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_ctrl_c_before_the_answer_is_one_line(here, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "load_model", interrupted)
    assert here(*ASK) == 130
    assert capsys.readouterr().err == "pixtral-mlx generate: interrupted\n"


EARLY = """if True:
    import sys, time
    from pixtral_mlx.cli import main, measuring, parser

    def slow(*_):
        print("busy", file=sys.stderr, flush=True)
        for _ in range(300):  # a signal between two steps is seen by the next
            time.sleep(0.1)

    if sys.argv[1] == "before":  # its flags are made from options, whose files take their time
        measuring._fill_bench = slow
    else:
        parser._fail = slow
        def run(_):
            raise KeyboardInterrupt
        parser.importlib.import_module("pixtral_mlx.cli.bench").run = run
    del sys.argv[1]
    sys.exit(main())"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_before_and_after_a_command_is_one_line(when):
    *ended, _ = interrupted_while_busy(EARLY, when, "bench")
    assert ended == [130, b"", b"pixtral-mlx: interrupted\n"]


IMPORTING = """if True:
    import builtins, sys, time
    real, wanted = builtins.__import__, sys.argv[1]
    def slow(name, *rest):
        if name == wanted:
            print("busy", file=sys.stderr, flush=True)
            for _ in range(300):  # a signal between two steps is seen by the next
                time.sleep(0.1)
        return real(name, *rest)
    builtins.__import__ = slow
    import pixtral_mlx.cli
    sys.argv[0:2] = ["pixtral-mlx"]
    sys.exit(pixtral_mlx.cli.main())"""


@pytest.mark.parametrize("name", ["parser", "argparse", "quantization.conversion"])
def test_ctrl_c_while_files_are_imported_is_one_line(name, tmp_path):
    words = ("convert", "nothing", str(tmp_path / "a"))
    status, out, err, _ = interrupted_while_busy(IMPORTING, name, *words)
    said = {b"pixtral-mlx: interrupted\n", b"pixtral-mlx convert: interrupted\n"}
    assert (status, out) == (130, b"") and err in said


def test_a_reader_that_leaves_is_no_traceback(places, start):
    process = start(*LONG, cwd=places)
    assert len(process.stdout.read(1)) == 1
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), err) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_an_output_that_is_full_is_one_line(places, flag):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "inspect", "official", *flag],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=places,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"pixtral-mlx inspect: No space left on device\n"


def test_streams_that_a_shell_closed(places):
    command = f"exec {sys.executable} -m pixtral_mlx generate --prompt - --model 4bit <&- 2>&-"
    done = subprocess.run(
        ["sh", "-c", command], env=environment(), cwd=places, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


def test_names_in_bytes_that_are_no_text(places):
    name = os.fsencode(places) + b"/caf\xe9.png"
    Image.new("RGB", (9, 9)).save(places / "plain.png")
    os.rename(places / "plain.png", name)
    done = subprocess.run(
        [*map(os.fsencode, COMMAND), b"inspect", name],
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"9 x 9 pixels" in done.stdout


def test_every_command_takes_names_that_are_not_utf8(places, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    shutil.copytree(places / "4bit", odd / "model")
    Image.new("RGB", (9, 9)).save(odd / "a.png")
    asked = ("-m", odd / "model", "--max-tokens", 2, odd / "a.png", "What?")
    for words in (
        ("convert", "mini", odd / "8bit", "--bits", 8),
        ("inspect", odd / "8bit", "--json"),
        ("models", "default", odd / "8bit"),
        ("generate", *asked, "--prompt-cache", odd / "kept"),
        ("generate", *asked, "--prompt-cache", odd / "kept", "--stats"),
        ("explain", *asked, "-o", odd / "b.png", "--save", odd / "c.safetensors"),
    ):
        status = main([*map(str, words)])
        out, err = capsys.readouterr()
        assert status == 0, err
        if words[0] == "inspect":
            assert json.loads(out)["model"] == str(odd / "8bit")
    assert px.open_trace(odd / "c.safetensors").words
    assert len([*(odd / "kept").iterdir()]) == 1
    assert default_model().model == str(odd / "8bit")
