"""Options in full, and names of files as people and terminals write them."""

import argparse
import re
from pathlib import Path

import pytest
from commands import HOUSE, run

import pixtral_mlx as px
from pixtral_mlx.cli.parser import build_parser
from pixtral_mlx.inputs.image import open_image


def _options() -> dict[str, list[str]]:
    """The long options of every command."""
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    found = {}
    for name, parser in commands.choices.items():
        fill, parser._fill = parser._fill, None
        if fill is not None:
            fill(parser)
        found[name] = [o for o in parser._option_string_actions if o.startswith("--")]
    return found


OPTIONS = _options()


def test_every_option_is_written_in_full(refused):
    """Whatever is left out of its end, and whatever is missing beside it."""
    for command, options in OPTIONS.items():
        for option in options:
            for length in {len("--") + 1, len(option) // 2, len(option) - 1}:
                short = option[: max(length, 3)]
                if short not in options:
                    said = refused(
                        2, f"there is no option {short}: did you mean --", command, short
                    )
                    others = [o for o in options if o.startswith(short)]
                    assert len(others) > 3 or option in said
                    refused(2, f"there is no option {short}:", command, f"{short}=3")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "--promt", "Hi"), "no option --promt: did you mean --prompt?"),
        (("generate", "--promt=What is this?"), "did you mean --prompt?"),
        (("generate", "--max_tokens", "3", "--prompt", "x"), "did you mean --max-tokens?"),
        (("batch", "x.png", "-output", "y"), "no option -output: did you mean --output?"),
        (("convert", "mini", "x", "-bits=4"), "no option -bits: did you mean --bits?"),
        (("chat", "--xyzzy"), "there is no option --xyzzy (see pixtral-mlx chat --help)"),
        (("--versio",), "did you mean --version?"),
        (("--model", "mini", "chat"), "pixtral-mlx: there is no option --model (see"),
        (("genrate", "x.png", "?"), "there is no command genrate: did you mean generate?"),
        (("Model",), "there is no command Model: did you mean models?"),
        (("xyzzy",), "pixtral-mlx: there is no command xyzzy (see pixtral-mlx --help)"),
    ],
)
def test_the_option_that_is_meant_is_named(refused, words, said):
    refused(2, said, *words)


def test_a_process_names_what_is_meant_too():
    done = run("genrate")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"did you mean generate?" in done.stderr


@pytest.mark.parametrize(
    ("words", "images", "prompt"),
    [
        (["What is this?"], [], "What is this?"),
        (["a.png", "b.pdf#page=2", "What is this?"], ["a.png", "b.pdf#page=2"], "What is this?"),
        (["a.png", "--raw", "What is in b.png?"], ["a.png"], "What is in b.png?"),
        (["--raw", "-", "https://x.org/y", "?"], ["-", "https://x.org/y"], "?"),
        (["a.png", "--raw", "--", "-1 or -2?"], ["a.png"], "-1 or -2?"),
        (["a.png", "--raw", "- why?"], ["a.png"], "- why?"),
        (["~/a.png", "-"], [f"{Path.home()}/a.png"], "-"),
        (["-i", "a", "b", "-p", "x"], ["a", "b"], "x"),
        (["conftest", "x"], ["conftest"], "x"),
    ],
)
def test_pictures_first_and_the_question_last(tmp_path, monkeypatch, words, images, prompt):
    monkeypatch.chdir(tmp_path)
    Path("conftest").touch()  # a file without an ending is a picture, as far as anybody knows
    for command in (["generate"], ["explain", "-o", "x.png"]):
        given = build_parser().parse_args([*command, *words])
        assert (given.image, given.prompt) == (images, prompt)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.png", "x", "-i", "b.png"], "either as words or with --image and --prompt, not both"),
        (["a.png", "-p", "x"], "not both: pixtral-mlx generate photo.jpg 'What is this?' (see"),
        (["a.png", "what", "is", "this?"], "'what' is not a picture: pictures come first"),
        (["a.png"], "a.png is a picture: put your question after it, in quotes"),
        (["a.png", "my b.png"], "my b.png is a picture"),
        (["c.unheard-of"], "c.unheard-of is a picture"),
        ([], "there is no question: pixtral-mlx generate photo.jpg 'What is this?'"),
        (["-i", "a.png"], "there is no question"),
        (["a.png", "--raw", "-x"], "-x"),
    ],
)
def test_mixed_up_words_are_one_line(tmp_path, monkeypatch, refused, words, said):
    monkeypatch.chdir(tmp_path)
    Path("my b.png").touch()
    Path("c.unheard-of").touch()  # by its ending nobody knows what it is
    refused(2, said, "generate", *words)


