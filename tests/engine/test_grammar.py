"""Answers in a form: whoever writes them, however they are chosen, whatever the tokenizer."""

import json
import random

import jsonschema
import numpy as np
import pytest
from checkpoints import make_official
from questions import user

import pixtral_mlx as px
from pixtral_mlx.engine.form import as_form
from pixtral_mlx.engine.grammar import constraint_of
from pixtral_mlx.mini import scene

WORDS = {"type": "array", "items": {"enum": ["tea", "coffee"]}, "minItems": 2, "maxItems": 4}
ORDER = {
    "type": "object",
    "properties": {
        "drinks": WORDS,
        "table_number": {"type": "integer", "minimum": 0, "maximum": 99},
        "note": {"type": ["string", "null"], "maxLength": 6},
    },
    "required": ["drinks", "table_number", "note"],
}
LONG = {"max_tokens": 200, "response_format": ORDER}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A small model with Pixtral Large's SentencePiece."""
    folder = make_official(tmp_path_factory.mktemp("large") / "model", tokenizer="spm")
    return px.load(folder, dtype="float32")


def check(reply, schema=ORDER):
    """It ended, is compact, and its value is what it says."""
    assert reply.finish_reason == "stop" and reply.parse_error is None
    jsonschema.validate(reply.parsed, schema)
    assert json.dumps(reply.parsed, ensure_ascii=False, separators=(",", ":")) == reply.text
    assert len(reply.tokens) == len(reply.logprobs) == len(reply.allowed_mass)
    assert len(reply.tokens) == reply.stats.generated_tokens > reply.stats.forced_tokens > 0
    assert all(0 <= mass <= 1 for mass in reply.allowed_mass)
    assert all(
        np.exp(lp) <= mass + 1e-5
        for lp, mass in zip(reply.logprobs, reply.allowed_mass, strict=True)
    )


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("which", ["model", "large"])
def test_an_answer_keeps_its_schema(request, which, temperature, picture):
    model = request.getfixturevalue(which)
    for seed in range(3):
        reply = model.generate(
            "Which?", images=[picture], temperature=temperature, seed=seed, **LONG
        )
        check(reply)


def test_without_a_form_nothing_changes(model):
    plain = model.generate("Which?", max_tokens=30)
    text = model.generate("Which?", max_tokens=30, response_format={"type": "text"}, reuse=False)
    assert (text.tokens, text.logprobs) == (plain.tokens, plain.logprobs)
    assert (plain.parsed, plain.parse_error, plain.allowed_mass) == (None, None, [])
    assert plain.stats.forced_tokens == 0
    assert next(iter(model.stream("Which?"))).allowed_mass is None


def test_log_probabilities_are_the_models_own_from_before_the_mask(model, picture):
    """One pass over prompt and answer gives them again, and the mass that the form allowed."""
    bias = {300: 3.0}
    reply = model.generate(
        "Which?", images=[picture], temperature=1.5, seed=3, logit_bias=bias, **LONG
    )
    check(reply)
    prompt = model.encode("Which?", [picture])
    whole = model.encode("Which?", [picture])
    whole.tokens.extend(reply.tokens)
    logits = np.array(model.logits(whole), np.float64)[len(prompt.tokens) - 1 : -1]
    logits[:, 300] += 3.0
    logits -= logits.max(axis=-1, keepdims=True)
    own = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(own[range(len(own)), reply.tokens], reply.logprobs, atol=1e-4)
    constraint = constraint_of(as_form(ORDER), model.tokenizer, own.shape[1])
    for row, token, mass in zip(own, reply.tokens, reply.allowed_mass, strict=True):
        allowed = constraint.allowed()
        assert allowed[token]
        np.testing.assert_allclose(np.exp(row[allowed]).sum(), mass, atol=1e-5)
        constraint.accept(token)
    assert constraint.ended


