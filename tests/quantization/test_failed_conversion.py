"""Conversions that are refused, fail or only plan: one line, and nothing left behind."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import checkpoints
import numpy as np
import pytest

import pixtral_mlx as px
from pixtral_mlx.errors import CapacityError, CheckpointError
from pixtral_mlx.quantization import conversion
from pixtral_mlx.quantization.conversion import convert

Usage = namedtuple("Usage", "total used free")


def left_behind(folder):
    """Names beside a destination that a conversion made."""
    return [path.name for path in folder.iterdir() if "out" in path.name]


def test_a_dry_run_plans_and_writes_nothing(official, tmp_path):
    result = convert(official, tmp_path / "out", dry_run=True)
    assert result.plan.nbytes > 0 and result.seconds == 0
    assert not left_behind(tmp_path)


def test_an_existing_destination_is_refused_and_untouched(official, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(CheckpointError, match="already exists"):
        convert(official, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="already exists"):
        convert(tmp_path / "not even looked at", tmp_path / "file")


def test_a_destination_that_appears_meanwhile_is_untouched(official, tmp_path):
    def progress(done, total):
        if done == total:
            (tmp_path / "out").mkdir()

    with pytest.raises(CheckpointError, match="already exists"):
        convert(official, tmp_path / "out", progress=progress)
    assert left_behind(tmp_path) == ["out"] and not list((tmp_path / "out").iterdir())


def test_an_interrupted_run_leaves_nothing_and_can_be_repeated(official, tmp_path):
    def interrupt(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(official, tmp_path / "out", progress=interrupt)
    assert not left_behind(tmp_path)
    convert(official, tmp_path / "out")
    assert px.load(tmp_path / "out").generate("Hi", max_tokens=1).tokens


KILLED = """
import os, signal, sys
from pixtral_mlx import convert
def progress(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
convert(sys.argv[1], sys.argv[2], progress=progress)
"""


def test_what_a_killed_run_leaves_is_hidden_and_removed_by_the_next(official, tmp_path):
    command = [sys.executable, "-c", KILLED, str(official), str(tmp_path / "out")]
    root = Path(px.__file__).parents[1]
    killed = subprocess.run(command, cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    (name,) = left_behind(tmp_path)
    assert name.startswith(".out.partial-")
    convert(official, tmp_path / "out")
    assert left_behind(tmp_path) == ["out"]


def test_a_conversion_that_still_runs_is_left_alone(official, tmp_path):
    other = tmp_path / ".out.partial-1"
    other.mkdir()
    lock = os.open(other, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        convert(official, tmp_path / "out")
        assert other.exists()
    finally:
        os.close(lock)


def test_a_disk_that_is_too_small_is_found_first(official, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(CapacityError, match=r"1,000 bytes free, .* needed"):
        convert(official, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_ends_in_one_line_and_leaves_nothing(official, tmp_path, monkeypatch):
    real, calls = os.pwrite, []

    def full(descriptor, data, offset):
        calls.append(offset)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CapacityError, match="the disk is full") as caught:
        convert(official, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not left_behind(tmp_path)


def test_a_place_that_cannot_be_written_is_named(official, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        convert(official, tmp_path / "file" / "out")


def test_a_quantized_source_is_refused(official, tmp_path):
    convert(official, tmp_path / "four")
    with pytest.raises(CheckpointError, match="quantized already \\(4 bits, groups of 64\\)"):
        convert(tmp_path / "four", tmp_path / "out", bits=2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["layers.1.attention.wk.weight", "norm.weight"])
def test_weights_that_are_not_numbers_are_named(tmp_path, name, value):
    source = checkpoints.make_official(tmp_path / "source")
    tensors = checkpoints.official_tensors(checkpoints.official_params())
    tensors[name].flat[3] = value
    checkpoints.write_checkpoint(source, "consolidated", tensors)
    with pytest.raises(CheckpointError, match=f"tensor {name} holds NaN or infinity"):
        convert(source, tmp_path / "out")
    assert not left_behind(tmp_path)


def test_weights_too_large_for_float16_are_named(tmp_path):
    source = checkpoints.make_official(tmp_path / "source")
    tensors = checkpoints.official_tensors(checkpoints.official_params())
    tensors["norm.weight"][0] = 1e5
    checkpoints.write_checkpoint(source, "consolidated", tensors)
    with pytest.raises(CheckpointError, match=r"norm\.weight has weights too large for float16"):
        convert(source, tmp_path / "out", dtype="float16")
    convert(source, tmp_path / "out")


def test_options_are_checked_before_anything_is_opened(tmp_path):
    with pytest.raises(ValueError, match=r"^bits must be 2, 3, 4, 5, 6, 8, 16 or None, got 7$"):
        convert(tmp_path / "nowhere", tmp_path / "out", bits=7)


def test_threads_share_the_work_and_the_first_mistake_ends_it(official, tmp_path, monkeypatch):
    """Threads write into one file; nothing may write into it once it is closed."""
    real, threads, running = conversion._write_tensor, set(), []

    def write(writer, tensor, *rest):
        threads.add(threading.get_ident())
        running.append(tensor.name)
        if tensor.name == "decoder.layers.1.attention.wq.weight":
            raise CheckpointError("a mistake")
        time.sleep(0.01)
        done = real(writer, tensor, *rest)
        running.remove(tensor.name)
        return done

    monkeypatch.setattr(conversion, "_write_tensor", write)
    with pytest.raises(CheckpointError, match="a mistake"):
        convert(official, tmp_path / "out")
    assert running == ["decoder.layers.1.attention.wq.weight"]
    assert len(threads) == conversion.THREADS and threading.get_ident() not in threads
    assert not (tmp_path / "out").exists()
