"""A training: what it computes, that it goes on bit for bit where it stopped, and what it says."""

import json
import os
import signal
import subprocess
import sys
import time

import checkpoints
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image
from questions import noise
from tuning_rows import OPTIONS, write_rows

import pixtral_mlx as px
from pixtral_mlx.checkpoint.adapter_files import open_adapter
from pixtral_mlx.cli import main
from pixtral_mlx.errors import CheckpointError, PixtralError
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.tuning import estimate, train
from pixtral_mlx.tuning.batches import make_batch, order_of
from pixtral_mlx.tuning.dataset import Rows, read_examples
from pixtral_mlx.tuning.loss import batch_loss, token_losses
from pixtral_mlx.tuning.low_rank import adapter_of, put_low_rank
from pixtral_mlx.tuning.options import TuningOptions
from pixtral_mlx.tuning.pictures import EncodedPictures
from pixtral_mlx.tuning.tune import tune
from pixtral_mlx.tuning.validation import scores, swapped


@pytest.fixture(scope="module")
def data(rows, tmp_path_factory):
    """(examples, encoded pictures) of the rows for validation."""
    model = px.load("mini", "float32")
    folder, pixels = tmp_path_factory.mktemp("features"), {}
    pictures = EncodedPictures(model.vision_encoder, folder, 1e9, pixels.__getitem__)

    def show(digest, image):
        pixels[digest] = image
        pictures.add(digest, image)

    read = read_examples(Rows(rows / "valid.jsonl"), model.tokenizer, ImageOptions(), 8192, show)
    return list(read), pictures


def same(first, second) -> bool:
    return (first / "adapters.safetensors").read_bytes() == (
        second / "adapters.safetensors"
    ).read_bytes()


# What is computed -----------------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True])
def test_losses_are_those_of_the_model_asked_one_by_one(data, mini, rows, again):
    """Padded to one length, with features from the disk, and logits at answers alone."""
    examples, pictures = data
    chosen = sorted(examples, key=lambda each: -len(each.tokens))
    losses, hits = token_losses(mini, make_batch(chosen, pictures, 10), again=again)
    wanted = []
    source = Rows(rows / "valid.jsonl")
    for each in chosen:
        prompt, answers = source.sequences(each.number, mini.tokenizer, ImageOptions())[0]
        logits = mini.logits(prompt)
        logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        wanted += [
            -float(logits[i - 1, prompt.tokens[i]].item())
            for answer in answers
            for i in range(answer.start, answer.stop)
        ]
    assert np.abs(np.array(losses) - wanted).max() < 1e-4
    assert 0 < np.array(hits).mean() < 1


def test_an_answer_is_right_if_all_of_its_tokens_are(data, mini):
    """In the order of the rows, however they are read together."""
    examples, pictures = data
    found = scores(mini, examples, pictures, batch_size=5, image_token=10)
    wanted, partly = [], 0
    for each in examples:
        batch = make_batch([each], pictures, 10)
        hits = np.array(token_losses(mini, batch)[1])
        for number in range(len(each.answers)):
            own = hits[batch.answers == number]
            wanted.append(bool(own.all()))
            partly += own.any() and not own.all()
    assert found.right == tuple(wanted) and partly
    assert 0 < found.accuracy == np.mean(wanted) < 1


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_only_the_small_matrices_learn_and_the_first_answers_are_the_models(data, kind):
    """And computing a layer twice gives the same gradient."""
    model = px.load("mini", "float32")
    examples, pictures = data
    batch = make_batch(examples[:3], pictures, 10)
    before = batch_loss(model, batch, False)
    options = TuningOptions(fine_tune_type=kind, projector=True, head=True, num_layers=2, rank=4)
    count = put_low_rank(model, options)
    assert float(mx.abs(batch_loss(model, batch, False) - before).item()) < 1e-4
    learning = dict(tree_flatten(model.trainable_parameters()))
    paths = {name.rpartition(".")[0] for name in learning}
    assert count == sum(array.size for array in learning.values())
    assert {path.split(".")[2] for path in paths if "layers" in path} == {"3", "4"}
    assert paths >= {"projector.w_in", "projector.w_out", "decoder.output"} and len(paths) == 17
    assert not any(name.startswith("vision") for name in learning)
    gradients = [
        nn.value_and_grad(model, lambda b, again=again: batch_loss(model, b, again))(batch)[1]
        for again in (False, True)
    ]
    once, twice = (dict(tree_flatten(each)) for each in gradients)
    assert once.keys() == twice.keys() == learning.keys()
    for name, array in once.items():
        assert np.allclose(np.array(array), np.array(twice[name]), atol=1e-4), name
    assert float(mx.abs(once["decoder.output.lora_b"]).max().item()) > 0
    assert float(mx.abs(once["projector.w_in.lora_b"]).max().item()) > 0
    with pytest.raises(CheckpointError, match="an adapter already"):
        put_low_rank(model, options)
    firsts = []
    for seed in (0, 0, 1):
        again = px.load("mini", "float32")
        put_low_rank(again, TuningOptions(seed=seed))
        firsts.append(again.decoder.layers[2].feed_forward.w2.lora_a)
    assert mx.array_equal(firsts[0], firsts[1]) and not mx.array_equal(firsts[0], firsts[2])


