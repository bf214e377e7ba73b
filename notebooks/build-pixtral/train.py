"""Teach your Pixtral, from random weights, to say what colour a shape has and what shape a colour.

    python train.py                                  # the code in pixtral.py
    python train.py --code solutions/pixtral.py      # the solution's
    python train.py --steps 3                        # only to see whether it runs
    python train.py -o taught                        # and keep it, in Mistral's own layout:
    pixtral-mlx generate --model taught --image PICTURE --prompt "What colour is the star?"

The encoder learns alone at first, to name what each patch shows; then all of it learns to answer.
Pictures are drawn as it goes, by a process of their own. Every so often the model is asked about
pictures that it has never seen, and training ends as soon as 95 % of 400 answers are right.
"""

import argparse
import json
import shutil
import time
from functools import cache, partial
from pathlib import Path
from random import Random

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from check import load_code, verdict
from exercises import EXERCISES, Wrong

from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.inputs.pixels import preprocess
from pixtral_mlx.inputs.tokenizer import Tokenizer
from pixtral_mlx.mini import CHECKPOINT, scene
from pixtral_mlx.mini.drawing import COLOURS, SHAPES
from pixtral_mlx.mini.evaluation import FIRST_SEED
from pixtral_mlx.mini.lessons import Feeder, Words
from pixtral_mlx.mini.questions import Asked, ask
from pixtral_mlx.mini.scene_layout import LARGEST, draw, make_layout
from pixtral_mlx.model.config import VisionConfig

KINDS = ("colour", "shape")
GOAL = 0.95
UNSEEN = FIRST_SEED  # from here on, scenes are kept for questions; training draws its own
EYES = {
    "hidden_size": 128, "num_channels": 3, "image_size": 1024, "patch_size": 16,
    "rope_theta": 100.0, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 4, "image_token_id": 10,
}  # fmt: skip
SIZES = {
    "dim": 128, "n_layers": 3, "head_dim": 32, "hidden_dim": 256, "n_heads": 4, "n_kv_heads": 2,
    "norm_eps": 1e-5, "rope_theta": 1e9, "vision_encoder": EYES,
}  # fmt: skip
CONFIG = VisionConfig(**EYES)
NAMES, TINTS = ("", *SHAPES), ("", *COLOURS)
TURNS = 4  # questions about each picture
BUDGET = 1800  # tokens in a batch, about
SEEING = 0.2  # of the steps, in which the encoder learns alone
GROWING = 0.4  # of each part, in which pictures grow
EVERY = 25  # steps between two looks at the score
EXAM = 400  # questions that decide whether it is done
LATER = 1000  # other ones, asked when it is done


@cache
def language():
    """The tokenizer of pixtral-mini, in which every word is one token."""
    return Tokenizer(CHECKPOINT / "tekken.json", CONFIG)


@cache
def words():
    """The same, for whole conversations."""
    return Words(language())


def pixels_of(picture):
    """(3, height, width), as for any picture that Pixtral is asked about."""
    return preprocess(picture, CONFIG, ImageOptions())


def largest(done):
    """Most rows and columns of a picture: they grow while the encoder learns, and then again."""
    part = done / SEEING if done < SEEING else (done - SEEING) / (1 - SEEING)
    return min(2 + int((LARGEST - 2) * part / GROWING), LARGEST)


