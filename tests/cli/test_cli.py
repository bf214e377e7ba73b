"""The commands, as people and scripts use them: in a process of their own where that matters."""

import json
import re
import resource
import subprocess
import sys
from dataclasses import replace

import pytest
from commands import ASK, COMMAND, environment, run
from mlx.utils import tree_flatten
from pdfs import make_blank
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx import cli
from pixtral_mlx.cost import pace
from pixtral_mlx.cost.cost import decode_bytes, step_weight_bytes
from pixtral_mlx.mini import scene

HEAVY = (
    "mlx",
    "numpy",
    "PIL",
    "mlx_lm",
    "mistral_common",
    "transformers",
    "huggingface_hub",
    "tqdm",
    "http.client",  # and with it what fetches pictures
)
PYTHON = (sys.executable, "-W", "error")


# Starting -------------------------------------------------------------------------------------


def test_help_answers_at_once():
    def seconds(*arguments) -> float:
        """Of the processor: a clock would measure what else the machine does."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(arguments, capture_output=True, env=environment(), check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = min(seconds(sys.executable, "-c", "pass") for _ in range(3))
    assert min(seconds(*COMMAND, "--help") for _ in range(3)) - bare < 0.3


def test_help_and_mistakes_of_usage_import_nothing_heavy():
    code = f"""if True:
        import sys
        from pixtral_mlx.cli import main
        for words in (["--help"], ["generate", "--help"], ["--version"], ["generate"], ["x"]):
            try:
                main(words)
            except SystemExit:
                pass
        print([name for name in {HEAVY} if name in sys.modules])"""
    done = subprocess.run(
        [*PYTHON, "-c", code], capture_output=True, env=environment(), check=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_helps(capsys):
    for command in ("demo", "convert", "generate", "chat", "inspect", "bench"):
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        assert ended.value.code == 0
        assert f"pixtral-mlx {command}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"pixtral-mlx {px.__version__}\n"


# The main job ---------------------------------------------------------------------------------


def test_convert_then_generate_end_to_end(places):
    """The library and the command say the same; stdout holds the answer and nothing else."""
    done = run(*ASK, "--image", "picture.png", "--stats", cwd=places)
    assert done.returncode == 0
    reply = px.load(places / "4bit").generate(
        "What is this?", images=[places / "picture.png"], max_tokens=6
    )
    assert done.stdout.decode() == reply.text + "\n"
    cut, stats = done.stderr.splitlines()
    assert cut == b"note: the answer was cut at --max-tokens 6: raise it to see the rest"
    assert stats.startswith(b"prompt ")
    assert b"answer 6 tokens" in done.stderr
    assert done.stderr.endswith(b"; float32 products in float32\n")


def test_json(here, capsys):
    assert here(*ASK, "--image", "picture.png", "--json") == 0
    said = capsys.readouterr()
    reply = json.loads(said.out)
    assert said.err == "" and said.out.count("\n") == 1
    assert reply["finish_reason"] == "length"
    assert len(reply["tokens"]) == len(reply["logprobs"]) == 6
    assert reply["stats"]["image_tokens"] == 3 * 6


def test_the_same_question_through_flags_and_pipes(here, places, capsys):
    here(*ASK, "--image", "picture.png")
    expected = capsys.readouterr().out
    picture = (places / "picture.png").read_bytes()
    piped = ["-" if word == "What is this?" else word for word in ASK]
    assert here(*ASK, "--image", "-", stdin=picture) == 0
    assert capsys.readouterr().out == expected
    for text in (b"What is this?", b"What is this?\n", b"\xef\xbb\xbfWhat is this?\r\n"):
        assert here(*piped, "--image", "picture.png", stdin=text) == 0
        assert capsys.readouterr().out == expected


def test_options_reach_the_model(here, capsys):
    def answer(*options) -> str:
        assert here(*ASK, *options) == 0
        return capsys.readouterr().out

    plain = answer()
    warm = ("--temperature", "5", "--seed")
    assert answer(*warm, "1") == answer(*warm, "1") != answer(*warm, "2")
    assert answer("--stop", plain[:3]) == "\n"
    assert answer("--max-tokens", "2") == answer("--max-tokens", "2", "--prefill-step-size", "1")
    assert answer("--system", "Be brief.") != plain != answer("--raw")
    token = json.loads(answer("--json"))["tokens"][0]
    assert answer("--logit-bias", f"{token}=-100") != plain
    assert answer("--repetition-penalty", "3", "--top-p", "0.9", "--top-k", "5", "--min-p", "0.1")
    assert answer("--dtype", "float32", "--force")


def test_prompt_lookup_is_counted(here, capsys):
    words = ["official" if word == "4bit" else word for word in ASK]  # 4 bits draft nothing here
    ask = (*words, "--logit-bias", "117=99", "--stats", "--json")
    said = []
    for flag in ((), ("--prompt-lookup-num-tokens", "4")):
        assert here(*ask, *flag) == 0
        said.append(capsys.readouterr())
    plain, copied = (json.loads(one.out) for one in said)
    assert copied["tokens"] == plain["tokens"] == [117] * 6
    assert plain["stats"]["drafted_tokens"] == 0
    assert copied["stats"]["drafted_tokens"] == copied["stats"]["accepted_tokens"] == 2
    assert "answer 6 tokens, " in said[0].err
    assert "answer 6 tokens (2 of 2 drafted ones accepted), " in said[1].err


def test_image_options_reach_the_pictures(here, places, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(places / "picture.png").save(places / "turned.png", exif=exif)
    grids = []
    for flag in ((), ("--no-orient",)):
        assert here(*ASK, "--image", "turned.png", "--json", *flag) == 0
        grids.append(json.loads(capsys.readouterr().out)["stats"]["image_tokens"])
    assert grids == [5 * 4, 3 * 6]
    assert here("inspect", "turned.png") == 0
    assert "40 x 70 pixels, RGB, turned upright (EXIF orientation 6)" in capsys.readouterr().out
    for flag in (("--resize", "antialiased"), ("--grey16", "clip")):
        assert here(*ASK, "--image", "picture.png", *flag) == 0


def test_dry_run_prints_the_plan_and_writes_nothing(here, places, capsys):
    assert here("convert", "official", "planned", "--dry-run", "--bits", "8") == 0
    said = capsys.readouterr()
    assert "decoder.layers.0.attention.wq.weight" in said.out or "wq" in said.out
    assert said.err == "" and not (places / "planned").exists()


# Chat -----------------------------------------------------------------------------------------


def test_chat_through_a_pipe(here, capsys):
    lines = (
        "/image picture.png\nWhat is this?\n\nAnd now?\n/help\n/reset\nAgain?\n/exit\nnot read\n"
    )
    arguments = ("chat", "--model", "4bit", "--max-tokens", "4", "--system", "Be brief.")
    assert here(*arguments, stdin=lines.encode()) == 0
    said = capsys.readouterr()
    assert said.err == "70 x 40 pixels; 1 waiting\n"
    assert "/reset        forget" in said.out
    assert here(*arguments, stdin=b"Again?") == 0
    assert said.out.splitlines()[-1] == capsys.readouterr().out.splitlines()[-1]


def test_a_chat_survives_mistakes_and_reports_them(here, capsys):
    lines = b"/image none.png\n/nothing\n\xff\xfe\nHello\r\n"
    assert here("chat", "--model", "4bit", "--max-tokens", "3", stdin=lines) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "! none.png: no such file: give the path of an image file",
        "! /nothing is not a command; /help lists them",
    ]
    assert len(said.out.splitlines()) >= 2


# Inspect, bench, demo -------------------------------------------------------------------------


def test_inspect_a_model(here, capsys):
    assert here("inspect", "4bit", "--check") == 0
    text = capsys.readouterr().out
    for part in ("vision encoder", "projector", "decoder", "4 bits, groups of 64", "tekken.json"):
        assert part in text
    assert "tensors checked: no NaN" in text
    assert here("inspect", "official", "--json") == 0
    official = json.loads(capsys.readouterr().out)
    assert here("inspect", "4bit", "--json") == 0
    converted = json.loads(capsys.readouterr().out)
    assert official["parameters"] == converted["parameters"]
    assert official["bytes"] > 2 * converted["bytes"]


def test_inspect_an_image(here, places, capsys, tmp_path):
    assert here("inspect", "picture.png", "-o", tmp_path / "grid.png") == 0
    said = capsys.readouterr().out
    assert "3 rows x 5 columns = 15 patches" in said
    assert re.search(
        r"rows 1 to 2 +\[IMG\] x 5  \[IMG_BREAK\]\n +row 3 +\[IMG\] x 5  \[IMG_END\]", said
    )
    assert Image.open(tmp_path / "grid.png").size > (70, 40)
    assert here("inspect", "-", "--json", stdin=(places / "picture.png").read_bytes()) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 18


def test_inspect_a_pdf(here, capsys, tmp_path):
    file = tmp_path / "report.pdf"
    file.write_bytes(make_blank((612, 792), (792, 612), (100, 1000), (300, 300)))
    assert here("inspect", f"{file}#page=1,3-4", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    sizes = [
        [page[key] for key in ("page", "rows", "columns", "tokens")] for page in report["pages"]
    ]
    assert sizes == [[1, 64, 50, 64 * 51], [3, 64, 7, 64 * 8], [4, 64, 64, 64 * 65]]
    assert report["tokens"] == 64 * (51 + 8 + 65)
    model = px.load("mini")  # counts the same for a page of its own size
    prompt = model.encode("x", images=[f"{file}#page=1"])
    assert [(grid.rows, grid.columns) for grid in prompt.grids] == [(64, 50)]
    seconds = [page["seconds"] for page in report["pages"]]
    assert 0 < seconds[1] < seconds[0] < seconds[2] < sum(seconds) < report["seconds"]
    assert here("inspect", "-", "--image-budget", "500", stdin=file.read_bytes()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("stdin: ") and lines[1].split()[:3] == ["page", "pixels", "patches"]
    tokens = [int(line.split()[-2].replace(",", "")) for line in lines[2:-1]]
    assert len(tokens) == 5 and max(tokens[:4]) <= 500 and sum(tokens[:4]) == tokens[4]
    assert here("inspect", f"{file}#page=2", "-o", tmp_path / "grid.png") == 0
    assert Image.open(tmp_path / "grid.png").width > 1000
    assert here("inspect", file, "-o", tmp_path / "grids.png") == 1
    assert "-o draws one page of 4: choose it with #page=1" in capsys.readouterr().err
    assert here("inspect", "picture.png#page=1") == 1
    assert "picture.png: #page=1 chooses pages, and this has none" in capsys.readouterr().err


def test_the_expected_speed_is_the_chip_s_or_measured(monkeypatch):
    measured = pace.operations_per_second()
    assert measured.per_second > 0 and "multiplies" in measured.source
    monkeypatch.setattr(pace, "on_gpu", lambda: True)
    monkeypatch.setattr(pace.mx, "device_info", lambda: {"device_name": "Apple M4"})
    known = pace.operations_per_second()
    assert known == (10 * 128 * 2 * 1.58e9 / 2, "what an Apple M4 is")


def test_bench(here, capsys, caplog, tmp_path):
    small = ("--prompt-tokens", "8", "--max-tokens", "2", "--runs", "1", "--bandwidth", "50")
    small += ("--image-size", "32x16", "48")
    file = tmp_path / "bench.json"
    assert here("bench", "--model", "4bit", *small, "--json", file) == 0
    text = capsys.readouterr().out
    assert re.search(r"measuring takes about 0\.\d s \(an estimate\)", caplog.text)
    table = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [row[0] for row in cells[2:]] == ["8 words", "32x16 image", "48x48 image"]
    assert len({line.count("|") for line in table}) == len({len(line) for line in table}) == 1
    assert "Bandwidth 50 GB/s, given (--bandwidth)" in text and "share of the bound says" in text
    report = json.loads(file.read_text())
    assert report["machine"].keys() >= {"system", "chip", "device", "memory_bytes"}
    assert report["versions"]["pixtral-mlx"] == px.__version__
    assert report["settings"]["max_tokens"] == 2 and report["bandwidth"]["kind"] == "given"
    assert report["open_seconds"] > 0 and report["first_token_after_open_seconds"] > 0
    costs = report["pass_costs"]
    assert costs["1"] == 1 and costs["2"] > 0 and report["most_drafted"] == 64  # see conftest
    said = f"takes 1: {costs['2']:.2f} for 2, {costs['4']:.2f} for 4; prompt lookup would draft 64."
    assert said in text
    words, wide, square = report["results"].values()
    assert (words["prompt_tokens"], wide["vision_seconds"] > 0) == (8, True)
    assert square["prompt_tokens"] - wide["prompt_tokens"] == 12 - 3
    model = px.load("4bit")
    sizes = {name: array.nbytes for name, array in tree_flatten(model.parameters())}
    context = decode_bytes(step_weight_bytes(sizes), model.config.text, 8 + 1)  # half of 2 tokens
    assert words["decode_step_bytes"] == context
    for row, r in zip(cells[2:], report["results"].values(), strict=True):
        speed = r["decode_tokens_per_second"]
        assert r["decode_gigabytes_per_second"] == pytest.approx(
            speed * r["decode_step_bytes"] / 1e9
        )
        assert r["decode_share_of_bound"] == pytest.approx(
            speed / r["decode_bound_tokens_per_second"]
        )
        assert r["decode_bound_tokens_per_second"] == pytest.approx(50e9 / r["decode_step_bytes"])
        assert row[5] == f"{speed:,.1f}" and r["peak_bytes"] > report["weights_bytes"]
    assert here("bench", "--model", "4bit", *small, "--json", file) == 2
    assert "already exists" in capsys.readouterr().err
    assert here("bench", "--model", "4bit", *small, "--json") == 0
    assert json.loads(capsys.readouterr().out)["results"].keys() == report["results"].keys()


def test_bench_of_random_weights(here, capsys, monkeypatch):
    """The 12B's own widths would take minutes on a CPU: a small model stands in."""
    import pixtral_mlx.model.config as config

    mini = px.load("mini").config
    words = config.PIXTRAL_12B.text.vocab_size
    text = replace(mini.text, vocab_size=words)
    monkeypatch.setattr(config, "PIXTRAL_12B", px.PixtralConfig(text, mini.vision))
    small = ("--prompt-tokens", "4", "--max-tokens", "2", "--runs", "1", "--image-size", "16")
    small += ("--bandwidth", "50", "--dtype", "float32")
    assert here("bench", "--random", "0.5", *small) == 0
    said = capsys.readouterr()
    assert said.out.startswith("random weights in 4 bits, 50 % of Pixtral 12B's layers")
    assert "16x16 image" in said.out and "pixtral-mini" not in said.err
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: 10**6)
    assert here("bench", "--random", "0.5", *small) == 1
    assert "1.0 MB are available" in capsys.readouterr().err


