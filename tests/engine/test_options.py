"""Options declared once: ranges, docstrings and flags all say what the field says."""

import dataclasses
import inspect
import math
import re

import numpy as np
import pytest

import pixtral_mlx as px
from pixtral_mlx.checks import check_index, number, one_of, options_of, whole
from pixtral_mlx.cli.flags import given_options
from pixtral_mlx.cli.parser import build_parser, main
from pixtral_mlx.engine.options import GenerationOptions
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.model.kv_cache import GROUP_SIZES, KV_BITS
from pixtral_mlx.quantization.options import ConversionOptions

KINDS = (GenerationOptions, ConversionOptions, ImageOptions)
FIELDS = [(kind, name, *entry) for kind in KINDS for name, entry in options_of(kind).items()]
NUMBERS = [row for row in FIELDS if row[2].kind in (int, float) and not row[2].choices]
CHOICES = [row for row in FIELDS if row[2].choices]
# The line of a command that is needed besides options; what Python alone has.
COMMANDS = {
    "generate": ["generate", "--prompt", "?"],
    "chat": ["chat"],
    "batch": ["batch", "x", "--prompt", "?", "-o", "x"],
    "explain": ["explain", "--prompt", "?", "-o", "x.png"],
    "convert": ["convert", "a", "b"],
}
PYTHON_ONLY = {"progress", "trace", "edits", "reuse", "response_format", "top_logprobs"} | {
    "tools",
    "tool_choice",
    "parallel_tool_calls",
}


def line_of(kind, name, value) -> str:
    with pytest.raises(ValueError) as caught:
        kind(**{name: value})
    return str(caught.value)


def named(rows) -> list[str]:
    return [f"{row[0].__name__}.{row[1]}" for row in rows]


# Values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name", "option", "default"), NUMBERS, ids=named(NUMBERS))
def test_the_edges_of_every_range(kind, name, option, default):
    lowest, highest = option.range
    said = f"{lowest} or more" if highest is None else f"between {lowest} and {highest}"
    for edge, outwards in ((lowest, -math.inf), (highest, math.inf)):
        if edge is None:
            continue
        assert getattr(kind(**{name: edge}), name) == edge
        outside = edge + int(math.copysign(1, outwards))
        if option.kind is float:
            outside = math.nextafter(edge, outwards)
        assert line_of(kind, name, outside) == f"{name} must be {said}, got {outside}"
    word = "a whole number" if option.kind is int else "a number"
    for wrong, shown in ((True, "True"), ("7", "'7'"), (math.nan, "nan"), ([2], "[2]")):
        assert line_of(kind, name, wrong) == f"{name} must be {word}, got {shown}"
    if option.kind is int:
        assert line_of(kind, name, lowest + 0.5) == f"{name} must be {word}, got {lowest + 0.5}"
        assert type(getattr(kind(**{name: np.int64(lowest)}), name)) is int
    if option.optional:
        assert getattr(kind(**{name: None}), name) is None
    elif default is not None:
        assert line_of(kind, name, None) == f"{name} must be {word}, got None"
    assert getattr(kind(), name) == default


@pytest.mark.parametrize(("kind", "name", "option", "default"), CHOICES, ids=named(CHOICES))
def test_every_choice_and_no_other(kind, name, option, default):
    *first, last = [*map(str, option.choices), *(["None"] if default is None else [])]
    if (
        name != "group_size"
    ):  # what it may be depends on the mode: tests of its own in test_quantize
        for choice in option.choices:
            needed = {"prompt_lookup_num_tokens": 0} if kind is GenerationOptions else {}
            if name != "mode":
                assert getattr(kind(**{name: choice}, **needed), name) == choice
    for wrong, shown in ((7, "7"), (True, "True"), ("best", "'best'"), (math.nan, "nan")):
        expected = f"{name} must be {', '.join(first)} or {last}, got {shown}"
        assert line_of(kind, name, wrong) == expected


def test_what_is_on_or_off_is_true_or_false():
    for kind, name, option, _ in FIELDS:
        if option.kind is bool:
            assert getattr(kind(**{name: False}), name) is False
            assert line_of(kind, name, 1) == f"{name} must be True or False, got 1"
            assert line_of(kind, name, "no") == f"{name} must be True or False, got 'no'"


def test_a_cache_has_the_forms_that_the_options_name():
    declared = options_of(GenerationOptions)
    assert declared["kv_bits"][0].choices == tuple(sorted(KV_BITS))
    assert declared["kv_group_size"][0].choices == tuple(sorted(GROUP_SIZES))


