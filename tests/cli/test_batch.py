"""`pixtral-mlx batch`: a row a file, whatever happens meanwhile."""

import csv
import hashlib
import json
import os
import shutil
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
    if Path(path).suffix.lower() == ".csv":
        with RowFile(Path(path), {}) as file:
            return file.rows
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
            "sha256": hashlib.sha256(Path("scans", name).read_bytes()).hexdigest(),
        }
    broken = by_file["scans/broken.JPG"]
    assert broken["answer"] is None and "scans/broken.JPG: not a picture" in broken["error"]
    *said, last = capsys.readouterr().err.splitlines()
    assert last.startswith("Read it: ") and last.endswith("out.jsonl")
    assert said[-1].endswith("out.jsonl: 6 rows, 1 of them with an error")
    assert said[-2] == "5 answers were cut at --max-tokens 6"
    assert said[-3].startswith("! scans/broken.JPG: not a picture")
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
    with pytest.raises(px.ImageError, match="scans/deeper: no picture and no PDF"):
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
    assert "line 1 is not a row of this command" in capsys.readouterr().err


# What changes meanwhile ------------------------------------------------------------------------


@pytest.fixture
def changing(inbox, tmp_path, run_batch):
    """A folder of the test's own: `changing.batch(...)` asks about what is in it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("0.png", "1.png", "report.pdf"):
        shutil.copy(inbox / "scans" / name, folder)
    return folder


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_file_whose_content_changed_is_asked_again(
    changing, inbox, run_batch, tmp_path, monkeypatch, ending
):
    to = tmp_path / f"out.{ending}"
    before = {row["file"]: row for row in run_batch(changing, to=to)[1]}
    shutil.copy(inbox / "scans" / "2.png", changing / "0.png")
    os.utime(changing / "1.png", (1, 1))  # its date says nothing
    (changing / "new.png").write_bytes(b"no picture")
    after = run_batch(changing, to=to)[1]
    assert sorted(Path(row["file"]).name for row in after[2:]) == ["0.png", "new.png"]
    assert len(after) == 4
    changed = {row["file"]: row for row in after}
    for name in ("1.png", "report.pdf"):
        assert changed[str(changing / name)] == before[str(changing / name)]
    assert changed[str(changing / "0.png")]["answer"] == expected(changing / "0.png").text
    assert changed[str(changing / "new.png")]["error"]
    shutil.copy(inbox / "scans" / "3.png", changing / "new.png")  # mended
    assert {row["error"] for row in run_batch(changing, to=to)[1]} == {None}
    monkeypatch.setattr(batch, "load_model", None)  # nothing is left to ask
    assert len(run_batch(changing, to=to)[1]) == 4


def test_pages_that_are_gone_lose_their_rows(changing, run_batch):
    file = changing / "report.pdf"
    assert [row["page"] for row in run_batch(file, "--per-page")[1]] == [1, 2, 3]
    file.write_bytes(make_pdf(2))
    rows = run_batch(file, "--per-page")[1]
    assert [row["page"] for row in rows] == [1, 2]
    assert {row["sha256"] for row in rows} == {hashlib.sha256(file.read_bytes()).hexdigest()}


def test_rows_of_earlier_versions_count(changing, run_batch, tmp_path, monkeypatch):
    to = tmp_path / "out.jsonl"
    _, rows = run_batch(changing)
    for row in rows:
        del row["sha256"]
    to.write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    monkeypatch.setattr(batch, "load_model", None)
    assert cli.main(["batch", str(changing), "--prompt", "What?", "--model", "model",
                     "--max-tokens", "6", "-o", str(to)]) == 0  # fmt: skip


def test_an_address_that_failed_is_asked_again(inbox, run_batch):
    address = "http://127.0.0.1:9/none.png"  # nobody answers there
    for _ in range(2):
        status, rows = run_batch(address)
        assert status == 1 and len(rows) == 1 and "could not be fetched" in rows[0]["error"]
    shown = []
    batch_rows = RowFile(inbox / "seen.jsonl", MADE)
    with batch_rows as rows:
        rows.add({"file": address, "answer": None, "error": "x", "sha256": None})
        rows.add({"file": "http://x/fine.png", "answer": "", "error": None, "sha256": None})
        items = find_items([address, "http://x/fine.png"])
        shown = batch.left(items, rows, batch.Contents())
    assert [item.file for item in shown] == [address]


def test_a_kill_between_the_new_row_and_the_end_loses_nothing(tmp_path):
    path = tmp_path / "out.jsonl"
    old, new = ROW | {"sha256": "1"}, ROW | {"sha256": "2"}
    with RowFile(path, MADE) as file:
        file.add(old)
        file.add(ROW | {"file": "c.png"})
    rows = RowFile(path, MADE)
    rows.add(new)
    rows._file.close()  # as a kill does
    assert len(read(path)) == 3
    os.chmod(path, 0o640)
    with RowFile(path, MADE) as file:
        assert [(row["file"], row.get("sha256")) for row in file.rows] == [
            ("c.png", None), ("b.png", "2"),
        ]  # fmt: skip
    assert [row["file"] for row in read(path)] == ["c.png", "b.png"]
    assert path.stat().st_mode & 0o777 == 0o640


# Other names and forms ------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_names_that_are_not_utf8_have_their_rows(
    changing, run_batch, tmp_path, monkeypatch, capsys, ending
):
    odd = os.fsdecode(os.fsencode(changing) + b"/caf\xe9.png")
    shutil.copy(changing / "1.png", odd)
    worse = os.fsdecode(os.fsencode(changing) + b"/\xff\xfe.png")
    Path(worse).write_bytes(b"no picture")
    to = tmp_path / f"out.{ending}"
    status, rows = run_batch(changing, to=to)
    by_file = {row["file"]: row for row in rows}
    assert status == 1 and len(rows) == 5
    assert by_file[odd]["answer"] == by_file[str(changing / "1.png")]["answer"]
    assert by_file[worse]["error"] and "! " in capsys.readouterr().err
    to.read_text("utf-8")  # the file itself is UTF-8
    monkeypatch.setattr(batch, "load_model", None)
    assert run_batch(changing, to=to)[1] == rows


def test_csv_opens_in_spreadsheets_and_goes_on(changing, run_batch, tmp_path, capsys):
    to = tmp_path / "out.CSV"
    _, lines = run_batch(changing, "--per-page", "--temperature", "1", "--seed", "1")
    _, rows = run_batch(changing, "--per-page", "--temperature", "1", "--seed", "1", to=to)
    wanted = {(row["file"], row.get("page")): row for row in lines}
    assert {(row["file"], row.get("page")): row for row in rows} == wanted
    data = to.read_bytes()
    assert data.startswith(b"\xef\xbb\xbffile,page,answer,")
    with to.open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["page"] for row in table if row["page"]] == ["1", "2", "3"]
    assert [row["answer"] for row in table] == [row["answer"] for row in rows]
    assert run_batch(changing, "--per-page", "--temperature", "2", to=to)[0] == 1
    assert "line 2 was made with options" in capsys.readouterr().err


TEXTS = ('a "b", c\r\nd\n', "", "\r", '"', ",", "\n\n", "=1+1", "Grün 图", "\0", " x ")


def test_a_csv_cut_off_anywhere_goes_on(tmp_path):
    path = tmp_path / "out.csv"
    rows = [
        {"file": f"{n}.png", **MADE, "answer": text, "error": None, "options": {"a": [text]},
         "finish_reason": "stop", "prompt_tokens": n, "image_tokens": 0, "generated_tokens": 1,
         "sha256": None}
        for n, text in enumerate(TEXTS)
    ]  # fmt: skip
    made = MADE | {"options": rows[0]["options"]}
    for row in rows:
        row["options"] = made["options"]
    with RowFile(path, made) as file:
        for row in rows:
            file.add(row)
    whole = path.read_bytes()
    with RowFile(path, made) as file:
        assert file.rows == rows
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with RowFile(path, made) as file:
            kept = len(file.rows)
            assert file.rows == rows[:kept]
            for row in rows[kept:]:
                file.add(row)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"My notes", b"file,page\n", b"\xff\n"])
def test_csv_files_of_others_are_left_alone(run_batch, tmp_path, capsys, content):
    other = tmp_path / "notes.csv"
    other.write_bytes(content)
    assert cli.main(["batch", "scans/0.png", "--prompt", "What?", "-o", str(other)]) == 1
    assert other.read_bytes() == content
    assert "line 1 is not a row of this command" in capsys.readouterr().err


def test_a_dash_is_stdout(changing, run_batch, capsys):
    _, wanted = run_batch(changing)
    capsys.readouterr()
    words = ["batch", str(changing), "--prompt", "What?", "--max-tokens", "6", "-o", "-"]
    assert cli.main([*words, "--model", "model"]) == 0
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert sorted(rows, key=str) == sorted(wanted, key=str)
    assert said.err.splitlines()[-1] == "stdout: 3 rows" and not Path("-").exists()


def test_many_failures_are_counted(run_batch, tmp_path, capsys):
    for n in range(batch.MOST_NAMED + 2):
        (tmp_path / f"{n:02}.png").write_bytes(b"no picture")
    assert run_batch(tmp_path)[0] == 1
    said = capsys.readouterr().err.splitlines()
    assert [line[:2] for line in said[:-1]] == ["! "] * (batch.MOST_NAMED + 1)
    assert said[-2] == "! and 2 more: their rows say why"


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
    left_out = "note: left out, neither picture nor PDF: notes.txt"
    assert len(said) == 1 or said[0] == left_out
