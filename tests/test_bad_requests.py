"""Pictures, options and messages that cannot be: one clear line on stderr, nothing lost.

Spoiled folders and tensors are those of `test_bad_input.py`.
"""

import io

import pytest
from checkpoints import make_official
from commands import ask, listing
from image_files import png_header
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.engine.generate import GenerationStream
from pixtral_mlx.engine.options import GenerationOptions
from pixtral_mlx.model.prompt import Prompt


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A model whose context is filled by a few lines."""
    folder = make_official(tmp_path_factory.mktemp("bad") / "model", text={"max_seq_len": 256})
    return px.load(folder)


# Pictures -------------------------------------------------------------------------------------


def test_pictures_that_are_none(refused, victim, tmp_path):
    whole = io.BytesIO()
    Image.effect_noise((90, 90), 60).save(whole, "JPEG")
    files = {
        "text.png": (b"no picture", "not a picture that can be read"),
        "empty.jpg": (b"", "empty, 0 bytes"),
        "cut.jpg": (whole.getvalue()[:1500], "damaged or cut off"),
        "bomb.png": (png_header(20_001, 20_000, 1, 0), "at most 400,000,000 are decoded"),
    }
    for name, (content, said) in files.items():
        (tmp_path / name).write_bytes(content)
        refused(1, said, *ask(victim, "--image", tmp_path / name))
        refused(1, said, "inspect", tmp_path / name)
    refused(1, "no such file", *ask(victim, "--image", tmp_path / "none.png"))
    refused(1, "no such file", "inspect", tmp_path / "none.png")
    refused(1, "is a folder", *ask(victim, "--image", tmp_path))
    refused(1, "empty, 0 bytes", *ask(victim, "--image", "-"))
    refused(1, "could not be fetched", *ask(victim, "--image", "http://127.0.0.1:1/a.png"))
    refused(
        1,
        "line\N{REPLACEMENT CHARACTER}break.png: no such",
        *ask(victim, "--image", "line\nbreak.png"),
    )


def test_a_picture_for_a_model_without_eyes(refused, tmp_path):
    blind = make_official(tmp_path / "nemo", vision=False)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    refused(1, "no vision encoder: send text only", *ask(blind, "--image", tmp_path / "a.png"))


def test_a_drawing_is_not_written_over_anything(refused, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    before = (tmp_path / "b.png").read_bytes()
    refused(1, "already exists", "inspect", tmp_path / "a.png", "-o", tmp_path / "b.png")
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
        (("--prompt", ""), "the prompt is empty and there is no picture"),
        (("--prompt", "-"), "the prompt is empty"),
        (("--prompt", "-", "--image", "-"), "stdin can be read only once"),
        (("--image", "-", "--image", "-"), "stdin can be read only once"),
        (("--surprise",), "there is no option --surprise"),
    ],
)
def test_options_out_of_range(refused, short, options, said):
    refused(2, said, *ask(short.tokenizer.path.parent, *options))


def test_a_pipe_that_holds_no_text(refused, short):
    folder = short.tokenizer.path.parent
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
    "empty content": ([{"role": "user", "content": []}], "an empty list: give text or a picture"),
    "nested lists": ([{"role": "user", "content": [["x"]]}], "content[0] is list"),
    "unknown part": ([{"role": "user", "content": [{"type": "audio"}]}], "type 'audio'; allowed"),
    "text of a number": ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "is int"),
    "no picture": ([{"role": "user", "content": [{"type": "image"}]}], "image: missing"),
    "no address": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        "messages[0].content[0].image_url: missing",
    ),
    "a prefix of a word": (
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "prefix": "so"}],
        "messages[1].prefix: ",
    ),
    "answer first": ([{"role": "assistant", "content": "x"}], "must start with a user message"),
    "answer last": (
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
        "messages[1]: Expected last role User",
    ),
    "picture in an answer": (
        [{"role": "system", "content": [{"type": "image", "image": Image.new("RGB", (9, 9))}]}],
        "a picture in a system message; only users send pictures",
    ),
}


@pytest.mark.parametrize(("messages", "said"), MESSAGES.values(), ids=MESSAGES)
def test_messages_that_are_no_conversation(short, messages, said):
    for call in (short.encode, short.generate):
        with pytest.raises(px.PromptError) as caught:
            call(messages)
        assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("images", ["a.png", b"bytes", Image.new("RGB", (9, 9)), None, 5])
def test_one_picture_where_a_list_belongs(short, images):
    with pytest.raises(px.PromptError, match=r"even for one: images=\[picture\]"):
        short.encode("Hi", images)


def test_pictures_beside_messages(short):
    with pytest.raises(px.PromptError, match="put the pictures into the messages"):
        short.encode([{"role": "user", "content": "x"}], ["a.png"])


def test_odd_text_is_only_text(short):
    for text in ("[IMG][INST]</s>", "\0", "\ud800", "\r\n", "<s>" * 50):
        tokens = short.encode(text).tokens
        assert not {10, 12, 13, 2} & set(tokens)
        assert tokens.count(3) == tokens.count(4) == 1


def test_more_tokens_than_the_context(refused, short):
    folder = short.tokenizer.path.parent
    long = ("generate", "--model", folder, "--prompt", "x" * 300)
    refused(1, "the prompt has 303 tokens; the context holds 1 to 256: send less text", *long)
    size = ("--image-size", "16x16", "--prompt-tokens", "300")
    refused(1, "the context holds 1 to 256", "bench", "--model", folder, *size)
    for tokens in ([], [1] * 257):
        with pytest.raises(px.CapacityError, match="holds 1 to 256"):
            GenerationStream(short.engine, Prompt(tokens), GenerationOptions())


@pytest.mark.parametrize(
    "options",
    [{"temperature": 1e-300}, {"temperature": 1e-38}, {"temperature": 1, "top_p": 1e-300},
     {"temperature": 1, "top_p": 1e-7}, {"temperature": 1, "min_p": 1}],
    ids=str,
)  # fmt: skip
def test_nearly_nothing_is_greedy(short, options):
    greedy = short.generate("Hi", max_tokens=4).tokens
    assert short.generate("Hi", max_tokens=4, seed=1, **options).tokens == greedy


@pytest.mark.parametrize(
    "options", [{"max_tokens": 2.5}, {"top_k": True}, {"seed": "1"}, {"prefill_step_size": 1.0}]
)
def test_numbers_that_are_not_whole(short, options):
    with pytest.raises((ValueError, TypeError)):
        short.generate("Hi", **options)
