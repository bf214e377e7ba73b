"""Keys and values in a folder: another process goes on from them; what is damaged is ignored."""

import json
import logging
import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import make_official
from reuse import NEW, check
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import pixtral_mlx as px
from pixtral_mlx.checkpoint.safetensors_io import read_header
from pixtral_mlx.cli import main
from pixtral_mlx.engine.prompt_cache import PromptCache
from pixtral_mlx.engine.prompt_folder import _hash


@pytest.fixture
def process(folder, tmp_path):
    """Stands for a process of its own: the model anew, nothing in memory."""

    def start(path=folder, dtype="float32"):
        model = px.load(path, dtype=dtype)
        model.open_prompt_cache(tmp_path / "kept")
        return model

    return start


@pytest.fixture
def kept(process, picture, tmp_path):
    """The one file that a first process left, and its prompt."""
    model = process()
    prompt = model.encode("What is this?", [picture])
    model.generate(prompt, max_tokens=NEW)
    (file,) = (tmp_path / "kept").iterdir()
    return file, prompt


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", None])
def test_another_process_goes_on(process, picture, dtype):
    one = process(dtype=dtype)
    first, second = (one.encode(text, [picture]) for text in ("What is this?", "How many?"))
    expected = one.generate(first, max_tokens=NEW)
    two = process(dtype=dtype)
    reply = two.generate(second, max_tokens=NEW)
    assert reply.stats.cached_tokens >= second.spans[0].stop
    assert reply.stats.vision_seconds == 0
    again = process(dtype=dtype).generate(first, max_tokens=NEW)
    assert again.stats.cached_tokens == len(first.tokens) - 1
    assert again.tokens == expected.tokens


def test_answers_are_those_of_a_fresh_run(process, kept, picture):
    check(process(), kept[1], len(kept[1].tokens) - 1)
    other = process().encode("What is this?", [picture.rotate(180)])
    check(process(), other, other.spans[0].start)


