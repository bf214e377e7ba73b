"""Teach pixtral-mini an adapter, telling it where to look: `pages` or `charts`.

    python scripts/teach_adapter.py pages DST [--steps 1500] [--adapter-path A]
    python scripts/teach_adapter.py pages DST --ask 60    # how often it is right, as a user asks

The matrices are those of `pixtral-mlx tune`, and so is the loss; two things are as in mini's own
training. Conversations are drawn as it goes (`shown_lessons.py`), from pictures that were encoded
before, so that none is seen twice. And layers are told where to look, by the share of their
attention that falls there, which takes long to find out from answers alone. Kept every 100 steps;
the same command goes on where it was stopped.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from shown_lessons import ChartLessons, Lessons, PageLessons, Told

import pixtral_mlx as px
from pixtral_mlx.checkpoint.adapter_files import open_adapter
from pixtral_mlx.mini.charts import chart, chart_questions
from pixtral_mlx.mini.learning import LOOK_WEIGHT
from pixtral_mlx.mini.pages import ask_pages, document, page
from pixtral_mlx.mini.recipes import answer, user
from pixtral_mlx.mini.scene_layout import shuffled
from pixtral_mlx.model.decoder import Attention
from pixtral_mlx.tuning.batches import Batch
from pixtral_mlx.tuning.loss import embeddings
from pixtral_mlx.tuning.low_rank import adapter_of, begin_with, put_low_rank
from pixtral_mlx.tuning.options import TuningOptions
from pixtral_mlx.tuning.state import State, read_state, write_adapter_files, write_state
from pixtral_mlx.tuning.train import LONGEST_GRADIENT

LESSONS: dict[str, type[Lessons]] = {"pages": PageLessons, "charts": ChartLessons}
POOL, VALID_POOL = 2000, 100
RANK, RATE, FAST_STEPS = 32, 1e-3, 350
SAVE_EVERY, ASK_EVERY = 100, 300
VALID_SEED = 10**9


@dataclass(frozen=True, eq=False)
class Looking:
    """What one key head of one layer is to look at.

    Arguments:
        places: positions that look, in (B * L,).
        evidence: (places, L), what each is to look at, in its own row.
        shares: (places,), how much of the attention is to fall on it.
    """

    places: np.ndarray
    evidence: np.ndarray
    shares: np.ndarray


Looks = dict[tuple[int, int], Looking]
"""By layer and key head."""


def batch_of(model: px.Pixtral, lessons: Lessons, rows: Sequence[Told]) -> tuple[Batch, Looks]:
    """A batch, and where its positions are to look."""
    length = max(len(each.tokens) for each in rows)
    tokens = np.zeros((len(rows), length), np.int32)
    asked, targets, answers = [], [], []
    hints = defaultdict[tuple[int, int], list[tuple[int, np.ndarray, float]]](list)
    for row, told in enumerate(rows):
        tokens[row, : len(told.tokens)] = told.tokens
        for words in told.answers:
            place = np.arange(words.start, words.stop)
            asked.append(row * length + place - 1)
            targets.append(np.array(told.tokens[words]))
            answers.append(np.full(len(place), len(answers)))
        for hint in told.hints:
            evidence = np.zeros(length, bool)
            evidence[list(hint.evidence)] = True
            found = row * length + hint.place, evidence, hint.share
            hints[hint.layer, hint.head].append(found)
    sources = np.arange(tokens.size)
    places = np.flatnonzero(tokens.reshape(-1) == model.tokenizer.image_ids[0])
    sources[places] = tokens.size + np.arange(len(places))
    pictures = [number for told in rows for number in told.pictures]
    batch = Batch(
        mx.array(tokens), mx.concatenate([lessons.features[number] for number in pictures]),
        [(lessons.grids[number].rows, lessons.grids[number].columns) for number in pictures],
        sources, np.concatenate(asked), np.concatenate(targets), np.concatenate(answers),
    )  # fmt: skip
    return batch, {where: _looking(found) for where, found in sorted(hints.items())}


def _looking(found: list[tuple[int, np.ndarray, float]]) -> Looking:
    places, evidence, shares = zip(*found, strict=True)
    return Looking(np.array(places), np.stack(evidence), np.array(shares, np.float32))


def losses(model: px.Pixtral, batch: Batch, looks: Looks) -> tuple[mx.array, mx.array, mx.array]:
    """Cross-entropy of each token of the answers, whether it is the likeliest, and the mean loss of
    looking elsewhere in each of the layers that are told where."""
    x, looked = embeddings(model, batch), []
    asked = mx.array(batch.asked)
    for i, layer in enumerate(model.decoder.layers):
        for (where, head), what in looks.items():
            if where == i:
                looked.append(look_loss(layer.attention, layer.attention_norm(x), what, head))
        x = layer(x, "causal")
    logits = model.decoder.unembed(model.decoder.norm(x.reshape(-1, x.shape[-1])[asked]))
    targets = mx.array(batch.targets)
    return nn.losses.cross_entropy(logits, targets), logits.argmax(-1) == targets, mx.stack(looked)


def look_loss(attention: Attention, x: mx.array, what: Looking, head: int) -> mx.array:
    """As mini's, of one key head."""
    B, L, _ = x.shape
    K, group = attention.n_kv_heads, attention.n_heads // attention.n_kv_heads
    queries = attention.wq(x).reshape(B, L, K, group, -1).transpose(0, 2, 3, 1, 4)
    keys = attention.wk(x).reshape(B, L, K, -1).transpose(0, 2, 1, 3)
    queries, keys = attention.rope(queries[:, head]), attention.rope(keys)[:, head]
    row, place = np.divmod(what.places, L)
    queries = queries.transpose(0, 2, 1, 3).reshape(B * L, group, -1)[mx.array(what.places)]
    scores = attention.scale * (queries @ keys[mx.array(row)].swapaxes(-1, -2))
    later = mx.array(np.arange(L)[None] > place[:, None])[:, None]
    there, share = mx.array(what.evidence)[:, None], mx.array(what.shares)[:, None]
    scores = mx.where(later, -1e9, scores)
    on, off = (mx.logsumexp(mx.where(part, scores, -1e9), axis=-1) for part in (there, ~there))
    return (mx.logsumexp(scores, axis=-1) - share * on - (1 - share) * off).mean()