def lesson(seed, steps, budget, step):
    """One batch of pictures of one size, with questions, answers, and what each patch shows."""
    random = Random(f"build {seed} {step}")
    most = largest(step / steps)
    rows, columns = (1 + int(random.random() * most) for _ in range(2))
    count = max(budget // (2 * rows * (2 * columns + 1) + 12 * TURNS), 4)
    layouts, told = [], []
    while len(layouts) < count:
        layout = make_layout(random, rows, columns)
        asked = [ask(KINDS[int(random.random() * 2)], layout, random) for _ in range(TURNS)]
        asked = [one for one in asked if one]
        if asked:
            layouts.append(layout)
            told.append(asked)
    tokens, learnt = words().encode(told)
    prefix, _ = words().prefix([(rows, columns)])
    return {
        "pixels": np.stack([pixels_of(draw(one)) for one in layouts]),
        "tokens": np.concatenate([np.tile(prefix, (count, 1)), tokens], axis=1),
        "learnt": np.concatenate([np.zeros((count, len(prefix))), learnt], axis=1),
        "shown": np.stack([classes(one) for one in layouts]),
    }


def classes(layout):
    """(N, 2) for each patch the number of its shape and of its colour; -1 for letters."""
    cells = [
        (NAMES.index(one.name), TINTS.index(one.colour)) if one.name in NAMES else (-1, -1)
        for one in layout.cells
    ]
    grid = np.array(cells).reshape(layout.rows, layout.columns, 2)
    return grid.repeat(2, axis=0).repeat(2, axis=1).reshape(-1, 2)


class Pupil(nn.Module):
    """The model, and two layers that name what a patch shows, which are thrown away at the end."""

    def __init__(self, code, vocabulary):
        super().__init__()
        self.model = code.Pixtral(SIZES | {"vocab_size": vocabulary})
        self.heads = [nn.Linear(EYES["hidden_size"], len(each)) for each in (NAMES, TINTS)]


def loss(pupil, batch, seeing):
    """How surprised the model is by the answers, and by what the patches show."""
    features = pupil.model.vision_encoder.batch(mx.array(batch["pixels"]))
    shown = mx.array(batch["shown"])
    total = mx.array(0.0)
    for i, head in enumerate(pupil.heads):
        total = total + surprise(head(features), shown[..., i], shown[..., i] >= 0)
    if seeing:
        return total
    tokens, learnt = mx.array(batch["tokens"]), mx.array(batch["learnt"])
    logits = pupil.model.decode(tokens[:, :-1], features.reshape(-1, features.shape[-1]))
    return total + surprise(logits, tokens[:, 1:], learnt[:, 1:])


def surprise(logits, right, counts):
    """Mean cross-entropy where `counts` is not zero."""
    losses = nn.losses.cross_entropy(logits, mx.maximum(right, 0)) * counts
    return losses.sum() / mx.maximum(counts.sum(), 1)


def optimizer():
    """Muon for the matrices of the blocks, Adam for everything else."""
    muon = optim.Muon(0.0, weight_decay=0.0)
    adam = optim.Adam(0.0, betas=[0.9, 0.98], bias_correction=True)
    return optim.MultiOptimizer(
        [muon, adam], [lambda name, array: array.ndim == 2 and "layers" in name]
    )


def rate_at(step, steps):
    """Up in 30 steps, level to the middle, then down in a straight line."""
    return 0.02 * min((step + 1) / 30, 1, max((1 - step / steps) / 0.5, 0.02))


def exam(count, first):
    """`count` questions about pictures that training never draws, from scene `first` on: (pixels,
    ids of question and answer, where the answer begins)."""
    found = []
    while len(found) < count:
        drawn = scene(first)
        first += 1
        prefix, _ = words().prefix([(drawn.layout.rows, drawn.layout.columns)])
        for question in drawn.questions:
            if question.kind in KINDS and len(found) < count:
                asked = Asked(question.kind, question.text, question.answer)
                tokens, learnt = words().encode([[asked]])
                answer = len(prefix) + int(np.argmax(learnt[0]))
                tokens = mx.array([[*prefix, *tokens[0].tolist()]])
                found.append((mx.array(pixels_of(drawn.image)), tokens, answer))
    return found


def score(model, questions):
    """The share whose every word the model would have said."""
    right = 0
    for pixels, tokens, answer in questions:
        said = model(tokens[:, :-1], [pixels]).argmax(-1)[0, answer - 1 :]
        right += mx.all(said == tokens[0, answer:]).item()
    return right / len(questions)


def new_pupil(code, seed):
    """With random weights."""
    mx.random.seed(seed)
    return Pupil(code, language().n_words)


def train(code, *, steps, seed=0, workers=1, questions=EXAM, budget=BUDGET, say=print):
    """Train until 95 % are right or the steps are over; returns (the pupil, its share, minutes)."""
    quick, whole = exam(max(questions // 4, 1), UNSEEN), exam(questions, UNSEEN + 10**5)
    start, busy = time.perf_counter(), time.process_time()
    pupil, moves = new_pupil(code, seed), optimizer()
    moves.init(pupil.trainable_parameters())
    gradients, share, minutes = nn.value_and_grad(pupil, loss), 0.0, 0.0
    lessons = Feeder(partial(lesson, seed, steps, budget), workers=workers).lessons(0, steps)
    for step, batch in enumerate(lessons):
        for each, factor in zip(moves.optimizers, (1, 0.1), strict=True):
            each.learning_rate = mx.array(rate_at(step, steps) * factor)
        seeing = step < steps * SEEING
        surprised, change = gradients(pupil, batch, seeing)
        moves.update(pupil, change)
        mx.eval(pupil.parameters(), moves.state, surprised)
        last = step + 1 == steps
        if (step + 1) % EVERY and not last:
            continue
        share = 0.0 if seeing else score(pupil.model, quick)
        if share >= GOAL or last:
            share = score(pupil.model, whole)
        minutes, worked = (time.perf_counter() - start) / 60, (time.process_time() - busy) / 60
        now = "learns to see" if seeing else f"right {share:6.1%}"
        say(
            f"step {step + 1:5} of {steps}   loss {surprised.item():6.3f}   {now:13}   "
            f"{minutes:5.1f} min, {worked:.1f} of them computing"
        )
        if share >= GOAL:
            break
    return pupil, share, minutes


def keep(model, folder):
    """Write a folder that any program for Pixtral can read: the names are Mistral's."""
    folder.mkdir(parents=True)
    sizes = SIZES | {"vocab_size": language().n_words}
    (folder / "params.json").write_text(json.dumps(sizes, indent=2) + "\n")
    model.save_weights(str(folder / "consolidated.safetensors"))
    shutil.copyfile(CHECKPOINT / "tekken.json", folder / "tekken.json")


def main(argv=None):
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--code", type=Path, default=here / "pixtral.py", help="what to train")
    parser.add_argument("--steps", type=int, default=600, help="at most (600)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and pictures (0)")
    parser.add_argument("-o", type=Path, dest="folder", help="a new folder for the weights")
    arguments = parser.parse_args(argv)
    if arguments.folder and arguments.folder.exists():
        parser.error(f"{arguments.folder} is there already: name a new folder")
    try:
        code = load_code(arguments.code)
    except Wrong as wrong:
        parser.error(str(wrong))
    unfinished = next((number for number in EXERCISES if verdict(code, number)), None)
    if unfinished:
        parser.error(f"exercise {unfinished} is not right yet: python check.py {unfinished}")
    pupil, share, minutes = train(
        code, steps=arguments.steps, seed=arguments.seed, say=partial(print, flush=True)
    )
    print(f"{share:.1%} of {EXAM} questions right after {minutes:.1f} minutes")
    later = score(pupil.model, exam(LATER, UNSEEN + 2 * 10**5))
    print(f"{later:.1%} of {LATER:,} that it had never been asked")
    if arguments.folder:
        keep(pupil.model, arguments.folder)
        print(f"kept in {arguments.folder}")


if __name__ == "__main__":
    main()
