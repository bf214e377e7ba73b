"""A sample of each driver of `hardening/`, with a new seed every time: pytest's header says it."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

HARDENING = Path(__file__).resolve().parent.parent / "hardening"


SAMPLES = {
    "picture_files.py --tries 60": "0 failures in 60 tries",
    "pdf_files.py --tries 10": "0 failures in 10 tries",
    "model_folders.py --tries 25": "0 failures in 25 tries",
    "traces.py --tries 40": "0 failures in 40 tries",
    "prompt_caches.py --tries 15": "0 failures in 15 tries",
    "kills.py convert --kills 1": "convert: 0 failures in ",
    "soak.py --calls 20": "0 answers that differ in 20 calls",
    "same_tokens.py --processes 2 --questions 1": "0 answers that differ",
}


@pytest.mark.parametrize("driver", SAMPLES)
def test_nothing_breaks(driver):
    name, *words = driver.split()
    seed = os.environ["PIXTRAL_HARDENING_SEED"]
    done = subprocess.run(
        [sys.executable, str(HARDENING / name), *words, "--seed", seed],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("seed "), done.stdout + done.stderr
    assert SAMPLES[driver] in done.stdout


BROKEN = """
import os, sys, time
sys.path.insert(0, {folder!r})
from tries import drive
def look(number):
    if number < 20: raise ValueError("broken")
    if number < 30: os.abort()
    if number < 40: print("noise", file=sys.stderr)
    return 0
drive(__file__, "x", lambda chance: ("kind", chance.randrange(100)), look)
"""


def test_what_breaks_is_counted_and_named(tmp_path):
    script = tmp_path / "broken.py"
    script.write_text(BROKEN.format(folder=str(HARDENING)))
    done = subprocess.run(
        [sys.executable, str(script), "--tries", "12", "--seed", "3"],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    drawn = [random.Random(f"3 {n}").randrange(100) for n in range(12)]
    assert done.stdout.count("ValueError: broken") == sum(n < 20 for n in drawn) > 0
    assert done.stdout.count("was gone or hung") == sum(20 <= n < 30 for n in drawn) > 0
    assert ("noise" in done.stdout) == any(30 <= n < 40 for n in drawn)
    assert " in 12 tries" in done.stdout and " 0 failures" not in done.stdout
