"""A fine-tune with more rows than its tokenizer has words: ids without a word are never chosen."""

import checkpoints
import pytest
from checkpoints import make_official, official_params, official_tensors, shipped_tokenizer

import pixtral_mlx as px
from pixtral_mlx.inputs.tokenizer import Tokenizer

ROWS, WORDS = 600, checkpoints.TEXT["vocab_size"]
SMALL = {"n_layers": 1}


def write_weights(folder, tensors, rows):
    """Weights for the first `rows` ids."""
    cut = {
        n: t[:rows] if n in ("output.weight", "tok_embeddings.weight") else t
        for n, t in tensors.items()
    }
    checkpoints.write_checkpoint(folder, "consolidated", cut)
    checkpoints.change_json(folder / "params.json", vocab_size=rows)
    checkpoints.write_tokenizer(folder, "tekken", WORDS, checkpoints.VISION)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same weights with rows that no word has, whose logits are the highest, and without."""
    root = tmp_path_factory.mktemp("rows")
    tensors = official_tensors(official_params(text={**SMALL, "vocab_size": ROWS}))
    tensors["output.weight"][WORDS:] *= 50
    for rows in (ROWS, WORDS):
        make_official(root / str(rows), text=SMALL)
        write_weights(root / str(rows), tensors, rows)
    return root


@pytest.fixture(scope="module")
def more(folders):
    return px.load(folders / str(ROWS))


@pytest.fixture(scope="module")
def fewer(folders):
    return px.load(folders / str(WORDS))


OPTIONS = [
    {},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "seed": 4},
    {"prompt_lookup_num_tokens": 4},
    {"repetition_penalty": 1.3},
    {"logit_bias": {300: 5.0}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_answer_is_that_of_the_model_without_these_rows(more, fewer, options):
    prompt = more.encode("What is this?")
    assert int(more.logits(prompt)[-1].argmax().item()) >= WORDS
    expected = fewer.generate(prompt, max_tokens=12, reuse=False, **options)
    reply = more.generate(prompt, max_tokens=12, reuse=False, **options)
    assert reply.tokens == expected.tokens and reply.text == expected.text
    assert reply.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def test_batches_and_a_sampler_without_a_seed(more, fewer):
    prompts = [more.encode(text) for text in ("One", "Another one")]
    batch = more.generate_batch(prompts, max_tokens=12)
    single = [fewer.generate(prompt, max_tokens=12) for prompt in prompts]
    assert [reply.tokens for reply in batch] == [reply.tokens for reply in single]
    for reply in more.generate_batch(prompts, max_tokens=30, temperature=1.0):
        assert max(reply.tokens) < WORDS


def test_looking_inside_names_such_ids_by_their_number(more):
    reply = more.generate("Hi", max_tokens=2, trace=True)
    names = [text for text, _ in reply.trace.alternatives(0, top=3)]
    assert names and all(name.startswith("<") and int(name[1:-1]) >= WORDS for name in names)


def test_such_ids_cannot_be_favoured(more):
    with pytest.raises(ValueError, match="logit_bias names token 512; allowed: 0 to 511"):
        more.generate("Hi", logit_bias={WORDS: 1.0})


@pytest.mark.parametrize("kind", ["tekken", "spm"])
def test_every_way_to_write_such_an_id(tmp_path, kind):
    if kind == "tekken":
        tokenizer = Tokenizer(make_official(tmp_path, text=SMALL) / "tekken.json")
    else:
        tokenizer = Tokenizer(shipped_tokenizer(checkpoints.SPM_FILE))
    first = tokenizer.n_words
    for token in (first, first + 1, 131_072 + 500):
        assert tokenizer.label(token) == f"<{token}>"
        assert tokenizer.decode([token]) == tokenizer.stream_decoder().add(token) == ""
    words = tokenizer._words.encode("Hello", bos=False, eos=False)
    mixed = [first, *words, first + 7]
    decoder = tokenizer.stream_decoder()
    assert tokenizer.decode(mixed) == "".join(map(decoder.add, mixed)) == tokenizer.decode(words)
    assert not decoder.pending


def test_no_such_id_is_among_the_likeliest(more):
    reply = more.generate("Why?", max_tokens=12, top_logprobs=20)
    assert all(len(top) == 20 for top in reply.top_logprobs)
    assert max(token for top in reply.top_logprobs for token, _ in top) < WORDS
