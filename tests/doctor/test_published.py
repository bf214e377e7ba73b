"""Published answers, read again: the same weights agree, others do not."""

from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.doctor import published
from pixtral_mlx.doctor.published import Answer, Published, check_answers, check_speed, question
from pixtral_mlx.errors import ImageError
from pixtral_mlx.inputs.tokenizer import Tokenizer
from pixtral_mlx.inputs.tokenizer_file import shipped_tekken

SIZES = {"1": (48, 32), "2": (32, 64)}
NAMES = {key: f"{key}-{width}x{height}" for key, (width, height) in SIZES.items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for key, size in SIZES.items():
        Image.linear_gradient("L").resize(size).convert("RGB").save(folder / f"{NAMES[key]}.png")
    return folder


@pytest.fixture(scope="module")
def own(loaded, pictures):
    """What this model answers itself, as if somebody had published it."""
    answers = []
    for keys in ("1", "12"):
        images = [published.picture(NAMES[key], "", pictures) for key in keys]
        prompt = question(loaded, "What is this?", images)
        options = {"max_tokens": 20, "logit_bias": {loaded.tokenizer.eos_id: -1e9}}
        reply = loaded.generate(prompt, reuse=False, **options)
        names = tuple(NAMES[key] for key in keys)
        answers.append(Answer(names, tuple(reply.tokens), tuple(reply.logprobs[:15])))
    return Published("made-up", "What is this?", dict.fromkeys(NAMES.values(), ""), tuple(answers))


def test_a_model_agrees_with_itself(model, own, pictures):
    found = check_answers(model, own, pictures)
    assert found.status == "ok", found.text
    assert (found.facts["steps"], found.facts["same"]) == (40, 40)
    assert 0 < found.facts["logprob_difference_max"] < 1e-4


def test_other_weights_do_not(folder, own, pictures):
    damaged = px.load(folder, dtype="float32")
    # Rows in the order of transformers, which the interleaved pairs do not want.
    wq = damaged.decoder.layers[0].attention.wq
    wq.weight = wq.weight.reshape(4, 8, 2, -1).swapaxes(1, 2).reshape(wq.weight.shape)
    found = check_answers(damaged, own, pictures)
    assert found.status == "fail" and found.facts["share"] < 0.95
    assert found.facts["logprob_difference_mean"] > 0.01


def test_19_of_20_are_enough_and_18_are_not(model, own, pictures):
    answer = own.answers[0]

    def with_errors(count):
        """The last token can be another without changing what the others stand behind."""
        others = [replace(answer, tokens=(*answer.tokens[:-1], 7))] * count
        return replace(own, answers=(*[answer] * (2 - count), *others))

    # Each answer has 20 steps: one error in 40 is 97.5 %, two of 40 are 95 %.
    assert check_answers(model, with_errors(1), pictures).facts["share"] == 39 / 40
    assert check_answers(model, with_errors(2), pictures).status == "ok"
    short = replace(answer, tokens=(*answer.tokens[:9], 7), logprobs=answer.logprobs[:5])
    assert check_answers(model, replace(own, answers=(short,)), pictures).status == "fail"


def test_the_text_comes_before_the_pictures(model, pictures):
    images = [published.picture(NAMES[key], "", pictures) for key in "12"]
    prompt = question(model, "What is this?", images)
    assert prompt.spans[0].start > 5 and len(prompt.images) == 2


def test_pictures_that_are_missing_or_of_another_size_are_named(model, own, pictures, tmp_path):
    for key in "12":
        Image.new("RGB", (48, 32)).save(tmp_path / f"{NAMES[key]}.jpg")
    found = check_answers(model, own, tmp_path)
    # The first is there, though another picture: what it answers to that is compared.
    assert found.facts["steps"] == 20
    assert "2-32x64: 48 x 32 pixels, expected 32x64" in found.text
    with pytest.raises(ImageError, match="no such picture"):
        published.picture("3-10x10", "", pictures)
    nothing = check_answers(model, own, tmp_path / "empty")
    assert nothing.status == "skipped" and "--pictures" in nothing.advice


def test_pictures_are_fetched_where_no_folder_is_given(model, own, pictures, monkeypatch):
    asked = []

    def fetched(source, *_):
        asked.append(source)
        return Image.open(pictures / f"{source.rpartition('/')[2]}.png")

    monkeypatch.setattr(published, "open_image", fetched)
    addresses = {name: f"https://example.org/{name}" for name in NAMES.values()}
    assert check_answers(model, replace(own, pictures=addresses)).status == "ok"
    assert set(asked) == set(addresses.values())


def test_speed(model, pictures):
    prompt = question(model, "What is this?", [published.picture(NAMES["1"], "", pictures)])
    found = check_speed(model, prompt)
    facts = found.facts
    assert found.status == "ok" and facts["prompt_tokens"] == len(prompt.tokens)
    assert facts["decode_tokens_per_second"] > 0 and facts["peak_bytes"] > 0
    assert facts["estimated_bytes"] > sum(a.nbytes for a in _arrays(model))


def _arrays(model):
    from mlx.utils import tree_flatten

    return [array for _, array in tree_flatten(model.parameters()) if isinstance(array, mx.array)]


def test_what_is_shipped():
    found = published.published_answers()
    assert found.model == "mistralai/Pixtral-12B-2409"
    assert sum(len(answer.tokens) for answer in found.answers) == 47
    for answer in found.answers:
        assert set(answer.images) <= set(found.pictures)
        assert len(answer.logprobs) <= len(answer.tokens) and max(answer.logprobs) < 0
        assert answer.tokens[-1] == 2  # the end token
    words = Tokenizer(shipped_tekken()).decode(found.answers[0].tokens)
    assert words == "The image shows a black dog sitting on a wooden surface."
    assert np.isfinite(found.answers[0].logprobs).all()


def test_what_is_shipped_of_mistral_small():
    found = published.published_answers("mistralai/Mistral-Small-3.1-24B-Instruct-2503")
    (answer,) = found.answers
    words = Tokenizer(shipped_tekken()).decode(answer.tokens)  # they share their words
    assert words.startswith("The image shows a black dog lying on a wooden floor, looking up")
    assert len(answer.tokens) == len(answer.logprobs) == 20 and answer.tokens[-1] == 2


def test_only_models_of_known_sizes_are_compared(model):
    assert published.published_model(model) is None
    for name, config in published.SIZES.items():
        assert published.published_model(SimpleNamespace(config=config)) == name


def test_others_of_the_same_sizes_are_no_failure(folder, own, pictures):
    other = px.load(folder, dtype="float32")
    other.decoder.norm.weight = -other.decoder.norm.weight
    small = replace(own, model="mistralai/Mistral-Small-3.1-24B-Instruct-2503")
    found = check_answers(other, small, pictures)
    assert found.status == "warn" and "Mistral Small 3.2 and Magistral Small" in found.advice
