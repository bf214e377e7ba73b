"""`pixtral-mlx extract`: a row a document, whatever happens, and decisions put into them."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pdfs import make_text

from pixtral_mlx import cli
from pixtral_mlx.cli import extract as command
from pixtral_mlx.extraction.reading import as_schema
from pixtral_mlx.extraction.ready_made import FOLDER, read_schema, ready_made
from pixtral_mlx.mini import scene

HOUSE = Path(__file__).parents[2]
SCHEMA = {
    "type": "object",
    "properties": {
        "rows": {"type": "integer", "maximum": 5, "x-question": "How many rows are there?",
                 "x-present": False},
        "star": {"enum": ["red", "green", "blue", None], "x-question": "What colour is the star?",
                 "x-present": "How many stars are there?"},
    },
    "required": ["rows", "star"],
    "x-checks": ["rows <= 4"],
}  # fmt: skip


@pytest.fixture(scope="module")
def inbox(tmp_path_factory):
    """Three scenes, a damaged picture, and a schema."""
    folder = tmp_path_factory.mktemp("extract")
    (folder / "in").mkdir()
    for n, rows in enumerate((2, 5, 3)):
        scene(60 + n, rows=rows, columns=2).image.save(folder / "in" / f"{n}.png")
    (folder / "in" / "bad.png").write_bytes(b"no picture")
    (folder / "s.json").write_text(json.dumps(SCHEMA))
    return folder


@pytest.fixture
def run(inbox, tmp_path, monkeypatch, capsys):
    """Run the command: `run(...)` is (status, rows, the last line of stderr)."""
    monkeypatch.chdir(inbox)

    def main(*words, to=tmp_path / "out.jsonl"):
        schema = [] if "--schema" in words else ["--schema", "s.json"]
        try:
            status = cli.main(["extract", *map(str, words), *schema, "-o", str(to)])
        except SystemExit as error:
            status = error.code
        out, err = capsys.readouterr()
        rows = (Path(to).read_text() if str(to) != "-" and Path(to).exists() else out).splitlines()
        return status, [json.loads(row) for row in rows], err.strip().splitlines()[-1]

    return main


def test_a_row_for_each_document_and_what_needs_review(run, tmp_path):
    review, table = tmp_path / "review", tmp_path / "out.csv"
    status, rows, said = run("in", "--one-by-one", "--review", review, "--csv", table)
    assert [row["source"] for row in rows] == [f"in/{n}.png" for n in (0, 1, 2)] + ["in/bad.png"]
    good, bad = rows[:3], rows[3]
    assert [row["data"]["rows"] for row in good] == [2, 5, 3] and status == 1
    assert (bad["data"], bad["fields"]) == (None, {}) and "not a picture" in bad["error"]
    assert good[1]["reasons"] == ["rows <= 4: 5 and 4"] == good[1]["fields"]["/rows"]["reasons"]
    needed = sum(f["needs_review"] for row in rows for f in row["fields"].values())
    documents = sum(row["needs_review"] for row in good)
    assert f"4 documents, 1 failed; 6 fields; to review: {needed} field" in said
    assert f"in {documents} document" in said and needed >= 1
    assert sorted(page.name[:5] for page in review.iterdir()) == ["0.png", "1.png", "2.png"]
    with table.open(encoding="utf-8-sig", newline="") as file:
        listed = list(csv.DictReader(file))
    assert [line["rows"] for line in listed] == ["2", "5", "3", ""]
    assert "/rows: rows <= 4: 5 and 4" in listed[1]["reasons"] and listed[3]["error"]


def test_what_was_read_is_not_read_again_and_what_changed_is(run, monkeypatch, tmp_path):
    shutil.copytree("in", here := tmp_path / "mine")
    (here / "bad.png").unlink()
    read, extract = [], command.extract

    def counted(model, source, *rest, **options):
        read.append(Path(source).name)
        return extract(model, source, *rest, **options)

    monkeypatch.setattr(command, "extract", counted)
    options = (here, "--one-by-one", "--no-double-check")
    status, first, _ = run(*options)
    assert (status, len(first), read) == (0, 3, ["0.png", "1.png", "2.png"])
    assert run(*options)[:2] == (0, first) and len(read) == 3
    shutil.copy(here / "0.png", here / "2.png")
    status, second, _ = run(*options)
    assert read[3:] == ["2.png"] and second[2]["data"] == second[0]["data"] and status == 0
    assert run(*options, "--min-confidence", "0.5")[0] == 1 and len(read) == 4  # made otherwise


def test_rows_go_to_stdout(run):
    status, rows, _ = run("in/0.png", "--one-by-one", "--no-double-check", to="-")
    assert (status, [row["data"]["rows"] for row in rows]) == (0, [2])


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["in", "--schema", "nope"], 1, "allowed: the file of a JSON schema, or business_card"),
        (["--schema", "s.json"], 2, "there is no document"),
        (["in", "--schema", "broken.json"], 1, "broken.json: x-checks"),
        (["in", "--min-confidence", "7"], 2, "min_confidence must be between 0 and 1, got 7"),
        (["in", "--schema", "in/0.png"], 1, "in/0.png: not JSON"),
    ],
)
def test_mistakes_cost_no_loading(run, monkeypatch, inbox, words, status, said):
    (inbox / "broken.json").write_text(json.dumps({**SCHEMA, "x-checks": ["rows"]}))
    monkeypatch.setattr(command, "load_model", None)
    ended, rows, line = run(*words)
    assert (ended, rows) == (status, []) and said in line


def test_ready_schemas_are_schemas(run, capsys):
    assert cli.main(["extract", "--list-schemas"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(ready_made()) == 8
    for name in ready_made():
        assert any(line.startswith(f"{name} ") for line in listed)
        assert as_schema(read_schema(name)).root["title"]
    assert {path.stem for path in FOLDER.iterdir()} == {*ready_made()}


# Killed -----------------------------------------------------------------------------------------

SLOWLY = """
import sys, time
from pixtral_mlx import cli
from pixtral_mlx.cli import extract as command
from pixtral_mlx.extraction.fields import Field
from pixtral_mlx.extraction.result import Extraction
from pixtral_mlx.extraction.documents import open_document
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.model.config import PIXTRAL_12B_VISION
def extract(model, source, schema, **options):
    time.sleep(0.01)
    pages = open_document(source, ImageOptions(), PIXTRAL_12B_VISION)
    value = sum(pages[0].picture.image.tobytes()) % 1000
    return Extraction({"value": value}, {"/value": Field(value)}, (), pages)