def test_demo(here, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert here("demo", "--keep", tmp_path / "kept") == 0
    text = capsys.readouterr().out
    assert "converted to 4 bits" in text
    answers = [line for line in text.splitlines() if "(confidence " in line]
    assert len(answers) == 5
    assert sum(line.endswith(", right)") for line in answers) >= 4
    assert Image.open("demo.png").width > 500
    assert here("inspect", tmp_path / "kept") == 0
    assert here("demo") == 0  # again: nothing is overwritten
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["demo-2.png", "demo.png"]


def test_mini_answers_and_says_what_it_does_not_know(tmp_path):
    question = scene(10**9 + 3, rows=2, columns=3).questions[0]
    question.images[0].save(tmp_path / "scene.png")
    words = [sys.executable, "-m", "pixtral_mlx", "generate", "--dtype", "float32"]
    words += ["--image", str(tmp_path / "scene.png"), "--prompt", question.text]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == question.answer
    assert done.stderr.startswith("note: pixtral-mini knows only scenes of its own")
    assert done.stderr.count("\n") == 1


def test_inspect_notes_dim_grey_once(tmp_path):
    Image.new("I;16", (32, 32), 4095).save(tmp_path / "dim.png")
    done = run("inspect", tmp_path / "dim.png")
    assert (done.returncode, done.stderr.count(b"it states no depth")) == (0, 1)