def test_short_options_and_words_of_other_commands():
    parse = build_parser().parse_args
    given = parse(["batch", "a", "-m", "m", "-p", "?", "-o", "r.jsonl", "b", "c"])
    assert given.files == ["a", "b", "c"]
    assert (given.model, given.prompt, given.output) == ("m", "?", "r.jsonl")
    given = parse(["chat", "a.png", "--seed", "1", "~/b", "-i", "c"])
    assert given.image == ["a.png", f"{Path.home()}/b", "c"]
    assert parse(["doctor", "-m", "x"]).model == "x"


def test_values_that_begin_with_a_dash_stay_values():
    parse = build_parser().parse_args
    words = ["generate", "--prompt", "-- what --x=1 is", "--temperature", "0", "--stop", "- b"]
    given = parse(words)
    assert (given.prompt, given.stop) == ("-- what --x=1 is", ["- b"])
    assert parse(["generate", "--prompt=--model"]).prompt == "--model"
    assert parse(["generate", "--prompt", "-", "--logit-bias", "1=-5"]).prompt == "-"
    assert parse(["lab", "--", "--no-browser"]).arguments == ["--no-browser"]
    assert parse(["batch", "a", "-ob.jsonl", "--prompt", "x"]).output == "b.jsonl"


def test_no_program_of_the_project_takes_abbreviations():
    made = re.compile(r"(?:ArgumentParser|\.add_parser)\((?:[^()]|\([^()]*\))*\)")
    for folder in ("pixtral_mlx", "scripts", "benchmarks", "hardening", "notebooks", "widgets"):
        for file in (HOUSE / folder).rglob("*.py"):
            for call in made.findall(file.read_text()):
                if "cli" not in file.parts:
                    assert "allow_abbrev=False" in call, (file, call)


def test_several_images_after_one_flag():
    parse = build_parser().parse_args
    words = ["--image", "a", "b", "--prompt", "x", "--image", "c", "-"]
    for command in (["generate"], ["explain", "-o", "x.png"]):
        assert parse([*command, *words]).image == ["a", "b", "c", "-"]
    assert parse(["generate", "--prompt", "x"]).image == []  # nothing is left of the call before


# The home folder ------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_tilde_in_every_name_of_a_command(home):
    parse = build_parser().parse_args
    for words in (
        ["demo", "--keep=~/x", "-o=~/x"],
        ["convert", "~/x", "~/x"],
        ["generate", "--model=~/x", "--image=~/x", "--prompt-cache=~/x", "--prompt", "~ or -?"],
        ["batch", "~/x", "--prompt", "?", "--output=~/x", "--model=~/x"],
        ["explain", "--image", "~/x", "--save=~/x", "-o=~/x", "--prompt", "?"],
        ["chat", "--model=~/x", "--prompt-cache=~/x"],
        ["inspect", "~/x", "-o=~/x"],
        ["bench", "--json=~/x", "--model=~/x"],
        ["doctor", "--json=~/x", "--model=~/x", "--pictures=~/x"],
    ):
        given = vars(parse([word.replace("-o=", "--output=") for word in words]))
        found = str(given)
        assert found.count(f"{home}/x") == sum("~/x" in word for word in words), words
        assert "~/" not in found


def test_tilde_where_the_library_takes_a_name(home, folder, picture, prompt, model):
    (home / "model").symlink_to(folder)
    picture.save(home / "picture.png")
    assert px.load_config("~/model").text.dim == model.config.text.dim
    px.load("~/model")
    assert open_image("~/picture.png").size == picture.size
    trace = model.generate(prompt, max_tokens=1, trace=True).trace
    trace.save("~/answer.safetensors")
    assert (home / "answer.safetensors").exists()
    px.open_trace("~/answer.safetensors")
    px.convert("~/model", "~/converted", bits=8)
    assert (home / "converted").is_dir()


def test_a_tilde_of_nobody_is_a_name(refused):
    refused(1, "'~no-such-user/x': no such folder", "inspect", "~no-such-user/x")


def test_commands_expand_tilde_before_they_look(home, here, picture, capsys):
    picture.save(home / "picture.png")
    assert here("inspect", "~/picture.png", "--output=~/grid.png") == 0
    assert (home / "grid.png").exists() and not Path("~").exists()
    assert capsys.readouterr().out.startswith(f"{home}/picture.png: 70 x 40")