def test_what_is_forced_joins_the_next_pass(model, monkeypatch):
    passes = []
    decoder = type(model.decoder)
    original = decoder.hidden

    def hidden(self, inputs, *rest):
        passes.append(inputs.shape[1])
        return original(self, inputs, *rest)

    monkeypatch.setattr(decoder, "hidden", hidden)
    reply = model.generate("Which?", reuse=False, **LONG)
    check(reply)
    drawn = reply.stats.generated_tokens - reply.stats.forced_tokens
    assert reply.text.endswith('"}') or reply.text.endswith("null}")
    # A pass for each choice, the first of which reads the prompt; what is forced at the end is
    # forced by the last one.
    assert len(passes) == 1 + drawn
    length = reply.stats.prompt_tokens
    assert length < sum(passes) <= length + reply.stats.generated_tokens
    assert max(passes[1:]) > 8


def test_how_many_are_read_at_once_changes_nothing(model, monkeypatch):
    from pixtral_mlx.engine import run

    replies = []
    for most in (1, 3, run.MOST_FORCED):
        monkeypatch.setattr(run, "MOST_FORCED", most)
        replies.append(model.generate("Which?", temperature=1.0, seed=5, reuse=False, **LONG))
        check(replies[-1])
    assert len({reply.text for reply in replies}) == 1
    assert len({tuple(reply.tokens) for reply in replies}) == 1
    assert len({reply.stats.forced_tokens for reply in replies}) == 1


def test_pieces_add_up_and_carry_the_mass(model):
    stream = model.stream("Which?", temperature=1.0, seed=2, **LONG)
    pieces = list(stream)
    check(stream.reply)
    assert "".join(piece.text for piece in pieces) == stream.reply.text
    assert [piece.allowed_mass for piece in pieces] == stream.reply.allowed_mass
    assert stream.reply.text == model.generate("Which?", temperature=1.0, seed=2, **LONG).text


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_a_batch_gives_the_answers_of_single_runs_each_in_its_own_form(model, temperature):
    forms = [ORDER, None, {"type": "regex", "regex": "(yes|no)( maybe)?"}, WORDS]
    requests = [
        {"messages": f"Question {n}?", "response_format": form, "seed": n, "max_tokens": 60 + n}
        for n, form in enumerate(forms * 2)
    ]
    replies = model.generate_batch(requests, temperature=temperature, reuse=False)
    for reply, request in zip(replies, requests, strict=True):
        single = model.generate(temperature=temperature, reuse=False, **request)
        assert (reply.tokens, reply.text) == (single.tokens, single.text)
        assert (reply.finish_reason, reply.parsed) == (single.finish_reason, single.parsed)
        assert reply.stats.forced_tokens == single.stats.forced_tokens
        np.testing.assert_allclose(reply.logprobs, single.logprobs, atol=1e-4)
        np.testing.assert_allclose(reply.allowed_mass, single.allowed_mass, atol=1e-5)
        assert request["response_format"] is None or reply.parsed is not None


def test_a_form_that_comes_later_joins_what_is_written(model):
    """The first is in the middle of its answer, in a pass over what is forced, say."""
    from pixtral_mlx.engine.batch import Batch

    single = [model.generate(q, reuse=False, **LONG) for q in ("First?", "Second?")]
    for steps in range(3, 12):
        batch, found = Batch(model.engine), {}
        batch.add({"messages": "First?", "reuse": False, **LONG})
        for _ in range(steps):
            batch.step()
        batch.add({"messages": "Second?", "reuse": False, **LONG})
        while batch.busy:
            found |= {n: e for n, e in batch.step() if isinstance(e, px.Reply)}
        assert [found[n].tokens for n in (0, 1)] == [reply.tokens for reply in single]
        assert [found[n].stats.forced_tokens for n in (0, 1)] == [
            reply.stats.forced_tokens for reply in single
        ]