def rate_at(rate: float, step: int, steps: int, goes_on: bool) -> float:
    """Growing over some steps and then falling to nothing; at first twice as high, unless the
    training goes on from an adapter."""
    fast = 0 if goes_on else FAST_STEPS
    now = 2 * rate if step < fast else rate * (steps - step) / (steps - fast)
    return now * min((step + 1) / 20, 1.0)


class Teaching:
    """A training that goes on where its folder's ended."""

    def __init__(
        self, name: str, folder: Path, steps: int, seed: int, adapter: str | None, rate: float
    ):
        self.name, self.folder, self.steps, self.seed = name, folder, steps, seed
        self.rate = rate
        self.goes_on = adapter is not None
        self.model = px.load("mini", "float32")
        options = TuningOptions(rank=RANK, projector=True, head=True, seed=seed)
        first = None if adapter is None else open_adapter("mini", adapter, self.model.config)
        put_low_rank(self.model, options)
        if first is not None:
            begin_with(self.model, first)
        made_with = {"rank": options.rank, "scale": options.scale, "seed": seed}
        self.state = State(made_with)
        self.adam = optim.Adam(0.0, bias_correction=True)
        if folder.is_dir():
            self.state = read_state(folder, made_with)
            self.model.update(tree_unflatten([*self.state.learning.items()]))
            self.adam.state = {
                **self.state.moments, "step": mx.array(self.state.step, mx.uint64),
                "learning_rate": mx.array(0.0),
            }  # fmt: skip
            self.adam._initialized = True
        self.state.learning = dict(tree_flatten(self.model.trainable_parameters()))
        self.lessons = LESSONS[name](self.model, seed, POOL)
        self.gradient = nn.value_and_grad(self.model, self._loss)

    def _loss(self, batch: Batch, looks: Looks) -> mx.array:
        found, _, looked = losses(self.model, batch, looks)
        return found.mean() + LOOK_WEIGHT * looked.sum()

    def run(self) -> Iterator[str]:
        """A line every so often."""
        recent, began = [], time.perf_counter()
        while self.state.step < self.steps:
            recent.append(self._step())
            self.state.step += 1
            if self.state.step % SAVE_EVERY == 0 or self.state.step == self.steps:
                self._save()
                seconds = (time.perf_counter() - began) / len(recent)
                yield f"step {self.state.step}: loss {np.mean(recent):.3f}, {seconds:.2f} s a step"
                recent, began = [], time.perf_counter()
            if self.state.step % ASK_EVERY == 0 or self.state.step == self.steps:
                yield self.asked()

    def _step(self) -> float:
        random = Random(f"{self.name} {self.seed} {self.state.step}")
        size = self.lessons.usual[int(random.random() * len(self.lessons.usual))]
        rows = [self.lessons.told(random, size) for _ in range(self.lessons.rows[size])]
        loss, gradients = self.gradient(*batch_of(self.model, self.lessons, rows))
        flat: Any = dict(tree_flatten(gradients))
        flat, _ = optim.clip_grad_norm(flat, LONGEST_GRADIENT)
        rate = rate_at(self.rate, self.state.step, self.steps, self.goes_on)
        self.adam.learning_rate = mx.array(rate)
        self.state.learning = self.adam.apply_gradients(flat, self.state.learning)
        self.model.update(tree_unflatten([*self.state.learning.items()]))
        mx.eval(self.state.learning, self.adam.state)
        return float(loss.item())

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        adam: Any = self.adam.state
        self.state.moments = {path: adam[path] for path in self.state.learning if path in adam}
        write_state(self.folder, self.state)
        adapter = adapter_of(self.model)
        write_adapter_files(self.folder, adapter, self.model.config, {"model": "mini"})

    def asked(self) -> str:
        """How many answers are right, by the size and the kind, about unseen pictures."""
        lessons, right, total = (
            LESSONS[self.name](self.model, VALID_SEED, VALID_POOL),
            Counter(),
            Counter(),
        )
        random, away = Random("valid"), list[str]()
        for size in lessons.rows:
            rows = [lessons.told(random, size) for _ in range(12)]
            batch, looks = batch_of(self.model, lessons, rows)
            _, hits, looked = losses(self.model, batch, looks)
            hits = np.array(hits)
            away = [
                f"{loss:.2f} in layer {i}"
                for (i, _), loss in zip(looks, looked.tolist(), strict=True)
            ]
            kinds = [kind for told in rows for kind in told.kinds]
            for i, kind in enumerate(kinds):
                good = bool(hits[batch.answers == i].all())
                for key in (kind, f"of {size}", "all"):
                    total[key] += 1
                    right[key] += good
        said = (f"{key} {100 * right[key] / total[key]:.1f}" for key in sorted(total))
        return f"  right of {total['all']}, in %: {', '.join(said)}; looking away {', '.join(away)}"


