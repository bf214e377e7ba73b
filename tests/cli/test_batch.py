"""`pixtral-mlx batch`: a row a file, whatever happens meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cases import picture
from checkpoints import make_official
from pdfs import make_pdf

import pixtral_mlx as px
from pixtral_mlx import cli
from pixtral_mlx.cli import batch
from pixtral_mlx.cli.batch import find_items
from pixtral_mlx.cli.row_file import RowFile

HOUSE = Path(__file__).parents[2]
MADE = {"model": "m", "prompt": "What?", "options": {}}
ROW = {"file": "b.png", "answer": "Grün\n", "error": None}


@pytest.fixture(scope="module")
def inbox(tmp_path_factory):
    """A model, and a folder of four pictures, a PDF, a damaged picture and a text."""
    folder = tmp_path_factory.mktemp("batch files")
    make_official(folder / "model", vision={"image_size": 64})
    scans = folder / "scans"
    scans.mkdir()
    for n, size in enumerate([(40, 30), (64, 64), (20, 60), (33, 17)]):
        picture(*size, seed=n).save(scans / f"{n}.png")
    (scans / "report.pdf").write_bytes(make_pdf(3))
    (scans / "broken.JPG").write_bytes(b"no picture")
    (scans / "notes.txt").write_text("left out")
    (scans / ".hidden.png").write_bytes(b"")
    (scans / "deeper").mkdir()
    return folder


@pytest.fixture
def run_batch(inbox, tmp_path, monkeypatch):
    """Run the command in this process: `run_batch("scans", ...)` is (status, rows)."""
    monkeypatch.chdir(inbox)
    output = tmp_path / "out.jsonl"

    def main(*words, to=output):
        words = [*map(str, words)]
        if "--prompt" not in words:
            words += ["--prompt", "What?"]
        options = ["--max-tokens", "6"] if "--max-tokens" not in words else []
        model = ["--model", "model"] if "--model" not in words else []
        status = cli.main(["batch", *words, *model, *options, "-o", str(to)])
        return status, read(to)

    return main


def read(path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def expected(file, **options):
    model = px.load("model")
    return model.generate("What?", images=[file], max_tokens=6, reuse=False, **options)


# Rows ------------------------------------------------------------------------------------------


def test_a_row_for_each_file_of_a_folder(run_batch, capsys):
    status, rows = run_batch("scans")
    assert status == 1  # one picture is damaged
    by_file = {row["file"]: row for row in rows}
    names = ["0.png", "1.png", "2.png", "3.png", "broken.JPG", "report.pdf"]
    assert sorted(by_file) == [f"scans/{name}" for name in names] and len(rows) == len(names)
    for name in ("1.png", "report.pdf"):
        row, reply = by_file[f"scans/{name}"], expected(f"scans/{name}")
        assert row == {
            "file": f"scans/{name}",
            "model": "model",
            "prompt": "What?",
            "options": {"max_tokens": 6},
            "answer": reply.text,
            "finish_reason": "length",
            "prompt_tokens": reply.stats.prompt_tokens,
            "image_tokens": reply.stats.image_tokens,
            "generated_tokens": 6,
            "error": None,
        }
    broken = by_file["scans/broken.JPG"]
    assert broken["answer"] is None and "scans/broken.JPG: not an image" in broken["error"]
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith("out.jsonl: 6 rows, 1 of them with an error")
    assert not any("row/s" in line for line in said)  # no bar without a terminal


def test_a_row_for_each_page(run_batch):
    status, rows = run_batch("scans/report.pdf#page=2-3", "scans/0.png", "--per-page")
    assert status == 0
    assert sorted((row["file"], row.get("page", 0)) for row in rows) == [
        ("scans/0.png", 0), ("scans/report.pdf", 2), ("scans/report.pdf", 3),
    ]  # fmt: skip
    third = next(row for row in rows if row.get("page") == 3)
    assert third["image_tokens"] == 20
    assert third["answer"] == expected("scans/report.pdf#page=3").text
    assert run_batch("scans/report.pdf", "--per-page")[1][:3] == rows  # the first page is added
    assert [row["page"] for row in run_batch("scans/report.pdf", "--per-page")[1][3:]] == [1]


def test_options_reach_the_model_and_the_rows(run_batch):
    words = ("--system", "Short.", "--temperature", "1.5", "--seed", "3", "--max-tokens", "5")
    _, (row,) = run_batch("scans/0.png", *words)
    wanted = {"system": "Short.", "temperature": 1.5, "seed": 3, "max_tokens": 5}
    assert row["options"] == wanted
    asked = [
        {"role": "system", "content": "Short."},
        {"role": "user", "content": [
            {"type": "image", "image": "scans/0.png"}, {"type": "text", "text": "What?"},
        ]},
    ]  # fmt: skip
    alone = px.load("model").generate(asked, temperature=1.5, seed=3, max_tokens=5)
    assert row["answer"] == alone.text


def test_files_are_taken_once_and_missing_ones_named(inbox, monkeypatch):
    monkeypatch.chdir(inbox)
    names = ["scans/1.png", "scans", "scans/../scans/0.png", "scans/report.pdf#page=2"]
    files = [item.file for item in find_items(names)]
    assert files[0] == "scans/1.png" and len(files) == len(set(files)) == 7
    assert "scans/../scans/0.png" not in files  # the first name of a file counts
    assert [item.file for item in find_items(["scans/notes.txt"])] == ["scans/notes.txt"]
    with pytest.raises(px.ImageError, match=r"missing\.png: no such file or folder"):
        find_items(["scans", "missing.png"])
    with pytest.raises(px.ImageError, match="scans/deeper: no image and no PDF"):
        find_items(["scans/deeper"])


# Going on --------------------------------------------------------------------------------------


def test_it_goes_on_where_it_stopped(run_batch, monkeypatch):
    _, first = run_batch("scans/0.png", "scans/1.png")
    _, rows = run_batch("scans")
    assert rows[:2] == first and len(rows) == len({row["file"] for row in rows}) == 6
    monkeypatch.setattr(batch, "load_model", None)  # nothing is left to ask
    assert run_batch("scans")[1] == rows


def test_kill_and_go_on(inbox, tmp_path):
    output = tmp_path / "out.jsonl"
    many = inbox / "many"
    many.mkdir()
    for n in range(40):
        picture(30 + n, 20, seed=n).save(many / f"{n:02}.png")
    words = ["batch", str(many), "--model", str(inbox / "model"), "--prompt", "What?"]
    command = [sys.executable, "-m", "pixtral_mlx", *words, "--max-tokens", "30"]
    environment = os.environ | {"PYTHONPATH": str(HOUSE)}

    def start(batch_size):
        return subprocess.Popen(
            [*command, "-o", str(output), "--batch-size", batch_size],
            env=environment, stderr=subprocess.PIPE,
        )  # fmt: skip

    def lines():
        return output.read_bytes().count(b"\n") if output.exists() else 0

    # SIGABRT is how macOS ends a process whose GPU worked too long.
    for end, least in ((signal.SIGABRT, 5), (signal.SIGKILL, 15)):
        process, deadline = start("2"), time.monotonic() + 300
        while lines() < least and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(end)
        process.communicate(timeout=60)
        assert process.returncode == -end and least <= lines() < 40
    with output.open("ab") as file:  # as if the kill had struck inside a line
        file.write(b'{"file": "' + str(many).encode())
    before = output.read_bytes()
    process = start("4")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and b"its last line was cut off" in said
    assert output.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    rows = {row["file"]: row for row in read(output)}
    assert len(read(output)) == 40 and len(rows) == 40
    alone = px.load(inbox / "model").generate_batch(
        [{"messages": "What?", "images": [many / f"{n:02}.png"]} for n in range(40)], max_tokens=30
    )
    for n, reply in enumerate(alone):
        row = rows[str(many / f"{n:02}.png")]
        assert (row["answer"], row["generated_tokens"]) == (reply.text, len(reply.tokens))


def test_a_last_line_cut_off_anywhere_is_written_again(tmp_path):
    path = tmp_path / "out.jsonl"
    with RowFile(path, MADE) as file:
        file.add({"file": "a.png", "answer": "Red", "error": None})
        file.add(ROW)
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        with RowFile(path, MADE) as file:
            assert [row["file"] for row in file.rows] == ["a.png"]
            file.add(ROW)
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "words",
    [("--prompt", "Which?"), ("--model", "mini"), ("--temperature", "1"), ("--per-page",)],
)
def test_rows_made_otherwise_are_not_mixed(run_batch, capsys, words):
    _, rows = run_batch("scans/0.png")
    status, after = run_batch("scans/0.png", "scans/1.png", *words)
    assert (status, after) == (1, rows)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "line 1 was made with" in said and "or --overwrite" in said
    _, new = run_batch("scans/1.png", "scans/2.png", "--overwrite", *words)
    assert sorted(row["file"] for row in new) == ["scans/1.png", "scans/2.png"]


@pytest.mark.parametrize(
    "content",
    [
        b"My notes.\n", b"My notes", b'{"a": 1}\n', b"[1]\n", b"\xff\xfe\n", b'{"file": "x"}\n',
        b'{"files": 1',
    ],
)  # fmt: skip
def test_files_of_others_are_left_alone(run_batch, tmp_path, capsys, content):
    other = tmp_path / "notes"
    other.write_bytes(content)
    assert cli.main(["batch", "scans/0.png", "--prompt", "What?", "-o", str(other)]) == 1
    assert other.read_bytes() == content
    assert "line 1 is no row of this command" in capsys.readouterr().err


def test_overwriting_waits_for_the_first_row(run_batch, tmp_path):
    _, rows = run_batch("scans/0.png")
    output = tmp_path / "out.jsonl"
    words = ["batch", "scans/1.png", "--prompt", "What?", "--overwrite", "-o", str(output)]
    assert cli.main([*words, "--model", "no-such-folder/at/all"]) == 1
    assert read(output) == rows


def test_two_processes_do_not_write_to_one_file(tmp_path):
    path = tmp_path / "out.jsonl"
    with RowFile(path, MADE), pytest.raises(px.PixtralError, match="another process writes"):
        RowFile(path, MADE)
    with RowFile(path, MADE) as file:
        assert file.rows == []


@pytest.mark.parametrize(
    "words",
    [("--kv-bits", "8"), ("--batch-size", "0"), ("--max-tokens", "0"), ("--system", "x", "--raw")],
)
def test_mistakes_of_usage_make_no_file(inbox, tmp_path, capsys, words):
    output = tmp_path / "out.jsonl"
    words = ["batch", str(inbox / "scans"), "--prompt", "x", "-o", str(output), *words]
    assert cli.main(words) == 2
    assert not output.exists()
    said = capsys.readouterr().err.splitlines()
    left_out = "note: left out, neither image nor PDF: notes.txt"
    assert len(said) == 1 or said[0] == left_out