def test_a_trace_has_the_rows_of_what_was_forced(model, picture):
    question = {"messages": "Which?", "images": [picture], "temperature": 1.0, "seed": 4}
    reply = model.generate(**question, trace=True, **LONG)
    check(reply)
    assert reply.stats.forced_tokens > 8
    prompt = model.encode("Which?", [picture])
    whole = model.encode("Which?", [picture])
    whole.tokens.extend(reply.tokens[:-1])
    after = model.generate(whole, max_tokens=1, trace=True, reuse=False).trace
    last = len(reply.tokens) - 1
    for layer in range(model.config.text.n_layers):
        for token in (0, 1, 5, last):
            row = reply.trace.token_attention(token, layer)
            assert row.shape == (len(prompt.tokens) + token,)
            np.testing.assert_allclose(row.sum(), 1, atol=1e-5)
        np.testing.assert_allclose(row, after.token_attention(0, layer), atol=1e-5)
    for token in (1, 5, last):
        lens = dict(reply.trace.logit_lens(token, model.config.text.n_layers - 1, top=512))
        label = model.tokenizer.label(reply.tokens[token])
        np.testing.assert_allclose(np.log(lens[label]), reply.logprobs[token], atol=1e-3)


def test_edits_change_what_is_chosen_and_not_the_form(model, picture):
    edits = [px.edits.SkipLayers("text", [0])]
    question = {"messages": "Which?", "images": [picture], "temperature": 1.0, "seed": 4}
    plain, edited = (model.generate(**question, edits=e, **LONG) for e in ((), edits))
    check(plain)
    check(edited)
    assert plain.text != edited.text


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model whose heads are wide enough for quantized keys and values."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    return px.load(make_official(folder, text={"head_dim": 64, "n_layers": 1}), dtype="float32")


@pytest.mark.parametrize(("which", "kv_bits"), [("model", None), ("wide", 8)])
def test_what_was_computed_is_reused(request, which, kv_bits, picture):
    model = request.getfixturevalue(which)
    first = model.generate("Which?", images=[picture], kv_bits=kv_bits, **LONG)
    again = model.generate("Which?", images=[picture], kv_bits=kv_bits, **LONG)
    assert again.stats.cached_tokens == again.stats.prompt_tokens - 1
    assert (again.tokens, again.parsed) == (first.tokens, first.parsed)
    talk = [
        user(picture, "Which?")[0],
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "And?"},
    ]
    following = model.generate(talk, kv_bits=kv_bits, **LONG)
    fresh = model.generate(talk, kv_bits=kv_bits, reuse=False, **LONG)
    assert following.stats.cached_tokens > first.stats.prompt_tokens
    assert following.tokens == fresh.tokens


def test_penalties_and_filters_work_within_a_form(model):
    for options in ({"top_k": 3}, {"top_p": 0.3}, {"min_p": 0.5}, {"repetition_penalty": 1.5}):
        check(model.generate("Which?", temperature=2.0, seed=1, **options, **LONG))


# Ends ------------------------------------------------------------------------------------------


def test_a_cut_answer_has_no_value(model):
    whole = model.generate("Which?", **LONG)
    for limit in (1, 5, len(whole.tokens) - 1):
        cut = model.generate("Which?", response_format=ORDER, max_tokens=limit)
        assert cut.finish_reason == "length" and cut.parsed is None
        assert cut.tokens == whole.tokens[:limit]
        assert cut.parse_error == f"the answer was cut after {limit:,} tokens, before its end"
    exact = model.generate("Which?", response_format=ORDER, max_tokens=len(whole.tokens))
    assert (exact.finish_reason, exact.parsed) == ("stop", whole.parsed)


def test_a_stop_string_ends_it_early(model):
    reply = model.generate("Which?", stop=['"table'], **LONG)
    assert reply.finish_reason == "stop" and reply.text.endswith("],")
    assert reply.parsed is None
    assert reply.parse_error == "a stop string ended the answer before its end"


def test_what_only_the_whole_answer_shows_is_a_parse_error(model):
    schema = {"oneOf": [{"type": "integer", "maximum": 9}, {"type": "integer", "minimum": 0}]}
    replies = [
        model.generate("Which?", temperature=1.0, seed=seed, response_format=schema)
        for seed in range(12)
    ]
    found = {reply.parsed is None for reply in replies}
    assert found == {True, False}
    for reply in replies:
        assert reply.finish_reason == "stop"
        assert (reply.parse_error is None) == (reply.parsed is not None)
        assert (0 <= int(reply.text) <= 9) == (reply.parsed is None)
    problem = next(reply.parse_error for reply in replies if reply.parse_error)
    assert problem.startswith("#: ") and "valid under each of" in problem and "\n" not in problem


