"""Which tokenizer file belongs to a folder, and when mistral-common's own may serve."""

import base64
import json
from dataclasses import replace

import pytest
import sentencepiece
from checkpoints import SPM_FILE, make_hf, official_params, shipped_tokenizer

import pixtral_mlx as px
from pixtral_mlx.errors import CheckpointError
from pixtral_mlx.inputs.tokenizer_file import SPECIALS, find_tokenizer_file, shipped_tekken
from pixtral_mlx.model.config import PixtralConfig

TEKKEN = json.loads(shipped_tokenizer("tekken_240911.json").read_text())
FIRST = TEKKEN["config"]["default_num_special_tokens"]
WORDS = TEKKEN["config"]["default_vocab_size"]
LARGE = PixtralConfig.from_params(official_params(tokenizer="spm"))
CONFIG = PixtralConfig.from_params(official_params(text={"vocab_size": WORDS}))


def letters():
    """GPT-2's table, written another way than in the package: shown as they are, or from 256 up."""
    table, spare = {}, 256
    for byte in range(256):
        shown = chr(byte).isprintable() and not chr(byte).isspace() and byte not in (0xAD,)
        table[byte] = chr(byte) if shown else chr(spare)
        spare += not shown
    return table


@pytest.fixture(scope="module")
def vocabulary():
    table = letters()
    words = {name: number for number, name in enumerate(SPECIALS)}
    words |= {f"<SPECIAL_{n}>": n for n in range(len(SPECIALS), FIRST)}
    for entry in TEKKEN["vocab"][: WORDS - FIRST]:
        piece = "".join(table[byte] for byte in base64.b64decode(entry["token_bytes"]))
        words[piece] = entry["rank"] + FIRST
    return words


def write(folder, words, *, added=()):
    model = {"type": "BPE", "vocab": words}
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": model, "added_tokens": list(added)})
    )
    return folder


def refusal(folder, config=CONFIG):
    with pytest.raises(CheckpointError) as caught:
        find_tokenizer_file(folder, config)
    line = str(caught.value)
    assert "\n" not in line and "tekken.json" in line
    return line


def test_the_folders_own_file_comes_first(tmp_path):
    sentences = tmp_path / SPM_FILE
    for name in ("mistral_instruct_tokenizer_241114.model.v7", SPM_FILE, "tokenizer.model.v3"):
        (tmp_path / name).touch()
    assert find_tokenizer_file(tmp_path, CONFIG) == sentences
    (tmp_path / "tekken.json").touch()
    assert find_tokenizer_file(tmp_path, CONFIG) == tmp_path / "tekken.json"


def test_pixtrals_own_words(tmp_path, vocabulary):
    assert shipped_tekken() == shipped_tokenizer("tekken_240911.json")
    write(tmp_path, vocabulary)
    assert find_tokenizer_file(tmp_path, CONFIG) == shipped_tekken()


def test_specials_among_the_added_tokens(tmp_path, vocabulary):
    words = {piece: number for piece, number in vocabulary.items() if number >= FIRST}
    added = [{"id": number, "content": name} for number, name in enumerate(SPECIALS)]
    assert find_tokenizer_file(write(tmp_path, words, added=added), CONFIG) == shipped_tekken()


def test_nemo_has_other_specials_after_the_tools(tmp_path, vocabulary):
    words = {piece: number for piece, number in vocabulary.items() if not 10 <= number <= 13}
    words |= {"<pad>": 10, "[PREFIX]": 11, "[MIDDLE]": 12, "[SUFFIX]": 13}
    write(tmp_path, words)
    assert find_tokenizer_file(tmp_path, replace(CONFIG, vision=None)) == shipped_tekken()
    assert "id 10 is '<pad>', not '[IMG]'" in refusal(tmp_path)


def test_another_vocabulary(tmp_path, vocabulary):
    small = PixtralConfig.from_params(official_params(text={"vocab_size": 512}))
    line = refusal(write(tmp_path, vocabulary), small)
    assert f"the vocabulary has 512 words where Pixtral's has {WORDS}" in line


@pytest.mark.parametrize("number", [1, FIRST, FIRST + 255, WORDS - 1])
def test_other_words_under_the_same_ids(tmp_path, vocabulary, number):
    """Two exchanged ids at the ends, or everything moved by one, do not pass."""
    pieces = {n: piece for piece, n in vocabulary.items()}
    if number == FIRST + 255:
        moved = {p: n + 1 if n > number else n for p, n in vocabulary.items()}
    else:
        moved = dict(vocabulary) | {pieces[number]: 500, pieces[500]: number}
    line = refusal(write(tmp_path, moved))
    assert "tokenizer.json is not Pixtral's (id " in line


def test_no_file_to_compare_with(tmp_path):
    assert "no tokenizer.json to check" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"model": {"vocab": [["a", 1.0]]}}',
        '{"model": 3}',
        '{"model": {"vocab": {"a": []}}}',
    ],
)
def test_broken_tokenizer_files(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    assert "it has no byte-level vocabulary" in refusal(tmp_path)


def test_a_model_whose_tokenizer_is_not_mistrals(tmp_path):
    """Apriel: a llava of Pixtral's sizes with words of its own."""
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "<|system|>": 3, "<|end|>": 4}
    line = refusal(write(tmp_path, words))
    assert "(id 3 is '<|system|>', not '[INST]')" in line and "such as Apriel" in line


