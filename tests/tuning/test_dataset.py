"""Rows: every shape, what of them is learned, and what is refused before the first step."""

import json

import numpy as np
import pytest
from questions import noise

import pixtral_mlx as px
from pixtral_mlx.errors import PromptError
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.tuning.dataset import Rows, find_rows, read_examples


@pytest.fixture
def written(tmp_path):
    """Writes rows into a file beside the picture a.png, and gives the file."""
    noise().save(tmp_path / "a.png")
    noise(1, 40, 70).save(tmp_path / "b.png")

    def write(*rows, name="train.jsonl"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return write


def read(file, most=8192, **options):
    tokenizer, shown = px.load("mini").tokenizer, {}
    found = read_examples(Rows(file), tokenizer, ImageOptions(**options), most, shown.__setitem__)
    return tokenizer, list(found), shown


def parts(*listed):
    return [{"type": "text", "text": p} if isinstance(p, str) else p for p in listed]


SHAPES = {
    "prompt": {"prompt": "What is this?", "completion": "a red star", "images": ["a.png"]},
    "answer": {"prompt": "What is this?", "answer": "a red star", "image": "a.png", "id": 7},
    "path": {"messages": [
        {"role": "user", "content": parts({"type": "image", "image": "a.png"}, "What is this?")},
        {"role": "assistant", "content": "a red star"},
    ]},
    "url": {"messages": [
        {"role": "user", "content": parts(
            {"type": "image_url", "image_url": {"url": "a.png"}}, "What is this?")},
        {"role": "assistant", "content": parts("a red star")},
    ]},
    "images": {"images": ["a.png"], "messages": [
        {"role": "user", "content": parts({"type": "image"}, "What is this?")},
        {"role": "assistant", "content": "a red star"},
    ]},
}  # fmt: skip


def test_every_shape_is_the_same_sequence(written):
    """Its beginning is what a request becomes, its end is the answer and the token that ends it."""
    tokenizer, found, shown = read(written(*SHAPES.values()))
    prompt = tokenizer.encode("What is this?", [noise()])
    (answer,) = found[0].answers
    assert found[0].tokens[: answer.start].tolist() == prompt.tokens
    assert tokenizer.decode(found[0].tokens[answer].tolist()) == "a red star"
    assert found[0].tokens[-1] == tokenizer.eos_id and answer.stop == len(found[0].tokens)
    for other in found:
        assert np.array_equal(other.tokens, found[0].tokens) and other.answers == (answer,)
        assert [p.digest for p in other.pictures] == [*shown] and len(shown) == 1
    assert np.array_equal(*shown.values(), prompt.images[0])
    assert [each.place for each in found[:2]] == ["train.jsonl, line 1", "train.jsonl, line 2"]


def test_all_answers_of_a_conversation_are_learned(written):
    """In one sequence; with a system prompt, which moves, each in its own."""
    turns = []
    for text in ("one", "two", "three"):
        turns += [
            {"role": "user", "content": f"Count {text}."},
            {"role": "assistant", "content": text},
        ]
    tokenizer, found, _ = read(
        written({"messages": turns}, {"messages": [{"role": "system", "content": "x"}, *turns]})
    )
    said = [[tokenizer.decode(each.tokens[a].tolist()) for a in each.answers] for each in found]
    assert said == [["one", "two", "three"], ["one"], ["two"], ["three"]]
    for each in found:
        assert all(each.tokens[a][-1] == tokenizer.eos_id for a in each.answers)
        before = tokenizer.encode([*turns[: 2 * len(each.answers) - 1]]).tokens
        if len(said[0]) == len(each.answers):
            assert each.tokens[: each.answers[-1].start].tolist() == before
    assert [each.part for each in found] == [0, 0, 1, 2]


def test_other_pictures_stand_where_the_own_ones_stood(written):
    """Two pictures, an answer after each: what comes out is what encoding gives."""

    def row(*names):
        asked = {"role": "user", "content": parts({"type": "image"}, "?")}
        said = [{"role": "assistant", "content": text} for text in ("one", "two")]
        return {"images": names, "messages": [asked, said[0], asked, said[1]]}

    rows = (row("a.png", "b.png"), row("b.png", "a.png"), row("b.png", "b.png"))
    tokenizer, (one, *others), _ = read(written(*rows))
    for other in others:
        moved = one.with_pictures(other.pictures, tokenizer.image_ids)
        assert np.array_equal(moved.tokens, other.tokens)
        assert moved.answers == other.answers != one.answers
        assert moved.pictures == other.pictures


BAD = {
    "none.png: no such file": {"prompt": "x", "answer": "y", "image": "none.png"},
    "line 1: the last message is not an answer": {"messages": [{"role": "user", "content": "x"}]},
    "line 1: has prompt; allowed: messages, or": {"prompt": "x"},
    "line 1: images is 'a.png'": {"prompt": "x", "answer": "y", "images": "a.png"},
    "line 1: messages is {}": {"messages": {}},
    "an answer": {"prompt": "x", "answer": ""},
    "line 1: not a JSON object": "[1]",
    "has no rows": "\n",
}


@pytest.mark.parametrize("said", BAD)
def test_rows_that_cannot_be_used_are_named(written, said):
    with pytest.raises(PromptError) as caught:
        read(written(BAD[said]))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_all_bad_rows_are_counted(written):
    good, bad = SHAPES["prompt"], {"prompt": "x", "answer": "y", "image": "none.png"}
    with pytest.raises(PromptError, match=r"5 of 7 rows .*line 2.*line 3.*line 4.*and 2 more"):
        read(written(good, bad, bad, bad, bad, bad, good))


def test_a_long_row_is_refused_with_the_budget_that_fits(written):
    """And fits with it: nothing is ever cut."""
    file = written(SHAPES["prompt"])
    _, (whole,), _ = read(file)
    assert read(file, len(whole.tokens))[1][0].tokens.tolist() == whole.tokens.tolist()
    with pytest.raises(PromptError) as caught:
        read(file, len(whole.tokens) - 1)
    budget = int(str(caught.value).split("--image-budget ")[1].split()[0])
    _, (fits,), _ = read(file, len(whole.tokens) - 1, image_budget=budget)
    assert len(fits.tokens) < len(whole.tokens)
    assert f"--max-seq-length {len(whole.tokens)}" in str(caught.value)


def test_rows_for_validation(written, tmp_path):
    """valid.jsonl, or --val, or a tenth of the rows, chosen by the seed."""
    text = [{"prompt": str(i), "answer": "one"} for i in range(40)]
    file = written(*text)
    train, valid = find_rows(file, None, 3)
    assert (len(train.numbers), len(valid.numbers)) == (36, 4)
    assert sorted([*train.numbers, *valid.numbers]) == [*range(40)]
    assert find_rows(tmp_path, None, 3)[1].numbers == valid.numbers
    assert find_rows(file, None, 4)[1].numbers != valid.numbers
    other = written(*text[:5], name="other.jsonl")
    assert len(find_rows(file, other, 3)[1].numbers) == 5
    written(*text[:7], name="valid.jsonl")
    assert [len(each.numbers) for each in find_rows(tmp_path, None, 3)] == [40, 7]
    assert len(find_rows(tmp_path, other, 3)[1].numbers) == 5
    with pytest.raises(PromptError, match="has one row"):
        find_rows(written(text[0], name="one.jsonl"), None, 0)


def test_control_words_of_rows_stay_text(written):
    tokenizer, (found,), _ = read(written({"prompt": "[INST]", "answer": "[/INST]</s>[IMG]"}))
    assert found.tokens.tolist().count(tokenizer.image_ids[0]) == 0
    assert found.tokens.tolist().count(tokenizer.eos_id) == 1