def test_really_another_process(folder, kept, tmp_path, picture):
    picture.save(tmp_path / "image.png")
    words = [sys.executable, "-m", "pixtral_mlx", "generate", "--model", str(folder)]
    words += ["--dtype", "float32", "--image", str(tmp_path / "image.png"), "--prompt", "Why?"]
    words += ["--json", "--max-tokens", "2", "--prompt-cache", str(kept[0].parent)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["stats"]["cached_tokens"] >= kept[1].spans[0].stop
    assert "ignoring" not in done.stderr


def test_chat_goes_on_where_another_left(folder, tmp_path, capsys, monkeypatch):
    def turn(*lines):
        answers = iter(lines)
        monkeypatch.setattr("builtins.input", lambda _="": next(answers))
        words = ["chat", "--model", str(folder), "--prompt-cache", str(tmp_path / "kept")]
        assert main([*words, "--max-tokens", "4"]) == 0

    lengths, take = [], PromptCache.take

    def spy(*arguments):
        layers, length = take(*arguments)
        lengths.append(length)
        return layers, length

    monkeypatch.setattr(PromptCache, "take", spy)
    turn("Hello there", "/exit")
    turn("Hello there", "And more", "/exit")
    assert lengths[0] == 0
    assert 5 < lengths[1] < lengths[2]
    assert capsys.readouterr().err == ""


def test_a_longer_conversation_takes_the_place_of_the_shorter(process, kept, tmp_path):
    file, prompt = kept
    model = process()
    answer = model.generate(prompt, max_tokens=NEW).tokens
    assert files(tmp_path / "kept") == [file.name]  # nothing new to write
    longer = px.Prompt(
        prompt.tokens + answer + [2, 3, 120, 121, 122, 4], prompt.images, prompt.grids, prompt.spans
    )
    model.generate(longer, max_tokens=NEW)
    (new,) = files(tmp_path / "kept")
    assert new != file.name
    assert not any(name.startswith(".") for name in os.listdir(tmp_path / "kept"))
    assert file.parent.stat().st_mode & 0o077 == 0
    check(process(), longer, len(longer.tokens) - 1)


# What is not trusted ---------------------------------------------------------------------------


def rewrite(file, about=None, tensors=None, hashed=True):
    """Write a file anew with parts of it changed, and the hash of the new ones or of the old."""
    with safe_open(file, "np") as opened:
        metadata = opened.metadata()
    arrays, told = load_file(file), json.loads(metadata["about"])
    if tensors:
        tensors(arrays)
    if about:
        about(told)
    metadata["about"] = json.dumps(told)
    if hashed:
        metadata["hash"] = _hash(metadata["about"], {n: mx.array(a) for n, a in arrays.items()})
    save_file(arrays, file, metadata)


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(bytes(data))


DAMAGE = {
    "empty": lambda f: f.write_bytes(b""),
    "text": lambda f: f.write_text("not a cache at all"),
    "cut in the header": lambda f: f.write_bytes(f.read_bytes()[:50]),
    "cut in the data": lambda f: f.write_bytes(f.read_bytes()[:-9]),
    "longer": lambda f: f.write_bytes(f.read_bytes() + b"12345678"),
    "one bit of the data": lambda f: flip(f, -3),
    "one bit of the first data": lambda f: flip(
        f, 8 + int.from_bytes(f.read_bytes()[:8], "little")
    ),
    "another program": lambda f: save_file({"x": np.zeros(3, np.float32)}, f),
    "metadata of another kind": lambda f: save_file(
        {"x": np.zeros(3, np.float32)}, f, {"about": "[1, 2]", "hash": "0"}
    ),
    "another token": lambda f: rewrite(f, lambda a: a["tokens"].__setitem__(-1, 77), hashed=False),
    "a token that is none": lambda f: rewrite(f, lambda a: a["tokens"].__setitem__(0, 99999)),
    "a negative token": lambda f: rewrite(f, lambda a: a["tokens"].__setitem__(0, -1)),
    "fewer tokens": lambda f: rewrite(f, lambda a: a["tokens"].pop()),
    "tokens of another kind": lambda f: rewrite(f, lambda a: a.update(tokens=5)),
    "another image": lambda f: rewrite(f, lambda a: a.update(images=[[2, "0" * 64]]), hashed=False),
    "no image": lambda f: rewrite(f, lambda a: a.update(images=[]), hashed=False),
    "an image elsewhere": lambda f: rewrite(f, lambda a: a.update(images=[[5000, "0" * 64]])),
    "an image on a word": lambda f: rewrite(f, lambda a: a.update(images=[[1, "0" * 64]])),
    "images of another kind": lambda f: rewrite(f, lambda a: a.update(images=7)),
    "another format": lambda f: rewrite(f, lambda a: a.update(format="0")),
    "another model": lambda f: rewrite(f, lambda a: a.update(model="0" * 64)),
    "a layer less": lambda f: rewrite(f, tensors=lambda t: t.pop("1.keys")),
    "a layer more": lambda f: rewrite(f, tensors=lambda t: t.update({"9.keys": t["1.keys"]})),
    "another shape": lambda f: rewrite(
        f, tensors=lambda t: t.update({"1.keys": t["1.keys"].transpose(0, 2, 1, 3).copy()})
    ),
    "another type": lambda f: rewrite(
        f, tensors=lambda t: t.update({"1.keys": t["1.keys"].view(np.int32)})
    ),
    "other numbers": lambda f: rewrite(
        f, tensors=lambda t: t.update({"1.keys": t["1.keys"] + 1}), hashed=False
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("when", ["before", "after it was opened"])
def test_what_is_damaged_is_ignored_with_one_note(process, kept, caplog, kind, when):
    file, prompt = kept
    if when == "before":
        DAMAGE[kind](file)
    with caplog.at_level(logging.WARNING):
        model = process()
        if when != "before":
            DAMAGE[kind](file)
        reply = model.generate(prompt, max_tokens=NEW)
        model.generate("Something else", max_tokens=1)
    notes = [record.getMessage() for record in caplog.records]
    assert len(notes) == 1
    assert file.name in notes[0]
    assert "ignoring" in notes[0]
    assert "\n" not in notes[0]
    assert reply.stats.cached_tokens == 0
    assert reply.tokens == model.generate(prompt, max_tokens=NEW, reuse=False).tokens


def test_files_of_another_model_are_ignored_and_stay(process, kept, tmp_path, caplog):
    other = make_official(tmp_path / "other", seed=5)
    model = process(other)
    assert "another model" in caplog.text
    assert model.generate(kept[1], max_tokens=2).stats.cached_tokens == 0
    assert len(files(tmp_path / "kept")) == 2
    assert process(dtype="bfloat16").generate(kept[1], max_tokens=2).stats.cached_tokens == 0


def test_weights_written_anew_are_another_model(kept, tmp_path, process):
    copy = make_official(tmp_path / "copy")
    process(copy).generate(kept[1], max_tokens=2)
    assert process(copy).generate(kept[1], max_tokens=2).stats.cached_tokens > 0
    weights = copy / "consolidated.safetensors"
    seen, place = weights.stat(), read_header(weights)["layers.1.attention.wv.weight"].start
    flip(weights, place)  # same size, same time, same header
    os.utime(weights, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert process(copy).generate(kept[1], max_tokens=2).stats.cached_tokens == 0


def test_weights_that_changed_in_memory(process, kept, caplog, folder):
    model = process()
    wv = model.decoder.layers[0].attention.wv
    for factor in (2, 0.25):  # twice: the second array may stand where the first one stood
        wv.weight = wv.weight * factor
        mx.eval(wv.weight)
    check(model, kept[1], 0)
    assert "weights have changed" in caplog.text
    assert files(kept[0].parent) == [kept[0].name]
    with pytest.raises(px.CheckpointError, match="right after"):
        model.open_prompt_cache(kept[0].parent)
    with pytest.raises(px.CheckpointError, match="right after"):
        px.Pixtral(model.config).open_prompt_cache(kept[0].parent)


def test_folders_that_cannot_be_used(folder, tmp_path, capsys, process, kept, caplog):
    model = px.load(folder)
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "below", ""):
        with pytest.raises(px.CheckpointError, match="prompt cache"):
            model.open_prompt_cache(wrong)
    words = ["generate", "--model", str(folder), "--prompt", "Hi", "--prompt-cache"]
    assert main([*words, str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    # One that vanishes is no reason to stop.
    model = process()
    for path in kept[0].parent.iterdir():
        path.unlink()
    kept[0].parent.rmdir()
    check(model, kept[1], 0)
    assert "cannot be read" in caplog.text


def test_folders_that_others_may_write_into_are_refused(process, kept, tmp_path, monkeypatch):
    for mode in (0o777, 0o1777, 0o775, 0o770):
        (tmp_path / "kept").chmod(mode)
        with pytest.raises(px.CheckpointError, match="others may write into it"):
            process()
    (tmp_path / "kept").chmod(0o755)
    process()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 12345)
    if os.getuid():  # root's are believed
        with pytest.raises(px.CheckpointError, match="another user"):
            process()


def test_what_is_no_file_is_left_alone(process, kept):
    os.mkfifo(kept[0].parent / "prompt-0.safetensors")
    (kept[0].parent / "prompt-1.safetensors").mkdir()
    check(process(), kept[1], len(kept[1].tokens) - 1)


# Bytes -----------------------------------------------------------------------------------------


def test_the_least_recently_used_file_goes_first(process, tmp_path):
    model = process()
    prompts = [model.encode(letter * 12) for letter in "abc"]
    names = []
    for prompt in prompts[:2]:
        model.generate(prompt, max_tokens=1)
        names.append(set(files(tmp_path / "kept")))
    first = names[0].pop()
    (second,) = names[1] - {first}
    for age, name in enumerate((first, second)):
        os.utime(tmp_path / "kept" / name, ns=(age * 10**9, age * 10**9))
    model = process()
    model.prompt_cache.folder.max_bytes = int(2.5 * (tmp_path / "kept" / first).stat().st_size)
    model.generate(prompts[0], max_tokens=1)  # used again
    model.generate(prompts[2], max_tokens=1)
    assert first in files(tmp_path / "kept")
    assert second not in files(tmp_path / "kept")
    assert len(files(tmp_path / "kept")) == 2


def test_a_full_disk_is_a_note(process, tmp_path, picture, caplog, monkeypatch):
    model = process()
    prompt = model.encode("What is this?", [picture])
    save = mx.save_safetensors

    def full(name, *rest):
        save(name, *rest)
        os.truncate(name, os.path.getsize(name) - 100)

    monkeypatch.setattr(mx, "save_safetensors", full)
    check(model, prompt, 0)
    assert files(tmp_path / "kept") == []
    assert caplog.text.count("is not kept") == 1
    monkeypatch.undo()
    model.prompt_cache.folder.max_bytes = 1000
    model.clear_cache()
    check(model, prompt, 0)
    assert files(tmp_path / "kept") == []


def test_what_killed_processes_left_is_removed_later(process, kept):
    old, young = (kept[0].parent / f".prompt-{n}.partial-1.safetensors" for n in (1, 2))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    process().generate("Something else", max_tokens=1)
    assert not old.exists()
    assert young.exists()


def test_an_interrupted_save_leaves_nothing(process, tmp_path, picture, monkeypatch):
    def strike(*_):
        raise KeyboardInterrupt

    model = process()
    monkeypatch.setattr(mx, "save_safetensors", strike)
    model.generate("What is this?", images=[picture], max_tokens=2)
    assert files(tmp_path / "kept") == []


def test_edits_stay_in_this_process(process, tmp_path, picture):
    model = process()
    change = [px.edits.NoBreakTokens()]
    model.generate("What is this?", images=[picture], max_tokens=2, edits=change)
    assert files(tmp_path / "kept") == []