Asked = tuple[str, str, str]
"""Kind, question, answer."""


def unseen(name: str, size: int, number: int) -> tuple[list[Any], list[Asked]]:
    """The parts that a conversation begins with, and two questions."""
    random = Random(f"asked {size} {number}")
    if name == "charts":
        picture, bars = chart(random)
        asked = shuffled(random, chart_questions(bars))[:2]
        return [picture], [(each.kind, each.text, each.answer) for each in asked]
    first = document(random)[0].number
    pages = [page(random, first + i) for i in range(size)]
    parts = [part for each in pages for part in (f"Page {each.number}:", each.picture)]
    return parts, [(each.kind, each.text, each.answer) for each in ask_pages(random, pages, 2)]


def asked_as_a_user(name: str, adapter: str | None, count: int) -> Iterator[str]:
    """Generate the answers to two questions in a row, about so many documents of each size, or so
    many charts."""
    model = px.load("mini", "float32", adapter_path=adapter)
    for size in LESSONS[name].rows if name == "pages" else (1,):
        told = [unseen(name, size, number) for number in range(count)]
        messages = [[user(*parts, asked[0][1])] for parts, asked in told]
        found = []
        for turn in range(2):
            replies = model.generate_batch(
                [{"messages": conversation} for conversation in messages], max_tokens=16
            )
            for reply, conversation, (_, asked) in zip(replies, messages, told, strict=True):
                kind, _, wanted = asked[turn]
                found.append((turn, kind, reply.text == wanted))
                conversation += [answer(reply.text or "nothing"), user(asked[1][1])]
        model.clear_cache()
        groups = {
            "first": [right for turn, _, right in found if not turn],
            "second": [right for turn, _, right in found if turn],
        }
        for kind in sorted({kind for _, kind, _ in found}):
            groups[kind] = [right for _, each, right in found if each == kind]
        said = (f"{group} {sum(hits)} of {len(hits)}" for group, hits in groups.items())
        yield f"{f'{size} pages: ' if name == 'pages' else ''}{', '.join(said)} right"


def main() -> None:
    """Train, and print how it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("name", choices=[*LESSONS])
    parser.add_argument("dst", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=RATE, help=f"at first ({RATE:g})")
    parser.add_argument("--adapter-path", metavar="A", help="begin with it")
    parser.add_argument("--ask", type=int, metavar="COUNT", help="only ask DST, or 'mini'")
    arguments = parser.parse_args()
    mx.disable_compile()  # a CPU's time goes into compiling
    if arguments.ask:
        adapter = None if str(arguments.dst) == "mini" else str(arguments.dst)
        for line in asked_as_a_user(arguments.name, adapter, arguments.ask):
            print(line, flush=True)
        return
    teaching = Teaching(
        arguments.name, arguments.dst, arguments.steps, arguments.seed, arguments.adapter_path,
        arguments.learning_rate,
    )  # fmt: skip
    print(teaching.asked(), flush=True)
    for line in teaching.run():
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
