"""README's table of machines, from files that doctor writes."""

import importlib.util
import json
from pathlib import Path

import pytest

from pixtral_mlx.cli import doctor
from pixtral_mlx.doctor import machine_checks as checks
from pixtral_mlx.doctor.check import OK, WARN, Check

HOUSE = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("verified", HOUSE / "scripts" / "verified.py")
verified = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(verified)


@pytest.fixture
def places(tmp_path):
    """(folder of reports, README) with the two marks and no report."""
    (tmp_path / "reports").mkdir()
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{verified.BEGIN}\nold\n{verified.END}\n\n## Next\n")
    return tmp_path / "reports", readme


def report(*found, model=None, **machine):
    made = doctor.make_report([checks.check_versions(), *found], model, 60.0)
    made["machine"] |= machine
    return made


def fill(places, *options):
    folder, readme = places
    status = verified.main(["--folder", str(folder), "--readme", str(readme), *options])
    return status, readme.read_text()


def test_readme_says_what_the_files_say():
    assert verified.main(["--check"]) == 0
    text = (HOUSE / "README.md").read_text()
    assert list((HOUSE / "docs" / "verified").glob("*.json")) or verified.EMPTY in text


def test_no_reports_is_said(places):
    assert fill(places, "--check")[0] == 1  # "old" is not what the files say
    status, text = fill(places)
    assert status == 0 and verified.EMPTY in text and "old" not in text
    assert text.startswith("# Title") and text.endswith("\n\n## Next\n")
    assert fill(places, "--check") == (0, text)


def test_a_row_for_each_report(places):
    speed = {
        "decode_tokens_per_second": 23.456, "first_token_seconds": 4.2, "peak_bytes": 9.87e9,
    }  # fmt: skip
    found = [
        Check("published answers", OK, "", "", {"same": 46, "steps": 47}),
        Check("speed", OK, "", "", speed),
        Check("fonts", WARN, ""),
    ]
    m4 = report(*found, model="pixtral-4bit", chip="Apple M4 Pro", memory_bytes=48 * 2**30,
                system="macOS 26.1")  # fmt: skip
    m1 = report(chip="Apple M1", memory_bytes=16 * 2**30, system="macOS 14.5 | x\n| y")
    for name, made in (("b", m4), ("a", m1)):
        (places[0] / f"{name}.json").write_text(json.dumps(doctor.private(made)))
    status, text = fill(places)
    assert status == 0
    rows = [line for line in text.splitlines() if line.startswith("| M")]
    assert len(rows) == 2
    assert rows[0].startswith("| M1 | 16 GB | macOS 14.5 / x / y | ")
    assert "| 1 of 1 | - | - | - | - | - | " in rows[0]
    assert rows[0].count("|") == rows[1].count("|") == 12
    assert "| 3 of 4 | pixtral-4bit | 46 of 47 | 23.5 | 4.20 s | 9.87 GB |" in rows[1]


@pytest.mark.parametrize("content", ["{}", "[]", "not json", '{"machine": {"chip": 3}}'])
def test_a_file_that_doctor_did_not_write_is_named(places, capsys, content):
    (places[0] / "odd.json").write_text(content)
    before = places[1].read_text()
    assert fill(places) == (1, before)
    assert "odd.json" in capsys.readouterr().err


def test_a_readme_without_the_marks(places, capsys):
    places[1].write_text("# Title\n")
    assert fill(places)[0] == 1
    assert "README" in capsys.readouterr().err