def test_an_epoch_has_every_row_once_with_those_of_its_length():
    lengths = np.random.RandomState(0).randint(10, 500, 333).tolist()
    batches = order_of(lengths, 8, 5, 2)
    assert sorted(i for batch in batches for i in batch) == [*range(333)]
    assert len(batches) == 42 and batches == order_of(lengths, 8, 5, 2)
    assert batches != order_of(lengths, 8, 5, 3) and batches != order_of(lengths, 8, 6, 2)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert padded < 1.15 * sum(lengths)


def test_accumulated_batches_are_one_large_one(tmp_path):
    """Of 3 rows and of 1 they step as one of 4, all of which have something to teach: a step's loss
    is a mean over all of its tokens."""
    plain = {**OPTIONS, "iters": 1, "warmup": 0}
    rows = write_rows(tmp_path / "few", [50, 54, 58, 62], kinds=("wide",)) / "train.jsonl"
    assert rows.read_text().count("broad") == 4
    gradients = []
    for size, parts in ((4, 1), (3, 2)):
        more = {"batch_size": size, "grad_accumulation_steps": parts}
        made = tune(
            px.load("mini", "float32"), rows, tmp_path / f"{size}", val=rows, **plain | more
        )
        assert made.report["rows"] == [4, 4]
        state = mx.load(str(made.folder / "state.safetensors"))
        gradients.append({name: x for name, x in state.items() if name.startswith("m.")})
    assert len(gradients[0]) == 70
    for name, array in gradients[0].items():
        assert np.allclose(np.array(array), np.array(gradients[1][name]), atol=1e-6), name
    assert max(float(mx.abs(array).max().item()) for array in gradients[0].values()) > 1e-3


# One seed, and long work --------------------------------------------------------------------


def test_two_runs_with_one_seed_give_one_file(taught, rows, tmp_path, monkeypatch, caplog):
    """On a GPU too that is said to be slow; what it is warned of changes nothing."""
    monkeypatch.setattr(estimate, "on_gpu", lambda: True)
    monkeypatch.setattr(estimate, "expected_seconds", lambda *_: 3.0)
    found = tune(px.load("mini", "float32"), rows, tmp_path / "b", **OPTIONS)
    assert same(taught.folder, found.folder)
    assert found.report["validations"] == taught.report["validations"]
    assert "may hold the GPU for about 12 s" in caplog.text


# Stopped and continued ------------------------------------------------------------------------


def test_stopped_anywhere_it_goes_on_bit_for_bit(taught, rows, tmp_path):
    """Before a state that has learned, between two, and then again, with no room for encoded
    pictures on the disk: one seed gives one file."""
    for last in (1, 3, 5):

        def stop(what, done, total, figures, last=last):
            if what == "training" and done == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tune(
                px.load("mini", "float32"), rows, tmp_path / "b", resume=last > 1,
                progress=stop, picture_gigabytes=0, **OPTIONS,
            )  # fmt: skip
    with pytest.raises(CheckpointError, match="already exists"):
        tune(px.load("mini", "float32"), rows, tmp_path / "b", **OPTIONS)
    with pytest.raises(CheckpointError, match="was made with rank 8, and this is 4"):
        tune(px.load("mini", "float32"), rows, tmp_path / "b", resume=True, **OPTIONS, rank=4)
    with pytest.raises(CheckpointError, match="was made with rows"):
        other = write_rows(tmp_path / "other", [60, 61])
        tune(px.load("mini", "float32"), other, tmp_path / "b", resume=True, **OPTIONS)
    found = tune(px.load("mini", "float32"), rows, tmp_path / "b", resume=True, **OPTIONS)
    assert same(taught.folder, found.folder)
    assert found.report["validations"] == taught.report["validations"]
    again = tune(px.load("mini", "float32"), rows, tmp_path / "b", resume=True, **OPTIONS)
    assert same(taught.folder, again.folder) and again.report["swap"] == taught.report["swap"]
    with pytest.raises(CheckpointError, match="holds no training"):
        tune(px.load("mini", "float32"), rows, tmp_path / "none", resume=True, **OPTIONS)