def test_an_interrupted_answer_has_no_value(model):
    stream = model.stream("Which?", **LONG)
    for _, _ in zip(range(4), stream, strict=False):
        pass
    stream.interrupt()
    assert (stream.reply.finish_reason, stream.reply.parsed) == ("interrupted", None)


def test_a_lexer_that_others_wore_out_is_replaced(model, monkeypatch):
    """Copies share their lexer's limits; an answer goes on with one of its own."""
    constraint = constraint_of(as_form(ORDER), model.tokenizer, 512)
    reference = constraint_of(as_form(ORDER), model.tokenizer, 512)
    for token in (reference.forced(16))[:5]:
        reference.accept(token)
        constraint.accept(token)
    constraint._matcher.consume_token(model.tokenizer.bos_id)
    assert constraint._matcher.is_error()
    assert constraint.forced(16) == reference.forced(16)
    assert (constraint.allowed() == reference.allowed()).all() and constraint.problem is None


# Languages -------------------------------------------------------------------------------------

PHRASES = [
    "Grüße, ça va?",
    "価格は千円です",
    "مرحبا يا عالم",
    "Привет мир",
    "👩‍👩‍👧 \U0001f1e9\U0001f1ea ok",
]


@pytest.mark.parametrize("which", ["model", "large"])
def test_strings_in_other_scripts(request, which):
    """Characters that take several tokens are allowed, and written whole."""
    model = request.getfixturevalue(which)
    schema = {"type": "object", "properties": {"t": {"enum": PHRASES}}, "required": ["t"]}
    found = set()
    for seed in range(12):
        reply = model.generate(
            "Which?", temperature=3.0, seed=seed, max_tokens=99, response_format=schema
        )
        assert reply.parse_error is None
        found.add(reply.parsed["t"])
    assert len(found) > 2 and found <= {*PHRASES}
    for phrase in PHRASES:
        form = as_form(
            {"type": "object", "properties": {"t": {"type": "string"}}, "required": ["t"]}
        )
        constraint = constraint_of(form, model.tokenizer, model.config.text.vocab_size)
        text = json.dumps({"t": phrase}, ensure_ascii=False, separators=(",", ":"))
        for token in model.tokenizer._words.encode(text, bos=False, eos=False):
            assert constraint.allowed()[token]
            constraint.accept(token)
        assert constraint.ended and form.read(text) == ({"t": phrase}, None)


@pytest.mark.parametrize("seed", [3, 4])
def test_pixtral_mini_chooses_right_and_its_first_mass_says_what_it_can(mini, seed):
    words = {"rows": "one|two|three|four|five", "wide": "wide|tall|square"}
    for question in scene(seed).questions:
        if question.kind in words:
            ask = {"messages": question.text, "images": question.images}
            choice = {"type": "regex", "regex": words[question.kind]}
            reply = mini.generate(**ask, response_format=choice)
            assert reply.parsed == question.answer and reply.allowed_mass[0] > 0.99
            held = {
                "type": "object",
                "properties": {"v": {"enum": words[question.kind].split("|")}},
            }
            reply = mini.generate(**ask, response_format=held | {"required": ["v"]})
            assert reply.parsed.keys() == {"v"} and reply.allowed_mass[0] < 0.01


# Many schemas ----------------------------------------------------------------------------------


