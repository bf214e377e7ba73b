"""What `hardening/kills.py` takes for a failure."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

HARDENING = Path(__file__).resolve().parent.parent / "hardening"


SPOILED = """
import os, sys
sys.path[:0] = [{hardening!r}, {root!r}]
import kills
from pathlib import Path
way = sys.argv[1]
job = kills.Job(("x",), kills.nothing, ("out", "other"), {{".jsonl": kills.rows}})
one = kills.Try(job, 1)
out = one.folder / "out"
if way != "lost":
    out.write_text("torn" if way == "torn" else "whole")
(one.folder / "other").write_text("whole")
if way == "left behind":
    (one.folder / ".out.partial-1").write_text("")
if way == "repeated":
    (one.folder / "other").unlink()
    (one.folder / "other").mkdir()
    (one.folder / "other" / "rows.jsonl").write_text('{{"file": "a"}}\\n' * 2)
if way == "orphaned":
    import subprocess
    child = subprocess.Popen(["sleep", "30"], env={{**os.environ, kills.MARK: one.mark}})
import hashlib
whole = hashlib.sha256(b"whole").hexdigest()
print(one.problems({{"out": whole, "other": whole}}, heard=True, whole=True))
if way == "orphaned":
    child.kill()
one.remove()
"""


@pytest.mark.parametrize("way", ["torn", "lost", "left behind", "repeated", "orphaned", "well"])
def test_what_a_kill_spoils_is_seen(way):
    code = SPOILED.format(hardening=str(HARDENING), root=str(HARDENING.parent))
    done = subprocess.run(
        [sys.executable, "-c", code, way],
        capture_output=True, text=True, env=environment(), check=True, timeout=60,
    )  # fmt: skip
    found = done.stdout.strip()
    assert found == "[]" if way == "well" else way in found[:20], found