def test_it_may_begin_with_an_adapter(taught, rows, tmp_path):
    """Of the same form, and where that one ended."""
    options = {**OPTIONS, "iters": 1, "steps_per_eval": 1}
    found = tune(
        px.load("mini", "float32"), rows, tmp_path / "b", adapter_path=taught.folder, **options
    )
    first, last = found.report["validations"][0], taught.report["validations"][-1]
    assert {**first, "step": 6} == last and not same(taught.folder, found.folder)
    with pytest.raises(
        CheckpointError, match=r"rank 8 .* and lora of rank 4 .* options that it was"
    ):
        tune(
            px.load("mini", "float32"), rows, tmp_path / "c", adapter_path=taught.folder, **options,
            rank=4,
        )  # fmt: skip


def test_a_killed_command_loses_an_interval_at_most(taught, rows, tmp_path):
    """`kill -9` while it trains; what lies there opens, and --resume gives the same file."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    command = [
        sys.executable, "-m", "pixtral_mlx", "tune", "--model", "mini", "--data", str(rows),
        "-o", str(tmp_path / "b"), *flags,
    ]  # fmt: skip
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = tmp_path / "b" / "state.safetensors"
    while killed.poll() is None and not (state.is_file() and _steps(state) >= 2):
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert _steps(state) in (2, 4, 6)
    if (tmp_path / "b" / "adapters.safetensors").is_file():
        open_adapter("mini", tmp_path / "b", px.load("mini").config)
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
    assert same(taught.folder, tmp_path / "b")
    assert "numbers learned in 6 steps from" in done.stdout
    assert "step 6: validation loss" in done.stdout
    assert "pictures exchanged between" in done.stdout


def _steps(file) -> int:
    return json.loads(mx.load(str(file), return_metadata=True)[1]["about"])["step"]


def test_what_is_no_number_ends_it_with_the_last_good_adapter(rows, tmp_path, monkeypatch):
    step, calls = train.Training._step, []

    def spoiled(self):
        calls.append(self.state.step)
        if self.state.step == 3:
            name = "decoder.layers.0.attention.wq.lora_b"
            self.model.decoder.layers[0].attention.wq.lora_b *= float("nan")
            assert name in self.state.learning
        return step(self)

    monkeypatch.setattr(train.Training, "_step", spoiled)
    with pytest.raises(PixtralError, match=r"step 4: .* not a number; the adapter of step 2 is"):
        tune(px.load("mini", "float32"), rows, tmp_path / "b", **OPTIONS)
    assert _steps(tmp_path / "b" / "state.safetensors") == 2
    open_adapter("mini", tmp_path / "b", px.load("mini").config)


def test_encoded_pictures_that_are_damaged_are_encoded_again(tmp_path):
    encoder = px.load("mini", "float32").vision_encoder
    image = np.random.RandomState(0).rand(3, 32, 48).astype(np.float32)
    kept = EncodedPictures(encoder, tmp_path, 1e9, lambda digest: image)
    kept.add("a", image)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    whole = kept.features("a")
    assert kept.encoded == 2 and mx.array_equal(whole, encoder([image]))
    full = EncodedPictures(encoder, tmp_path / "full", 0, lambda digest: image)
    full.add("a", image)
    assert mx.array_equal(full.features("a"), whole) and not [*(tmp_path / "full").iterdir()]


# What it says ---------------------------------------------------------------------------------


def test_pictures_are_exchanged_and_the_answers_need_them(taught, data):
    examples, _ = data
    others = swapped(examples, (10, 12, 13), 0)
    own = {(each.number, each.part): each for each in examples}
    assert len(others) > 10
    for each in others:
        mine = own[each.number, each.part]
        assert [p.digest for p in each.pictures] != [p.digest for p in mine.pictures]
        assert len(each.pictures) == len(mine.pictures)
    swap = taught.report["swap"]
    assert swap["used"] and taught.pictures_used
    assert swap["swapped_loss"] > 1.5 * swap["loss"]


def test_pictures_that_are_not_used_are_said_to_be(rows, tmp_path, caplog, capsys):
    """Every answer is the same, whatever is seen."""
    text = (rows / "train.jsonl").read_text().splitlines()
    blind = [{**json.loads(line), "prompt": "Say it.", "answer": "star"} for line in text]
    for row in blind:
        row["images"] = [str(rows / name) for name in row["images"]]
    (tmp_path / "blind.jsonl").write_text("\n".join(map(json.dumps, blind)))
    assert main([
        "tune", "--data", str(tmp_path / "blind.jsonl"), "-o", str(tmp_path / "a"), "--model",
        "mini", "--iters", "20", "--batch-size", "4", "--steps-per-eval", "20", "--warmup", "1",
        "--learning-rate", "5e-3",
    ]) == 0  # fmt: skip
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["swap"]["used"] is False
    assert (
        "the pictures are not used: with those of other rows the loss is less than 5 % higher"
        in (caplog.text)
    )
    assert "20 steps" in capsys.readouterr().out


def test_mistakes_are_one_line(refused, rows, tmp_path):
    adapter = tmp_path / "a"
    flags = ("tune", "--model", "mini", "--data")
    refused(2, "rank must be between 1 and 1024", *flags, rows, "-o", adapter, "--rank", "0")
    refused(1, "give a JSONL file", *flags, tmp_path / "none.jsonl", "-o", adapter)
    refused(1, "already exists", *flags, rows, "-o", rows)
    refused(1, "holds no training", *flags, rows, "-o", adapter, "--resume")
    refused(2, "--output is empty", *flags, rows, "-o", "")
    assert not adapter.exists()


def test_models_that_merge_patches_learn(tmp_path):
    """One feature for four patches, and a tied output: the loss falls, pictures are exchanged."""
    text = {**checkpoints.MINISTRAL_TEXT, "tied_embeddings": True, "n_layers": 2}
    folder = checkpoints.make_official(
        tmp_path / "heir", text=text, vision=checkpoints.HEIR_VISION, tokenizer="tekken-v13"
    )
    rows = []
    for i in range(6):
        noise(i, 60, 50 + 10 * i).save(tmp_path / f"{i}.png")
        rows.append({"prompt": "What?", "answer": "red" if i % 2 else "blue", "image": f"{i}.png"})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = tmp_path / "rows.jsonl"
    options = {**OPTIONS, "projector": True, "head": True, "learning_rate": 1e-3}
    model = px.load(folder, "float32")
    found = tune(model, file, tmp_path / "a", val=file, **options).report
    assert found["validations"][-1]["loss"] < found["validations"][0]["loss"]
    assert found["swap"]["examples"] == 6 and found["pictures"] == 6
    prompt = model.encode("What?", [noise(3, 60, 80)])
    opened = px.load(folder, "float32", tmp_path / "a")
    assert mx.array_equal(opened.logits(prompt), model.logits(prompt))


def test_a_model_in_4_bits_learns(rows, tmp_path):
    """QLoRA, here with all that may learn: the packed weights stay, and the folder of the adapter
    makes of the folder of the model what was trained."""
    px.convert("mini", tmp_path / "4bit", bits=4, group_size=32, dtype="float32")
    model = px.load(tmp_path / "4bit")
    packed = mx.array(model.decoder.layers[0].attention.wq.weight)
    found = tune(
        model, rows, tmp_path / "a", **OPTIONS, fine_tune_type="dora", projector=True, head=True
    )
    assert found.report["validations"][-1]["loss"] < found.report["validations"][0]["loss"]
    assert mx.array_equal(model.decoder.layers[0].attention.wq.linear.weight, packed)
    assert adapter_of(model).kind == "dora" and found.report["trained"] > 81920
    image = Image.open(next(rows.glob("4*-colour.png")))
    prompt = model.encode("What is in row 1, column 1?", [image])
    opened = px.load(tmp_path / "4bit", adapter_path=tmp_path / "a")
    assert mx.array_equal(opened.logits(prompt), model.logits(prompt))
    assert not mx.array_equal(px.load(tmp_path / "4bit").logits(prompt), model.logits(prompt))
