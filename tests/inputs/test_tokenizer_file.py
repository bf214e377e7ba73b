"""Which tokenizer file belongs to a folder, and when mistral-common's own may serve."""

import base64
import json
from dataclasses import replace

import pytest
from checkpoints import SPM_FILE, official_params, shipped_tokenizer

from pixtral_mlx.errors import CheckpointError
from pixtral_mlx.inputs.tokenizer_file import SPECIALS, find_tokenizer_file, shipped_tekken
from pixtral_mlx.model.config import PixtralConfig

TEKKEN = json.loads(shipped_tokenizer("tekken_240911.json").read_text())
FIRST = TEKKEN["config"]["default_num_special_tokens"]
WORDS = TEKKEN["config"]["default_vocab_size"]
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
