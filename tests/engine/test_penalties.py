"""Penalties are mlx-lm's; numbers, stop strings and biases come as programs have them."""

import inspect
import json
import re

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_logits_processors

from pixtral_mlx.cli import main
from pixtral_mlx.engine.options import GenerationOptions
from pixtral_mlx.errors import PromptError

BIAS = dict.fromkeys(range(300, 305), 8.0)  # so that tokens come again
PENALTIES = [
    {"repetition_penalty": 1.7, "repetition_context_size": 3},
    {"repetition_penalty": 1.7},
    {"presence_penalty": 1.5},
    {"presence_penalty": 1.5, "presence_context_size": 2},
    {"frequency_penalty": 0.8},
    {"frequency_penalty": 1.5, "frequency_context_size": 4},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5,
     "repetition_context_size": 100},
]  # fmt: skip


@pytest.fixture(scope="module")
def plain(loaded):
    """A prompt without pictures, which mlx-lm reads too."""
    return loaded.encode("Why is the sky blue, and why is the sky so blue?")


def by_mlx_lm(model, prompt, options, count) -> list[int]:
    steps = generate_step(
        mx.array(prompt.tokens), model.decoder, max_tokens=count,
        prompt_cache=make_prompt_cache(model.decoder),
        logits_processors=make_logits_processors(**options),
    )  # fmt: skip
    return [token for token, _ in steps]


@pytest.mark.parametrize("options", PENALTIES, ids=str)
def test_penalties_are_those_of_mlx_lm(model, plain, options):
    options = {**options, "logit_bias": BIAS}
    expected = by_mlx_lm(model, plain, options, 24)
    unpunished = model.generate(plain, max_tokens=24, logit_bias=BIAS).tokens
    assert expected != unpunished and len({*unpunished}) < 24
    assert model.generate(plain, max_tokens=24, **options).tokens == expected
    drafted = model.generate(plain, max_tokens=24, prompt_lookup_num_tokens=4, **options)
    assert drafted.tokens == expected
    requests = [{"messages": plain, **options}, "Why?"]
    assert model.generate_batch(requests, max_tokens=24)[0].tokens == expected


def test_numbers_of_other_programs(model, plain):
    expected = model.generate(plain, max_tokens=6, temperature=0.5, top_k=5, seed=3).tokens
    for number in (np.array, mx.array, np.float32, np.float64):
        whole = np.int32 if number in (np.float32, np.float64) else number
        found = model.generate(
            plain, max_tokens=whole(6), temperature=number(0.5), top_k=whole(5), seed=whole(3)
        )
        assert found.tokens == expected, number
    options = GenerationOptions(temperature=np.float32(0.5), top_p=np.array(0.5), top_k=mx.array(3))
    assert [type(getattr(options, n)) for n in ("temperature", "top_p", "top_k")] == [
        float, float, int,
    ]  # fmt: skip
    assert GenerationOptions(force=np.bool_(True)).force is True
    for wrong in (np.array([5]), np.bool_(True), mx.array(True), np.array("5")):
        with pytest.raises(ValueError, match="max_tokens must be a whole number"):
            GenerationOptions(max_tokens=wrong)


def test_a_bias_as_json_and_numpy_have_it(model, plain):
    expected = {300: 8.0, 5: -1.0}
    for bias in (
        expected,
        json.loads(json.dumps(expected)),  # its keys are strings
        {np.int64(300): np.float32(8), np.uint16(5): np.array(-1)},
        {" 300 ": 8, "5": mx.array(-1.0)},
    ):
        options = GenerationOptions(logit_bias=bias)
        assert options.logit_bias == expected
        assert {type(v) for pair in options.logit_bias.items() for v in pair} == {int, float}
    tokens = model.generate(plain, max_tokens=3, logit_bias={"300": 1000}).tokens
    assert tokens == [300] * 3
    for wrong, said in (
        ({"3.5": 1}, "name whole numbers, got '3.5'"),
        ({"a": 1}, "name whole numbers, got 'a'"),
        ({True: 1}, "name whole numbers, got True"),
        ({"3": "1"}, "logit_bias of token 3 must be a number, got '1'"),
        ([(3, 1)], "must be a mapping from token ids to numbers, got"),
    ):
        with pytest.raises(ValueError, match=said):
            GenerationOptions(logit_bias=wrong)


