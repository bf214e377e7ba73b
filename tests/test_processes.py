"""Processes that are copied by a fork, and processes that end while the model is at work."""

import subprocess
import sys

import pytest
from commands import environment
from pdfs import joined

FORK = """
import io, os, signal, sys, threading
import pixtral_mlx as px, pixtral_mlx_widgets as w
from pixtral_mlx.inputs import pdf_process
signal.alarm(60)
pdf = open(sys.argv[1], "rb").read()

def copied(*steps):
    if os.fork():
        return os.wait()
    for name, step in steps:
        try:
            print(name, repr(step()))
        except Exception as error:
            print(name, type(error).__name__, str(error).partition(":")[0])
    sys.stdout.flush()
    os._exit(0)

sys.stdout.flush()
copied(("before", lambda: px.load("mini").generate("Hi", max_tokens=2).finish_reason))

model = px.load("mini")
tokens = len(model.encode("Hi", [pdf]).tokens)
session, go = w.Session("mini"), threading.Event()
worker = session.worker
session.ask("Hi")
session.wait()
running = worker.submit(lambda model: go.wait())
waiting = worker.stream("Describe the picture.", max_tokens=2)
session.ask("Describe the picture.", max_tokens=2)
pdf_process._lock.acquire()  # as if another thread were drawing
worker._wake.acquire()
sys.stdout.flush()
copied(
    ("submit", lambda: worker.submit(lambda model: 1)),
    ("stream", lambda: worker.stream("Hi")),
    ("running", running.result),
    ("waiting", lambda: next(waiting)),
    ("wait", session.wait),
    ("load", lambda: px.load("mini")),
    ("generate", lambda: model.generate("Hi")),
    ("batch", lambda: model.generate_batch(["Hi"])),
    ("logits", lambda: model.logits(px.Prompt([1]))),
    ("encode", lambda: len(model.encode("Hi", [pdf]).tokens) == tokens),
    ("close", session.close),
)
worker._wake.release()
pdf_process._lock.release()
go.set()
print("parent", running.result(), len(list(waiting)), session.wait().finish_reason)
"""
WORKER = "RuntimeError the model's thread is in the process that this one was forked from"
MLX = "RuntimeError MLX does not work in a forked copy of a process that has used it"


def test_a_forked_copy_is_told_and_never_waits(tmp_path):
    """Whoever held a lock when it was made; the process that it is a copy of goes on."""
    pdf = tmp_path / "a.pdf"
    pdf.write_bytes(joined([
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>",
    ]))  # fmt: skip
    done = subprocess.run(
        # Python 3.12 and later warn of what is tried here.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(pdf)],
        capture_output=True, text=True, timeout=100, env=environment(), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "before 'stop'",
        *(f"{name} {WORKER}" for name in ("submit", "stream", "running", "waiting", "wait")),
        *(f"{name} {MLX}" for name in ("load", "generate", "batch", "logits")),
        "encode True",
        "close None",
        "parent True 2 length",
    ]


END = """
import sys, time
from pixtral_mlx import worker
worker.END_SECONDS = 0.1
def work(model):
    started.append(1)
    for _ in range(3):
        try:
            while True:
                {step}
        except SystemExit:
            pass
started, owner = [], worker.Worker("mini")
owner.submit(work)
while not started:
    time.sleep(0.01)
sys.exit(3)
"""


@pytest.mark.parametrize("step", ["model.generate('Hi', reuse=False)", "time.sleep(100)"])
def test_python_ends_quietly_during_a_long_function(step):
    """One that does not stop when it is told to, too; and one that only waits."""
    done = subprocess.run(
        [sys.executable, "-c", END.format(step=step)],
        capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "")