def test_the_checks_themselves():
    assert whole("n", np.uint8(3), 1) == 3 and type(whole("n", np.uint8(3), 1)) is int
    assert number("n", np.float32(0.5), 0, 1) == 0.5 and number("n", 1, 0, 1) == 1
    assert one_of("n", np.int64(4), (4, 8)) == 4 and one_of("n", None, (4, None)) is None
    with pytest.raises(ValueError, match=r"^n must be 4, got array\(\[4\]\)$"):
        one_of("n", np.array([4]), (4,))
    with pytest.raises(ValueError, match=r"^n must be above 0 and at most 1, got 0$"):
        number("n", 0, 0, 1, above=True)
    with pytest.raises(ValueError, match=r"^n must be above 0 and at most 1, got 1\.5$"):
        number("n", 1.5, 0, 1, above=True)
    with pytest.raises(ValueError, match=r"^n must be above 0, got -1$"):
        number("n", -1, 0, above=True)
    with pytest.raises(ValueError, match=r"^n must be finite, got inf$"):
        number("n", math.inf, 0)
    with pytest.raises(ValueError, match=r"^n must be a whole number, got np\.True_$|got True$"):
        whole("n", np.bool_(True), 0)
    with pytest.raises(IndexError, match=r"^layer 3: there are 2, 0 to 1$"):
        check_index("layer", 3, 2)


# Docstrings ------------------------------------------------------------------------------------


def described(kind) -> dict[str, str]:
    """What the section "Arguments" says of each name."""
    text = inspect.getdoc(kind).split("Arguments:\n")[1].split("\n\n")[0]
    entries = re.split(r"(?m)^    (\w+): ", text)
    pairs = zip(entries[1::2], entries[2::2], strict=True)
    return {name: " ".join(entry.split()) for name, entry in pairs}


@pytest.mark.parametrize("kind", KINDS)
def test_docstrings_say_what_the_fields_say(kind):
    said = described(kind)
    assert list(said) == [field.name for field in dataclasses.fields(kind)]
    for name, (option, _) in options_of(kind).items():
        assert said[name] == f"{option.help}." or said[name].startswith(f"{option.help}. "), name


# Flags -----------------------------------------------------------------------------------------


def subparser(command):
    (action,) = (a for a in build_parser()._actions if a.dest == "command")
    parser = action.choices[command]
    parser.parse_known_args(COMMANDS[command][1:])
    return parser


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_are_the_fields(command):
    kinds = (ConversionOptions,) if command == "convert" else (GenerationOptions, ImageOptions)
    actions = {flag: a for a in subparser(command)._actions for flag in a.option_strings}
    left_out = set(PYTHON_ONLY)
    if command in ("batch", "explain"):
        left_out.add("prompt_lookup_num_tokens")
    for kind in kinds:
        for name, (option, default) in options_of(kind).items():
            on = "no-" if option.kind is bool and default else ""
            action = actions.get(f"--{on}{name.replace('_', '-')}")
            assert (action is None) == (name in left_out), name
            if action is not None:
                start = option.help.split(";")[0].split("`")[0]
                assert start in action.help
                if option.kind in (int, float):
                    assert action.type is option.kind
                if option.choices:
                    listed = f"{action.metavar} {action.help}"
                    assert all(str(choice) in listed for choice in option.choices)


@pytest.mark.parametrize("command", COMMANDS)
def test_without_flags_the_defaults_hold(command):
    arguments = build_parser().parse_args(COMMANDS[command])
    tokens = {"explain": 64, "chat": 1024}.get(command, 256)
    if command == "convert":
        given = given_options(arguments, ConversionOptions)
        assert ConversionOptions(**given) == ConversionOptions()
        return
    given = given_options(arguments, GenerationOptions)
    assert given.pop("logit_bias") == []  # pairs are made of it where it is read
    assert GenerationOptions(**given) == GenerationOptions(max_tokens=tokens)
    assert ImageOptions(**given_options(arguments, ImageOptions)) == ImageOptions()


def test_flags_arrive():
    pictures = ["--no-orient", "--grey16", "clip", "--image-budget", "9"]
    words = ["--kv-bits", "4", "--force", "--stop", "a", "--stop", "b"]
    arguments = build_parser().parse_args([*COMMANDS["generate"], *pictures, *words])
    assert given_options(arguments, ImageOptions) == {
        "resize": "official", "orient": False, "grey16": "clip", "image_budget": 9,
    }  # fmt: skip
    given = given_options(arguments, GenerationOptions)
    assert (given["kv_bits"], given["force"], given["stop"]) == (4, True, ["a", "b"])


def test_a_command_says_the_line_of_its_options(tmp_path, capsys):
    question = ["generate", "--prompt", "?"]
    for words, line in (
        (["--grey16", "white"], "grey16 must be scale or clip, got 'white'"),
        (["--image-budget", "1"], "image_budget must be 2 or more, got 1"),
        (["--top-k", "-1"], "top_k must be 0 or more, got -1"),
    ):
        # A mistake of usage costs no loading: the model is not looked for.
        assert main([*question, "--model", str(tmp_path / "none"), *words]) == 2
        assert capsys.readouterr().err.strip().endswith(line)
    assert px.GenerationOptions is GenerationOptions and px.ImageOptions is ImageOptions
