"""Tokenizer files that mistral-common would believe: counts, patterns, ranks, panics."""

import json
import shutil
import time

import pytest
from checkpoints import make_official

import pixtral_mlx as px
from pixtral_mlx.inputs.tekken import panics


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """An official folder."""
    return make_official(tmp_path_factory.mktemp("tekken") / "model", text={"n_layers": 1})


def config(**changes):
    """Changes the `config` of a tokenizer file."""
    return lambda data: data["config"].update(changes)


def word(number, **changes):
    """Changes an entry of its vocabulary."""
    return lambda data: data["vocab"][number].update(changes)


SPOILED = {
    "special tokens must be between": config(default_num_special_tokens=10**9),
    "special tokens must be a whole number": config(default_num_special_tokens="x"),
    "special tokens must be between 1 and": config(default_num_special_tokens=-1),
    "default_vocab_size must be between": config(default_vocab_size=10**12),
    "its pattern is ''": config(pattern=""),
    "its pattern is '(a+)+$'": config(pattern="(a+)+$"),
    "its pattern is None": config(pattern=None),
    "100 words and": lambda data: data.update(vocab=data["vocab"][:100]),
    "246 words and": lambda data: data.update(vocab=data["vocab"][:246]),
    "0 words and": lambda data: data.update(vocab={"a": 1}),
    "word 5 has rank -5": word(5, rank=-5),
    "word 5 has rank 1000000000... (51 digits)": word(5, rank=10**50),
    "Only base64 data is allowed": word(300, token_bytes="!!!!"),
    "word 300 is b''": word(300, token_bytes=""),
    "(config is [], not an object)": lambda data: data.update(config=[]),
    "word 7 has rank None": lambda data: data["vocab"].__setitem__(7, {}),
    r"word 300 is b'\x00', which": word(300, token_bytes="AA=="),
    "Unknown version": config(version="v99"),
    "special token 0 has rank 9": lambda data: data.update(
        special_tokens=[{"rank": 9, "token_str": "<x>", "is_control": True}]
    ),
}


@pytest.mark.parametrize("said", SPOILED)
def test_hostile_tokenizers_are_one_line_at_once(sound, tmp_path, said):
    folder = shutil.copytree(sound, tmp_path / "model")
    data = json.loads((folder / "tekken.json").read_text())
    SPOILED[said](data)
    (folder / "tekken.json").write_text(json.dumps(data))
    start = time.process_time()
    for use in (lambda: px.load(folder).encode("Hi"), lambda: px.convert(folder, tmp_path / "out")):
        with pytest.raises(px.PixtralError) as caught:
            use()
        assert said in str(caught.value) and "tekken.json" in str(caught.value)
    assert time.process_time() - start < 4
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_json(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "model")
    for data in (b"", b"[" * 10**6, b"\xff" * 99, b"7", b'{"config": {"pattern": ' + b"9" * 9999):
        (folder / "tekken.json").write_bytes(data)
        with pytest.raises(px.CheckpointError, match=r"tekken\.json: "):
            px.load(folder).encode("Hi")


PANIC = """
import tiktoken
tiktoken.Encoding("x", pat_str="a", mergeable_ranks={b"a": 0, b"b": 0}, special_tokens={})
"""


def test_a_panic_is_an_error(tmp_path):
    with pytest.raises(px.CheckpointError, match="the tokenizer failed"), panics(tmp_path):
        exec(PANIC)
    with pytest.raises(KeyboardInterrupt), panics(tmp_path):
        raise KeyboardInterrupt