def random_schema(rng: random.Random, depth: int = 0) -> dict:
    """One of what JSON Schema can say, small enough for a random model to come to an end."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "format", "pattern"]
    kinds += ["object", "array", "anyOf", "tuple", "types"] * (2 if depth == 0 else depth < 2)
    match rng.choice(kinds):
        case "string":
            least = rng.randrange(3)
            return {"type": "string", "minLength": least, "maxLength": least + rng.randrange(6)}
        case "integer":
            return {
                "type": "integer",
                "minimum": rng.randrange(-50, 5),
                "maximum": rng.randrange(5, 900),
            }
        case "number":
            return {
                "type": "number",
                "exclusiveMinimum": -rng.random(),
                "multipleOf": rng.choice([0.5, 0.25]),
            }
        case "enum":
            values = ["a", "b c", 'q"', "é", 5, -1.5, None, True, ["x"], {"k": 1}]
            return {"enum": rng.sample(values, rng.randrange(1, 6))}
        case "const":
            return {"const": rng.choice(["fixed", 7, {"a": [1, 2]}])}
        case "format":
            return {
                "type": "string",
                "format": rng.choice(["date", "time", "ipv4", "uuid", "date-time"]),
            }
        case "pattern":
            return {
                "type": "string",
                "pattern": rng.choice(["^[A-Z]{2}-\\d{3}$", "^(yes|no)$", "^a+b$"]),
            }
        case "array":
            return {
                "type": "array",
                "items": random_schema(rng, depth + 1),
                "maxItems": rng.randrange(4),
            }
        case "tuple":
            first = [random_schema(rng, depth + 1) for _ in range(rng.randrange(1, 3))]
            return {"type": "array", "prefixItems": first, "items": False, "minItems": len(first)}
        case "anyOf":
            return {"anyOf": [random_schema(rng, depth + 1) for _ in range(2)]}
        case "types":
            return {"type": ["null", "integer"], "minimum": 0, "maximum": 99}
        case "object":
            names = rng.sample(
                ["a", "b c", "ünï", "d/e", "f~g", "table_number"], rng.randrange(1, 4)
            )
            required = [name for name in names if rng.random() < 0.7]
            parts = {name: random_schema(rng, depth + 1) for name in names}
            return {"type": "object", "properties": parts, "required": required}
        case kind:
            return {"type": kind}
    raise AssertionError


def test_every_finished_answer_to_random_schemas_validates(folder):
    Validator, rng = jsonschema.Draft202012Validator, random.Random(16)
    formats = Validator.FORMAT_CHECKER
    schemas = [random_schema(rng) for _ in range(300)]
    ended = 0
    for number in range(3):
        model = px.load(folder, dtype="float32")
        for layer in model.decoder.layers:  # another random model
            layer.attention.wo.weight = layer.attention.wo.weight * (1 + number)
        part = schemas[number::3]
        requests = [
            {"messages": "Which?", "response_format": schema, "seed": seed}
            for seed, schema in enumerate(part)
        ]
        replies = model.generate_batch(requests, temperature=1.5, max_tokens=120)
        for reply, schema in zip(replies, part, strict=True):
            if reply.finish_reason == "length":
                assert reply.parsed is None
                continue
            ended += 1
            value = json.loads(reply.text)
            errors = list(Validator(schema, format_checker=formats).iter_errors(value))
            if reply.parse_error is None:
                assert errors == [] and reply.parsed == value
            else:  # a date that was not
                assert reply.parsed is None
                assert errors and {error.validator for error in errors} <= {"format", "anyOf"}
    assert ended > 250


def test_what_was_forced_and_how_it_ended_are_said(mini):
    """Of a choice between two words only the first token is chosen; an end that the form leaves
    open is the model's, with its own log-probability."""
    shown = scene(7, rows=3, columns=4).image
    choice = {"type": "regex", "regex": "the picture is (wide|tall)"}
    reply = mini.generate("Wide, tall or square?", images=[shown], response_format=choice)
    assert reply.text.endswith(("wide", "tall")) and reply.end_logprob is None
    assert len(reply.forced) == len(reply.tokens) == len(reply.allowed_mass)
    assert sum(reply.forced) == reply.stats.forced_tokens > 0 and not reply.forced[-1]
    open_end = {"type": "regex", "regex": "[a-z]+( [a-z]+)*"}
    (reply,) = mini.generate_batch(
        ["Wide, tall or square?"], images=[[shown]], response_format=open_end
    )
    assert reply.text == "wide" and -0.1 < reply.end_logprob <= 0 and reply.forced == [False]