command.extract, command.load_model = extract, lambda arguments: None
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_killed_run_loses_no_row_and_has_none_twice(inbox, tmp_path):
    """Killed at random moments; the model is a stub, the file of rows and the pages are real. Five
    kills, or as many as `PIXTRAL_KILLS` says."""
    kills = int(os.environ.get("PIXTRAL_KILLS", "5"))
    names = [f"{n}.png" for n in range(2 * kills)]
    (tmp_path / "in").mkdir()
    for n, name in enumerate(names):
        scene(n).image.save(tmp_path / "in" / name)
    words = ["extract", "in", "--schema", str(inbox / "s.json"), "-o", "out.jsonl", "--review", "r"]
    start = [sys.executable, "-c", SLOWLY, *words]
    environment = {**os.environ, "PYTHONPATH": str(HOUSE)}
    output, killed = tmp_path / "out.jsonl", 0
    for attempt in range(3 * kills):
        process = subprocess.Popen(
            start, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        before = output.read_bytes().count(b"\n") if output.exists() else 0
        while process.poll() is None and killed < kills:
            rows = output.read_bytes().count(b"\n") if output.exists() else 0
            if rows > before:
                time.sleep(0.003 * (attempt % 7))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        killed += process.wait() == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert killed == kills and process.returncode == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted(row["source"] for row in rows) == sorted(f"in/{name}" for name in names)
    assert len([*(tmp_path / "r").iterdir()]) == 2 * kills
    assert not [file for file in (tmp_path / "r").iterdir() if file.name.startswith(".")]


# Corrections ------------------------------------------------------------------------------------


@pytest.fixture
def read_once(run, tmp_path):
    """Rows of two documents, and a function that applies decisions."""
    output = tmp_path / "out.jsonl"
    _, rows, _ = run("in/1.png", "in/2.png", "--one-by-one", "--no-double-check")

    def decided(decisions, *words, source="in/1.png"):
        file = tmp_path / "c.json"
        file.write_text(json.dumps({"source": source, "decisions": decisions}))
        return run("--apply", file, *words, to=output)

    return rows, decided


def decision(what, original, value=None):
    return {"decision": what, "original": original, "value": value}


def test_decisions_are_put_into_the_rows_and_the_original_is_kept(read_once, tmp_path):
    rows, decided = read_once
    star = rows[0]["data"]["star"]
    table = tmp_path / "t.csv"
    choices = {"/rows": decision("correct", 5, 4), "/star": decision("null", star)}
    status, after, _ = decided(choices, "--csv", table)
    assert status == 0 and len(after) == 2 and after[0]["source"] == "in/2.png"
    row = after[1]
    assert row["data"] == {"rows": 4, "star": None} and row["needs_review"] is False
    field = row["fields"]["/rows"]
    assert (field["value"], field["original"], field["decision"]) == (4, 5, "correct")
    assert row["fields"]["/star"]["original"] == star
    assert ",4," in table.read_text(encoding="utf-8-sig")
    assert decided({"/rows": decision("accept", 5, 5)})[1][1]["data"]["rows"] == 5


@pytest.mark.parametrize(
    ("decisions", "source", "said"),
    [
        ({"/rows": decision("correct", 3, 4)}, "in/1.png", "it is a page of another run"),
        ({"/nope": decision("accept", 3)}, "in/1.png", "'/nope' is no field"),
        ({"/rows": decision("correct", 5, "x")}, "in/1.png", "would not be valid any more"),
        ({"/rows": {"decision": "drop"}}, "in/1.png", "not what a review page gives"),
        ({}, "in/9.png", "there is no row of it"),
    ],
)
def test_decisions_that_do_not_fit_change_nothing(read_once, decisions, source, said):
    rows, decided = read_once
    status, after, line = decided(decisions, source=source)
    assert status == 1 and said in line and after == rows


def test_pdfs_are_read_with_their_page(run, tmp_path):
    (tmp_path / "x.pdf").write_bytes(make_text([(20, 20, 12, "rows 3")], [(20, 20, 12, "x")]))
    source = f"{tmp_path / 'x.pdf'}#page=2"
    status, (row,), _ = run(
        source,
        "--one-by-one",
        "--no-double-check",
        "--image-budget",
        "40",
        "--review",
        tmp_path / "r",
    )
    assert status == 0 and [page["page"] for page in row["pages"]] == [2]
    assert row["fields"]["/rows"]["page"] == 2