def test_words_of_another_model_are_refused_when_the_folder_is_opened(tmp_path):
    """What no question can be asked is not loaded first; without a tokenizer, ids still can."""
    text = {"vocab_size": WORDS, "dim": 64, "n_layers": 1}
    folder = make_hf(tmp_path / "apriel", text=text, tokenizer=None)
    assert px.load(folder).config.text.vocab_size == WORDS
    write(folder, {"<unk>": 0, "<s>": 1, "</s>": 2, "<|system|>": 3})
    with pytest.raises(CheckpointError, match=r"not Pixtral's .id 3 is '<.system.>'"):
        px.load(folder)


def test_an_end_token_without_a_word_is_noted_when_the_folder_is_opened(
    tmp_path, vocabulary, caplog
):
    text = {"vocab_size": WORDS + 64, "dim": 64, "n_layers": 1}
    folder = make_hf(tmp_path / "tuned", text=text, tokenizer=None)
    write(folder, vocabulary)
    settings = folder / "generation_config.json"
    for written, ends in (('{"eos_token_id": 2}', []), ("[", []), ("3", []), ("{}", []),
                          (json.dumps({"eos_token_id": WORDS}), [WORDS]),
                          (json.dumps({"eos_token_id": [2, WORDS + 1]}), [WORDS + 1])):  # fmt: skip
        settings.write_text(written)
        px.load(folder)
        said = [f"answers end with id {end}, which has no word" in m
                for end, m in zip(ends, caplog.messages, strict=True)]  # fmt: skip
        assert all(said)
        caplog.clear()


@pytest.mark.parametrize("kind", ["tekken", "spm"])
def test_an_end_token_beyond_the_folders_own_words_is_noted(tmp_path, caplog, kind):
    """A file that cannot be read is one that is refused when it is used."""
    folder = make_hf(tmp_path / "tuned", tokenizer=kind)
    words = px.load(folder).tokenizer.n_words
    file = next(path for path in folder.iterdir() if path.name.startswith(("tekken", "tokenizer")))
    for end, noted in ((2, []), (words - 1, []), (words, [words]), ([2, words + 9], [words + 9])):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
        px.load(folder)
        said = [
            f"answers end with id {one}, which has no word in its tokenizer ({file.name})"
            in message
            for one, message in zip(noted, caplog.messages, strict=True)
        ]
        assert all(said)
        caplog.clear()
    for spoiled in (b"", b"{}", b"[]", b"\xff"):
        file.write_bytes(spoiled)
        px.load(folder)
    assert caplog.messages == []


def test_more_rows_than_words(tmp_path, vocabulary):
    added = [{"id": WORDS, "content": "<|im_end|>"}]
    write(tmp_path, vocabulary, added=added)
    for rows in (WORDS + 1, WORDS + 64):
        config = PixtralConfig.from_params(official_params(text={"vocab_size": rows}))
        assert find_tokenizer_file(tmp_path, config) == shipped_tekken()


# Pixtral Large ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large_vocabulary():
    return large_words(SPM_FILE)


def large_words(file):
    words = sentencepiece.SentencePieceProcessor(model_file=str(shipped_tokenizer(file)))
    return {words.id_to_piece(number): number for number in range(words.get_piece_size())}


def test_pixtral_larges_own_words(tmp_path, large_vocabulary):
    write(tmp_path, large_vocabulary)
    assert find_tokenizer_file(tmp_path, LARGE) == shipped_tokenizer(SPM_FILE)
    more = PixtralConfig.from_params(official_params(text={"vocab_size": 32_776}, tokenizer="spm"))
    assert find_tokenizer_file(tmp_path, more) == shipped_tokenizer(SPM_FILE)


def test_pixtral_large_in_hf_layout_answers(tmp_path, large_vocabulary):
    folder = make_hf(tmp_path, text={"n_layers": 1}, tokenizer="spm")
    expected = px.load(folder).encode("What is this?").tokens
    (folder / "tokenizer.model.v7m1").unlink()
    model = px.load(write(folder, large_vocabulary))
    assert model.encode("What is this?").tokens == expected
    assert model.generate("What is this?", max_tokens=3).stats.generated_tokens == 3


@pytest.mark.parametrize("number", [3, 16, 18, 771, 32_767])
def test_other_words_than_pixtral_larges(tmp_path, large_vocabulary, number):
    pieces = {n: piece for piece, n in large_vocabulary.items()}
    moved = large_vocabulary | {pieces[number]: 5000, pieces[5000]: number}
    assert "tokenizer.json is not Pixtral's (id " in refusal(write(tmp_path, moved), LARGE)
    moved = {p: n + 1 if n > max(number, 1026) else n for p, n in large_vocabulary.items()}
    if number < 32_767:
        assert "tokenizer.json is not Pixtral's (id " in refusal(write(tmp_path, moved), LARGE)


def test_older_words_of_the_same_number_are_others(tmp_path):
    """Mistral 7B v0.3 has 32,768 words too, and no pictures among them."""
    words = large_words("mistral_instruct_tokenizer_240323.model.v3")
    line = refusal(write(tmp_path, words), LARGE)
    assert "id 14 is '[control_12]', not '[IMG_BREAK]'" in line


def test_a_text_model_of_as_many_words_is_not_pixtral_large(tmp_path, large_vocabulary):
    line = refusal(write(tmp_path, large_vocabulary), replace(LARGE, vision=None))
    assert "the vocabulary has 32768 words where Pixtral's has 131072" in line


def test_nothing_to_compare_pixtral_large_with(tmp_path):
    assert "no tokenizer.json to check" in refusal(tmp_path, LARGE)
    (tmp_path / "tokenizer.json").write_text("[]")
    assert "it has no vocabulary" in refusal(tmp_path, LARGE)
