"""A trace opens again without its model; a damaged one is a clear error."""

import json

import mlx.core as mx
import numpy as np
import pytest

import pixtral_mlx as px
from pixtral_mlx.inputs.pixels import to_pixels
from pixtral_mlx.interpret.recorder import TraceOptions
from pixtral_mlx.interpret.trace_file import _checksum


@pytest.fixture(scope="module")
def trace(loaded, picture):
    pixels = np.array(picture)
    images = [pixels, pixels[:20, :20]]
    return loaded.generate("What?", images=images, max_tokens=4, trace=True).trace


@pytest.fixture
def file(trace, tmp_path):
    trace.save(tmp_path / "answer.safetensors")
    return tmp_path / "answer.safetensors"


def test_everything_that_needs_no_weights_is_the_same(trace, file):
    again = px.open_trace(file)
    assert again.tokens == trace.tokens
    assert again.words == trace.words
    assert again.prompt.tokens == trace.prompt.tokens
    for layer in range(3):
        for token in range(4):
            ours, theirs = (t.token_attention(token, layer, 1) for t in (again, trace))
            assert np.array_equal(ours, theirs)
        for image, patch in ((0, (2, 4)), (1, 3)):
            ours, theirs = (t.vision_attention(layer, patch, 2, image) for t in (again, trace))
            assert np.array_equal(ours, theirs)
    assert again.evidence(1) == trace.evidence(1)
    assert again.surprise(2) == trace.surprise(2)
    assert np.array_equal(again.vision_rollout(0), trace.vision_rollout(0))
    for ours, theirs in zip(again.prompt.images, trace.prompt.images, strict=True):
        assert np.array_equal(to_pixels(ours), to_pixels(theirs))
    assert again.picture().size == trace.picture().size


def test_what_needs_weights_says_so(file):
    again = px.open_trace(file)
    for call in (lambda: again.logit_lens(0, 0), lambda: again.position_lens(0, 0)):
        with pytest.raises(px.CheckpointError, match="has no model"):
            call()
    with pytest.raises(IndexError, match="token 4: there are 4"):
        again.token_attention(4, 0)


def test_layers_that_were_not_kept_are_not_there(model, tmp_path):
    keep = TraceOptions(vision_layers=[1], text_layers=[0])
    pixels = np.zeros((20, 20, 3), np.uint8)
    trace = model.generate("What?", images=[pixels], max_tokens=2, trace=keep).trace
    trace.save(tmp_path / "some.safetensors")
    again = px.open_trace(tmp_path / "some.safetensors")
    assert again.token_attention(1, 0).sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(IndexError, match="not kept"):
        again.vision_attention(0, 0)


def test_nothing_is_overwritten_or_left_half_written(trace, file, tmp_path):
    before = file.read_bytes()
    with pytest.raises(px.CheckpointError, match="already exists"):
        trace.save(file)
    assert file.read_bytes() == before
    with pytest.raises(px.CheckpointError, match="cannot be written"):
        trace.save(tmp_path / "no" / "folder.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def rewritten(file, change):
    """The same file with its arrays and metadata changed."""
    arrays, metadata = mx.load(str(file), return_metadata=True)
    about = json.loads(metadata["about"])
    arrays = change(arrays, about) or arrays
    metadata["about"] = json.dumps(about)
    metadata["checksum"] = _checksum(arrays, metadata["about"])  # not an accident
    mx.save_safetensors(str(file), arrays, metadata)


def _pop_keys(arrays, about):
    return {name: array for name, array in arrays.items() if name != "text.1.keys"}


DAMAGES = {
    "fewer words": lambda arrays, about: about["words"].pop() and None,
    "an image outside": lambda arrays, about: about["spans"][0].__setitem__(0, 10_000),
    "a negative grid": lambda arrays, about: about["spans"][0].__setitem__(1, -3),
    "a huge grid": lambda arrays, about: about["spans"][0].__setitem__(1, 2**30),
    "no configuration": lambda arrays, about: about.pop("config") and None,
    "wrong groups": lambda arrays, about: about.__setitem__("groups", [1]),
    "text for a number": lambda arrays, about: about["prompt"].__setitem__(0, "x"),
    "missing keys": _pop_keys,
    "missing picture": lambda a, about: {k: v for k, v in a.items() if k != "image.1"},
    "a wrong shape": lambda a, about: a | {"vision.0.queries": mx.zeros((1, 2, 3))},
    "an unknown array": lambda a, about: a | {"sound.0": mx.zeros(3)},
    "a layer too many": lambda a, about: a | {"text.7": a["text.1"]},
}


def test_one_wrong_bit_anywhere_is_noticed(file):
    data = file.read_bytes()
    places = np.random.RandomState(0).randint(0, len(data), 40)
    for place in [*places.tolist(), len(data) - 1]:
        file.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(px.CheckpointError):
            px.open_trace(file)


def test_states_are_kept_too(folder, tmp_path):
    model = px.load(folder, dtype="bfloat16")
    sites = ("vision.1", "vision.0.keys", "projector", "text.0", "text.1.queries", "text.2.heads")
    options = TraceOptions(states=sites)
    image = np.zeros((20, 40, 3), np.uint8)
    trace = model.generate(
        "What?", images=[image], max_tokens=3, trace=options, prefill_step_size=3
    ).trace
    trace.save(tmp_path / "states.safetensors")
    again = px.open_trace(tmp_path / "states.safetensors").states
    assert set(again) == set(sites)
    for site, state in trace.states.items():
        assert np.array_equal(again[site], state)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_contradicts_itself_is_refused(file, damage):
    rewritten(file, DAMAGES[damage])
    with pytest.raises(px.CheckpointError, match="not a trace of pixtral-mlx, or a damaged one"):
        px.open_trace(file)


def test_other_files_are_refused(file, tmp_path):
    with pytest.raises(px.CheckpointError):
        px.open_trace(tmp_path / "nothing.safetensors")
    data = file.read_bytes()
    for name, content in {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "junk": b"\x80\x04hi" * 9,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(px.CheckpointError):
            px.open_trace(tmp_path / name)
    mx.save_safetensors(str(tmp_path / "weights.safetensors"), {"a": mx.zeros(3)})
    with pytest.raises(px.CheckpointError, match="not a trace"):
        px.open_trace(tmp_path / "weights.safetensors")