def test_any_iterable_of_strings_ends_an_answer(model, plain):
    whole = model.generate(plain, max_tokens=12).text
    stop = whole[3:5]
    for given in (
        stop, [stop], (stop,), {stop}, frozenset([stop]), {stop: 1}, iter([stop]),
        (text for text in [stop]), np.array([stop]), np.str_(stop), {stop: 1}.keys(),
    ):  # fmt: skip
        assert GenerationOptions(stop=given).stop == (stop,) or not isinstance(given, str)
    for given in ([stop, "never there"], {stop}, np.array([stop]), iter([stop])):
        reply = model.generate(plain, max_tokens=12, stop=given)
        assert reply.text == whole[: whole.index(stop)] and reply.finish_reason == "stop"
    assert GenerationOptions(stop=None).stop == () == GenerationOptions(stop=[]).stop
    for wrong in (3, b"ab", [""], ["a", None], {"": 1}, [b"a"]):
        with pytest.raises(ValueError, match="stop must be strings that are not empty, got"):
            GenerationOptions(stop=wrong)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("max_new_tokens", "max_new_tokens is called max_tokens here"),
        ("max_completion_tokens", "max_completion_tokens is called max_tokens here"),
        ("image", r"image is called images here: images=\["),
        ("random_seed", "random_seed is called seed here"),
        ("repeat_penalty", "repeat_penalty is called repetition_penalty here"),
        ("orient", r"image_options=px.ImageOptions\(orient=...\)"),
        ("temprature", "there is no option 'temprature': did you mean temperature"),
        ("quiet", "there is no option 'quiet'; allowed: messages, images, image_options"),
    ],
)
def test_a_word_of_another_program_is_told_the_right_one(model, word, said):
    for call in (
        lambda: model.generate("Why?", **{word: 5}),
        lambda: model.stream("Why?", **{word: 5}),
        lambda: model.generate_batch(["Why?"], **{word: 5}),
        lambda: model.generate_batch([{"messages": "Why?", word: 5}]),
    ):
        with pytest.raises(TypeError, match=said):
            call()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.encode("Why?", image=5), r"image is called images here: images=\[picture\]$"),
        (lambda m: m.encode(prompt="Why?"), "prompt is called messages here$"),
        (lambda m: m.encode("Why?", max_new_tokens=5), "max_tokens is an option of the answer: "),
        (lambda m: m.encode("Why?", orient=False), r"image_options=px.ImageOptions\(orient=...\)"),
        (lambda m: m.encode("Why?", imags=()), "there is no option 'imags': did you mean images"),
        (lambda m: m.encode("Why?", xyz=1), "'xyz'; allowed: messages, images, image_options, "),
        (lambda m: m.generate(question="Why?"), "question is called messages here$"),
        (lambda m: m.stream(text="Why?"), "text is called messages here$"),
        (lambda m: m.generate_batch(prompts=["?"]), "prompts is called messages here$"),
        (lambda m: m.stream_batch(["?"], image=1), r"images here: images=\[\[picture\], ...\]$"),
        (lambda m: m.generate_batch(["?"], image=1), r"images here: images=\[\[picture\], ...\]$"),
        (lambda m: m.occlusion_map("Why?", 0, image_options=1), "no option 'image_options': did"),
        (lambda m: m.logits("Why?", edit=()), "there is no option 'edit': did you mean edits?"),
    ],
)
def test_every_method_names_the_right_word(model, call, said):
    with pytest.raises(TypeError, match=said):
        call(model)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.generate(), "generate got no messages; write generate(messages)"),
        (lambda m: m.stream(images=[1]), "stream got no messages; write stream(messages)"),
        (lambda m: m.encode(), "encode got no messages; write encode(messages)"),
        (lambda m: m.logits(), "logits got no prompt; write logits(prompt)"),
        (lambda m: m.generate_batch(), "generate_batch got no messages; write"),
        (lambda m: m.occlusion_map(), "got no messages and no token; write occlusion_map(mess"),
        (lambda m: m.occlusion("Why?", 0), "got no patches; write occlusion(messages, token, pat"),
        (lambda m: m.occlusion(token=0, patches=[]), "occlusion got no messages; write"),
        (
            lambda m: m.generate("Why?", [1]),
            "generate got 2 values without a name; allowed: messages; give the others by their "
            "names: images, image_options, ",
        ),
        (lambda m: m.encode("Why?", [], 80), "got 3 values without a name; allowed: messages, im"),
        (lambda m: m.logits(1, []), "2 values without a name; allowed: prompt; give the others "),
        (lambda m: m.stream_batch(["Why?"], [[1]]), "stream_batch got 2 values without a name"),
        (lambda m: m.generate("Why?", messages="Who?"), "generate got messages twice, by its "),
    ],
)
def test_what_is_missing_or_has_no_name_is_said(model, call, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        call(model)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, p: m.encode("Why?", p), "images= is Image; allowed: a list, even for one: "),
        (lambda m, p: m.generate("Why?", images="a.png"), "images= is str; allowed: a list, ev"),
        (lambda m, p: m.generate_batch("Why?"), "messages are str; allowed: a list, even for"),
        (lambda m, p: m.generate_batch({"messages": "Why?"}), "messages are dict; allowed: a "),
        (lambda m, p: m.stream_batch(5), "messages are int; allowed: a list, even for one req"),
        (lambda m, p: m.generate_batch(m.encode("Why?")), "messages are Prompt; allowed: a li"),
        (lambda m, p: m.generate_batch(["?"], images=p), "images= is Image; allowed: a list for"),
        (lambda m, p: m.generate_batch(["?"], images=[p]), "images= is Image; allowed: a list, "),
        (lambda m, p: m.logits("Why?"), "prompt is str; allowed: what encode gives"),
    ],
)
def test_one_where_a_list_belongs_is_one_line(model, picture, call, said):
    with pytest.raises(PromptError, match=re.escape(said)):
        call(model, picture)


def test_methods_keep_their_names_and_their_help(model):
    assert [*inspect.signature(model.encode).parameters][:3] == [
        "messages",
        "images",
        "image_options",
    ]
    assert model.generate.__name__ == "generate" and "Ctrl-C" in model.generate.__doc__


def test_penalties_on_the_command_line(folder, capsys):
    words = ["generate", "--model", str(folder), "--dtype", "float32", "--prompt", "Why?"]
    words += ["--max-tokens", "8", "--json", "--logit-bias", "300=9"]
    found = []
    for more in ([], ["--presence-penalty", "9"], ["--frequency-penalty", "-0.5"]):
        assert main([*words, *more]) == 0
        found.append(json.loads(capsys.readouterr().out)["tokens"])
    assert found[0] != found[1] and len({*found[1]}) == 8 > len({*found[2]})
