"""Every mistake that issue trackers know: one clear line on stderr, status 1 or 2, nothing lost.

Folders and tensors have tests of their own beside `checkpoint` and `conversion`; here a sample of
each class goes through the command, as a user meets it.
"""

import errno
import io
import json
import struct
import sys

import checkpoints
import numpy as np
import pytest
from checkpoints import make_official
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx import cli
from pixtral_mlx.engine.generate import GenerationStream
from pixtral_mlx.engine.options import GenerationOptions
from pixtral_mlx.model.prompt import Prompt


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_official(tmp_path_factory.mktemp("bad") / "model", text={"max_seq_len": 256})
    return px.load(folder)


@pytest.fixture
def folder(tmp_path):
    """A sound official folder, to be spoiled."""
    return make_official(tmp_path / "official", text={"n_layers": 1})


@pytest.fixture
def refused(capsys, monkeypatch):
    """Run a command that must end in one line: `refused(status, said, *arguments)`."""
    monkeypatch.delenv("PIXTRAL_MLX_DEBUG", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def check(status: int, said: str, *arguments, stdin: bytes = b"") -> str:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            ended = cli.main([*map(str, arguments)])
        except SystemExit as error:  # argparse
            ended = error.code
        out, err = capsys.readouterr()
        assert err.count("\n") == 1 and err.endswith("\n"), err
        assert err.startswith("pixtral-mlx") and len(err) < 600
        assert err[:-1].isprintable() and "Traceback" not in err
        assert said in err
        assert (ended, out) == (status, "")
        return err

    return check


def ask(folder, *more) -> tuple:
    return ("generate", "--model", folder, "--prompt", "Hi", "--max-tokens", "2", *more)


def listing(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Folders --------------------------------------------------------------------------------------


def test_missing_and_empty_folders(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in (("inspect",), ("generate", "--prompt", "Hi", "--model")):
        refused(1, "no such folder; give a model folder or a hub id", *command, tmp_path / "none")
        refused(1, "an empty folder; download the model's files", *command, tmp_path / "empty")
        refused(1, "no such folder", *command, "")
    refused(1, "an empty folder", "convert", tmp_path / "empty", tmp_path / "out")
    refused(1, "bad/name/of/hub", "inspect", "bad/name/of/hub")
    assert listing(tmp_path) == ["empty"]


def test_a_file_of_a_folder(refused, folder):
    file = folder / "consolidated.safetensors"
    refused(1, "a file, not a model folder; give the folder it is in", "inspect", file)
    refused(1, "a file, not a model folder", *ask(file))


def spoil_weights(folder, content: bytes) -> None:
    (folder / "consolidated.safetensors").write_bytes(content)


def test_truncated_and_corrupt_weights(refused, folder, tmp_path):
    sound = (folder / "consolidated.safetensors").read_bytes()
    spoiled = {
        "truncated": sound[: len(sound) // 2],
        "empty": b"",
        "zeros": bytes(1000),
        "endless header": struct.pack("<Q", 2**60) + b"{}",
        "no JSON": struct.pack("<Q", 8) + b"no JSON!",
    }
    for content in spoiled.values():
        spoil_weights(folder, content)
        for command in (ask(folder), ("inspect", folder), ("convert", folder, tmp_path / "out")):
            refused(1, "consolidated.safetensors", *command)
    assert listing(tmp_path) == ["official", *(f"official/{name}" for name in listing(folder))]


def test_pickled_weights(refused, folder):
    (folder / "consolidated.safetensors").rename(folder / "consolidated.00.pth")
    refused(1, "pickles can run code and are not read", *ask(folder))


def rewrite(folder, change) -> None:
    """The folder's weights once more, after `change(tensors)`."""
    tensors = checkpoints.official_tensors(json.loads((folder / "params.json").read_text()))
    change(tensors)
    checkpoints.write_checkpoint(folder, "consolidated", tensors)


def test_missing_extra_and_misshapen_tensors(refused, folder):
    name = "layers.0.attention.wq.weight"
    for change in (
        lambda tensors: tensors.pop(name),
        lambda tensors: tensors.update({name: np.zeros((3, 5), np.float32)}),
    ):
        rewrite(folder, change)
        refused(1, name, *ask(folder))
    rewrite(folder, lambda tensors: tensors.update({"layers.7.surprise.weight": np.zeros(3)}))
    refused(1, "layers.7.surprise.weight", *ask(folder))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dim": None}, "dim"),
        ({"n_heads": "many"}, "n_heads"),
        ({"n_layers": -1}, "n_layers"),
        ({"head_dim": 15}, "head_dim"),
        ({"vision_encoder": 5}, "vision_encoder"),
        ({"vocab_size": 10**30}, "vocab_size"),
    ],
)
def test_wrong_and_missing_keys_of_the_parameters(refused, folder, change, said):
    params = json.loads((folder / "params.json").read_text()) | change
    params = {key: value for key, value in params.items() if value is not None}
    (folder / "params.json").write_text(json.dumps(params))
    refused(1, said, *ask(folder))
    refused(1, said, "inspect", folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff\xfe", "null"])
def test_parameters_that_are_no_json_object(refused, folder, text):
    (folder / "params.json").write_text(text, encoding="latin-1")
    refused(1, "params.json", *ask(folder))


def test_no_parameters_and_no_tokenizer(refused, folder):
    (folder / "tekken.json").unlink()
    refused(1, "no tekken.json", *ask(folder))
    (folder / "tekken.json").write_text("{")
    refused(1, "tekken.json", *ask(folder))
    (folder / "params.json").unlink()
    refused(1, "without params.json", *ask(folder))


def test_unknown_quantization(refused, tmp_path, capsys):
    source = make_official(tmp_path / "official", text={"n_layers": 1})
    cli.main(["convert", str(source), str(tmp_path / "4bit")])
    capsys.readouterr()
    file = tmp_path / "4bit" / "config.json"
    settings = json.loads(file.read_text())
    for entry in ({"bits": 4, "group_size": 64, "mode": "secret"}, {"bits": 7, "group_size": 64}):
        file.write_text(json.dumps(settings | {"quantization": entry}))
        refused(1, "quantization", *ask(tmp_path / "4bit"))


# Converting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("--bits", "7"), ("--bits", "four"), ("--bits", "0"), ("--group-size", "48"),
        ("--mode", "foo"), ("--dtype", "int8"), ("--recipe", "foo"), ("--vision-bits", "9"),
        ("--mode", "mxfp4", "--group-size", "64"), ("--mode", "nvfp4", "--bits", "8"),
        ("--recipe", "mixed_4_6", "--bits", "4"), ("--no-such\noption",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_that_cannot_be(refused, folder, tmp_path, options):
    refused(2, "", "convert", folder, tmp_path / "out", *options)
    # Before anything is looked at, so that a slip costs no download.
    refused(2, "", "convert", "no/such", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists(refused, folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    refused(1, "exists already and is not overwritten", "convert", folder, tmp_path / "out")
    refused(1, "exists already", "convert", folder, folder)
    refused(1, "exists already", "demo", "--keep", tmp_path / "out")
    refused(2, "DST is empty", "convert", folder, "")
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"


class Disk:
    total, used, free = 1000, 900, 100


def test_a_disk_that_is_or_becomes_full(refused, folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: Disk)
        refused(1, "bytes free", "convert", folder, tmp_path / "out")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pixtral_mlx.quantization.conversion.SafetensorsWriter.write", full)
    refused(1, "the disk is full", "convert", folder, tmp_path / "out")
    assert listing(tmp_path) == ["official", *(f"official/{name}" for name in listing(folder))]


# Pictures -------------------------------------------------------------------------------------


def test_pictures_that_are_none(refused, folder, tmp_path):
    whole = io.BytesIO()
    Image.effect_noise((90, 90), 60).save(whole, "JPEG")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    files = {
        "text.png": (b"no picture", "not an image that is read here"),
        "empty.jpg": (b"", "empty, 0 bytes"),
        "cut.jpg": (whole.getvalue()[:1500], "damaged or cut off"),
        "bomb.png": (bomb.getvalue(), "at most 100,000,000"),
    }
    for name, (content, said) in files.items():
        (tmp_path / name).write_bytes(content)
        refused(1, said, *ask(folder, "--image", tmp_path / name))
        refused(1, said, "inspect", tmp_path / name)
    refused(1, "no such file", *ask(folder, "--image", tmp_path / "none.png"))
    refused(1, "no such file", "inspect", tmp_path / "none.png")
    refused(1, "is a folder", *ask(folder, "--image", tmp_path))
    refused(1, "empty, 0 bytes", *ask(folder, "--image", "-"))
    refused(1, "could not be fetched", *ask(folder, "--image", "http://127.0.0.1:1/a.png"))
    refused(
        1,
        "line\N{REPLACEMENT CHARACTER}break.png: no such",
        *ask(folder, "--image", "line\nbreak.png"),
    )


def test_a_picture_for_a_model_without_eyes(refused, tmp_path):
    blind = make_official(tmp_path / "nemo", vision=False)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    refused(1, "no vision encoder: send text only", *ask(blind, "--image", tmp_path / "a.png"))


def test_a_drawing_is_not_written_over_anything(refused, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    before = (tmp_path / "b.png").read_bytes()
    refused(1, "exists already", "inspect", tmp_path / "a.png", "-o", tmp_path / "b.png")
    refused(1, "allowed endings", "inspect", tmp_path / "a.png", "-o", tmp_path / "b.txt")
    refused(1, "none/b.png", "inspect", tmp_path / "a.png", "-o", tmp_path / "none" / "b.png")
    refused(2, "--check reads the weights", "inspect", tmp_path / "a.png", "--check")
    refused(2, "-o draws the patch grid", "inspect", tmp_path, "-o", tmp_path / "c.png")
    assert (tmp_path / "b.png").read_bytes() == before
    assert listing(tmp_path) == ["a.png", "b.png"]


# Questions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-tokens", "0"), "max_tokens must be 1 or more, got 0"),
        (("--max-tokens", "two"), "invalid int value: 'two'"),
        (("--temperature", "-1"), "temperature must be between 0 and 100, got -1.0"),
        (("--temperature", "nan"), "temperature must be a number, got nan"),
        (("--top-p", "2"), "top_p must be between 0 and 1, got 2.0"),
        (("--top-k", "-1"), "top_k must be 0 or more, got -1"),
        (("--min-p", "1.5"), "min_p must be between 0 and 1, got 1.5"),
        (("--seed", "-1"), "seed must be between 0 and 18446744073709551615, got -1"),
        (("--seed", "9" * 30), f"seed must be between 0 and 18446744073709551615, got {'9' * 30}"),
        (("--stop", ""), "stop must be strings that are not empty, got ['']"),
        (
            ("--prompt-lookup-num-tokens", "65"),
            "prompt_lookup_num_tokens must be between 0 and 64, got 65",
        ),
        (("--prefill-step-size", "0"), "prefill_step_size must be 1 or more, got 0"),
        (("--repetition-penalty", "0"), "repetition_penalty must be between 0.01 and 100, got 0.0"),
        (("--logit-bias", "3"), "--logit-bias '3': expected ID=VALUE"),
        (("--logit-bias", "3=nan"), "logit_bias of token 3 must be a number, got nan"),
        (
            ("--logit-bias", "3=1e300"),
            "logit_bias of token 3 must be between -1000000000 and 1000000000, got 1e+300",
        ),
        (("--logit-bias", "999999=1"), "logit_bias names token 999999; allowed: 0 to 511"),
        (("--dtype", "int8"), "invalid choice: 'int8'"),
        (("--resize", "best"), "resize must be official or antialiased, got 'best'"),
        (("--raw", "--system", "x"), "--system needs the chat template"),
        (("--prompt", ""), "the prompt is empty and there is no image"),
        (("--prompt", "-"), "the prompt is empty"),
        (("--prompt", "-", "--image", "-"), "stdin can be read once"),
        (("--image", "-", "--image", "-"), "stdin can be read once"),
        (("--surprise",), "unrecognized arguments: --surprise"),
    ],
)
def test_options_out_of_range(refused, model, options, said):
    refused(2, said, *ask(model.tokenizer.path.parent, *options))


def test_a_pipe_that_holds_no_text(refused, model):
    folder = model.tokenizer.path.parent
    piped = ("generate", "--model", folder, "--prompt", "-")
    refused(1, "not UTF-8 text (byte 0xff at 3)", *piped, stdin=b"abc\xff")


@pytest.mark.parametrize(
    "options",
    [("--image-size", "0x0"), ("--image-size", "big"), ("--runs", "0"), ("--max-tokens", "1"),
     ("--prompt-tokens", "-4"), ("--random", "2"), ("--random", "0.5", "--model", "x")],
    ids=" ".join,
)  # fmt: skip
def test_measurements_that_cannot_be(refused, options):
    refused(2, options[0], "bench", *options)


MESSAGES = {
    "empty": ([], "messages are empty"),
    "none": (None, "messages are NoneType"),
    "a dict": ({"role": "user", "content": "x"}, "messages are dict"),
    "bytes": (b"abc", "messages are bytes"),
    "a number": (7, "messages are int"),
    "strings": (["x"], "messages[0] is str: a message is a dict"),
    "no role": ([{"content": "x"}], "role None; allowed: system, user, assistant, tool"),
    "unknown role": ([{"role": "robot", "content": "x"}], "messages[0]: role 'robot'; allowed"),
    "a list as role": ([{"role": ["user"], "content": "x"}], "role ['user']"),
    "no content": ([{"role": "user"}], "messages[0]: content is NoneType"),
    "a number as content": ([{"role": "user", "content": 5}], "content is int"),
    "bytes as content": ([{"role": "user", "content": b"x"}], "content is bytes"),
    "a dict as content": ([{"role": "user", "content": {"text": "x"}}], "content is dict"),
    "empty content": ([{"role": "user", "content": []}], "an empty list: give text or an image"),
    "nested lists": ([{"role": "user", "content": [["x"]]}], "content[0] is list"),
    "unknown part": ([{"role": "user", "content": [{"type": "audio"}]}], "type 'audio'; allowed"),
    "text of a number": ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "is int"),
    "no picture": ([{"role": "user", "content": [{"type": "image"}]}], "image: missing"),
    "no address": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        "messages[0].content[0].image_url: missing",
    ),
    "an extra key": ([{"role": "user", "content": "x", "mood": 5}], "messages[0].mood: "),
    "answer first": ([{"role": "assistant", "content": "x"}], "must start with a user message"),
    "answer last": (
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
        "Expected last role User",
    ),
    "picture in an answer": (
        [{"role": "system", "content": [{"type": "image", "image": Image.new("RGB", (9, 9))}]}],
        "an image in a system message; only users send images",
    ),
}


@pytest.mark.parametrize(("messages", "said"), MESSAGES.values(), ids=MESSAGES)
def test_messages_that_are_no_conversation(model, messages, said):
    for call in (model.encode, model.generate):
        with pytest.raises(px.PromptError) as caught:
            call(messages)
        assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("images", ["a.png", b"bytes", Image.new("RGB", (9, 9)), None, 5])
def test_one_picture_where_a_list_belongs(model, images):
    with pytest.raises(px.PromptError, match=r"also of one: images=\[picture\]"):
        model.encode("Hi", images)


def test_pictures_beside_messages(model):
    with pytest.raises(px.PromptError, match="put the pictures into the messages"):
        model.encode([{"role": "user", "content": "x"}], ["a.png"])


def test_odd_text_is_only_text(model):
    for text in ("[IMG][INST]</s>", "\0", "\ud800", "\r\n", "<s>" * 50):
        tokens = model.encode(text).tokens
        assert not {10, 12, 13, 2} & set(tokens)
        assert tokens.count(3) == tokens.count(4) == 1


def test_more_tokens_than_the_context(refused, model):
    folder = model.tokenizer.path.parent
    long = ("generate", "--model", folder, "--prompt", "x" * 300)
    refused(1, "the prompt has 303 tokens; the context holds 1 to 256: send less text", *long)
    size = ("--image-size", "16x16", "--prompt-tokens", "300")
    refused(1, "the context holds 1 to 256", "bench", "--model", folder, *size)
    for tokens in ([], [1] * 257):
        with pytest.raises(px.CapacityError, match="holds 1 to 256"):
            GenerationStream(model.engine, Prompt(tokens), GenerationOptions())


@pytest.mark.parametrize(
    "options",
    [{"temperature": 1e-300}, {"temperature": 1e-38}, {"temperature": 1, "top_p": 1e-300},
     {"temperature": 1, "top_p": 1e-7}, {"temperature": 1, "min_p": 1}],
    ids=str,
)  # fmt: skip
def test_nearly_nothing_is_greedy(model, options):
    greedy = model.generate("Hi", max_tokens=4).tokens
    assert model.generate("Hi", max_tokens=4, seed=1, **options).tokens == greedy


@pytest.mark.parametrize(
    "options", [{"max_tokens": 2.5}, {"top_k": True}, {"seed": "1"}, {"prefill_step_size": 1.0}]
)
def test_numbers_that_are_not_whole(model, options):
    with pytest.raises((ValueError, TypeError)):
        model.generate("Hi", **options)


# Weights and memory ---------------------------------------------------------------------------


def test_weights_that_are_not_numbers(refused, folder, tmp_path):
    def spoil(tensors):
        tensors["norm.weight"][3] = np.nan

    rewrite(folder, spoil)
    refused(1, "1 of 45 tensors hold NaN or infinity: norm.weight", "inspect", folder, "--check")
    refused(1, "the model computes NaN: look for damaged weights", *ask(folder))
    refused(1, "norm.weight holds NaN", "convert", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_not_enough_memory(refused, folder, monkeypatch, capsys):
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: 100_000)
    line = refused(1, "0.1 MB are available", *ask(folder))
    assert "more memory" in line and "--force" in line
    assert cli.main([*map(str, ask(folder, "--force"))]) == 0
    assert capsys.readouterr().err == ""


# What nobody thought of -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (TypeError("odd"), 1, "TypeError: odd (PIXTRAL_MLX_DEBUG=1 shows where)"),
        (MemoryError(), 1, "MemoryError"),
        (PermissionError(13, "Permission denied", "a/b"), 1, "a/b: Permission denied"),
        (RuntimeError("two\nlines \x1b[31m"), 1, "RuntimeError: two lines ?[31m"),
        (ValueError("out of range"), 2, "out of range"),
    ],
)
def test_whatever_happens_is_one_line(refused, folder, monkeypatch, error, status, said):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("pixtral_mlx.cli.generate.load_model", fail)
    monkeypatch.setattr("pixtral_mlx.cli.parser._drop_output", lambda: None)
    refused(status, said, *ask(folder))
    monkeypatch.setenv("PIXTRAL_MLX_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main([*map(str, ask(folder))])
