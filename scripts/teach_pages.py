"""Teach pixtral-mini to read small numbered pages: the adapter `pages`.

    python scripts/teach_pages.py DST [--steps 1500]
    python scripts/teach_pages.py pages --ask 60      # how often it is right, as a user asks it

The matrices are those of `pixtral-mlx tune`, and so is the loss; two things are as in mini's own
training. Conversations are drawn as it goes, from pages that were encoded before, so that none is
seen twice. And two layers are told where to look, by the share of their attention that falls there:
an answer at its evidence, and a patch at the number of its page, so that it knows where it is when
"page 3" is asked about. Both take long to find out from answers alone. Kept every 100 steps; the
same command goes on where it was stopped.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

import pixtral_mlx as px
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.inputs.pixels import preprocess
from pixtral_mlx.mini.learning import LOOK_WEIGHT, LOOKING_LAYER
from pixtral_mlx.mini.lessons import SINK, Words
from pixtral_mlx.mini.pages import PATCH, Page, PageQuestion, ask_pages, document, page
from pixtral_mlx.mini.recipes import answer, user
from pixtral_mlx.model.prompt import PatchGrid, image_tokens
from pixtral_mlx.tuning.batches import Batch
from pixtral_mlx.tuning.loss import embeddings
from pixtral_mlx.tuning.low_rank import adapter_of, put_low_rank
from pixtral_mlx.tuning.options import TuningOptions
from pixtral_mlx.tuning.state import State, read_state, write_adapter_files, write_state
from pixtral_mlx.tuning.train import LONGEST_GRADIENT

POOL, QUESTIONS = 2000, 8
ROWS = {1: 8, 2: 5, 3: 4, 4: 3}
"""Conversations of a batch, by their pages: about as many tokens."""
RANK, RATE, FAST_STEPS = 32, 1e-3, 350
SAVE_EVERY, ASK_EVERY = 100, 300
VALID_SEED = 10**9
NUMBER_LAYER = 1
"""The decoder layer in which patches are told to look at the number of their page."""


def grid_of(shown: Page) -> PatchGrid:
    """The patches of a page."""
    return PatchGrid(shown.picture.height // PATCH, shown.picture.width // PATCH)


@dataclass(frozen=True, eq=False)
class Told:
    """A conversation about pages, as ids.

    Arguments:
        tokens: of all of it.
        answers: where the answers stand, each with its end token.
        asked: the questions.
        starts: where each page's picture begins.
        headers: where its number stands.
        numbers: of the pages in the pool.
    """

    tokens: list[int]
    answers: list[slice]
    asked: list[PageQuestion]
    starts: list[int]
    headers: list[list[int]]
    pages: list[Page]
    numbers: list[int]

    def positions(self, index: int, cell: int) -> list[int]:
        """Of the patches of a cell, in `tokens`."""
        line = grid_of(self.pages[index]).columns + 1
        return [
            self.starts[index] + row * line + column
            for row, column in self.pages[index].patches(cell)
        ]


class Library:
    """Pages that were encoded, and conversations about them."""

    def __init__(self, model: px.Pixtral, seed: int, count: int):
        self._words, self._model = Words(model.tokenizer), model
        self.image_ids = model.tokenizer.image_ids
        self.pages = [page(Random(f"page {seed} {i}")) for i in range(count)]
        self.features = [self._encode(each) for each in self.pages]

    def _encode(self, shown: Page) -> mx.array:
        vision, encoder = self._model.config.vision, self._model.vision_encoder
        if vision is None or encoder is None:
            raise ValueError("pages are for a model with a vision encoder: give pixtral-mini")
        features = encoder([preprocess(shown.picture, vision, ImageOptions())])
        mx.eval(features)
        return features

    def told(self, random: Random, count: int) -> Told:
        """A conversation about so many of the pages, drawn by chance."""
        numbers = [int(random.random() * len(self.pages)) for _ in range(count)]
        first = document(random)[0].number if count else 1
        pages = [replace(self.pages[n], number=first + i) for i, n in enumerate(numbers)]
        asked = ask_pages(random, pages, QUESTIONS)
        return encode(self._words, self._model, pages, numbers, asked)


def encode(
    words: Words,
    model: px.Pixtral,
    pages: list[Page],
    numbers: list[int],
    asked: list[PageQuestion],
) -> Told:
    """A conversation as `Tokenizer.encode_answers` gives it."""
    ids, (begin, end), eos = words._ids, (words._begin, words._end), model.tokenizer.eos_id
    tokens, starts, headers, answers = [model.tokenizer.bos_id, begin], [], [], []
    for each in pages:
        header, digits = ids(f"Page {each.number}:"), {ids(c)[-1] for c in str(each.number)}
        headers.append([len(tokens) + i for i, word in enumerate(header) if word in digits])
        tokens += header
        starts.append(len(tokens))
        tokens += image_tokens(grid_of(each), model.tokenizer.image_ids)
    for i, question in enumerate(asked):
        tokens += [*([begin] if i else []), *ids(question.text), end]
        start = len(tokens)
        tokens += [*ids(question.answer), eos]
        answers.append(slice(start, len(tokens)))
    return Told(tokens, answers, asked, starts, headers, pages, numbers)


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


def batch_of(library: Library, rows: Sequence[Told]) -> tuple[Batch, Looking, Looking]:
    """A batch, what its answers are to look at, and its patches: the number of their page."""
    length = max(len(each.tokens) for each in rows)
    tokens = np.zeros((len(rows), length), np.int32)
    asked, targets, answers = [], [], []
    looking, numbers = list[tuple[int, np.ndarray, float]](), list[tuple[int, np.ndarray, float]]()
    for row, told in enumerate(rows):
        tokens[row, : len(told.tokens)] = told.tokens
        for words, question in zip(told.answers, told.asked, strict=True):
            place = np.arange(words.start, words.stop)
            asked.append(row * length + place - 1)
            targets.append(np.array(told.tokens[words]))
            answers.append(np.full(len(place), len(answers)))
            for i, (seen, share) in enumerate(evidence_of(told, question, len(place) - 1)):
                looking.append((row * length + words.start - 1 + i, _marked(seen, length), share))
        for start, header, shown in zip(told.starts, told.headers, told.pages, strict=True):
            seen = _marked(header, length)
            grid = grid_of(shown)
            numbers += [
                (row * length + start + r * (grid.columns + 1) + c, seen, 1.0)
                for r in range(grid.rows)
                for c in range(grid.columns)
            ]
    sources = np.arange(tokens.size)
    places = np.flatnonzero(tokens.reshape(-1) == library.image_ids[0])
    sources[places] = tokens.size + np.arange(len(places))
    grids = [grid_of(shown) for told in rows for shown in told.pages]
    features = [library.features[number] for told in rows for number in told.numbers]
    batch = Batch(
        mx.array(tokens), mx.concatenate(features), [(g.rows, g.columns) for g in grids], sources,
        np.concatenate(asked), np.concatenate(targets), np.concatenate(answers),
    )  # fmt: skip
    return batch, _looking(looking), _looking(numbers)


def _marked(places: Sequence[int], length: int) -> np.ndarray:
    found = np.zeros(length, bool)
    found[list(places)] = True
    return found


def _looking(found: list[tuple[int, np.ndarray, float]]) -> Looking:
    places, evidence, shares = zip(*found, strict=True)
    return Looking(np.array(places), np.stack(evidence), np.array(shares, np.float32))


def evidence_of(told: Told, question: PageQuestion, count: int) -> list[tuple[list[int], float]]:
    """Where the evidence for each of the first `count` tokens of an answer stands, and the share
    of the attention that it is to have; nothing where nothing is there."""
    cells = [told.positions(*cell) for cell in question.cells]
    if not cells:
        return []
    if question.kind == "read":
        return [(seen, 1.0) for seen in cells[:count]]
    several = question.kind in ("count", "is there")
    share = len(cells) / (len(cells) + SINK) if several else 1.0
    return [([place for seen in cells for place in seen], share)] * count


def losses(
    model: px.Pixtral, batch: Batch, evidence: Looking, numbers: Looking
) -> tuple[mx.array, mx.array, mx.array]:
    """Cross-entropy of each token of the answers, whether it is the likeliest, and the mean loss of
    looking elsewhere: of answers, and of patches."""
    x, looked = embeddings(model, batch), []
    asked = mx.array(batch.asked)
    for i, layer in enumerate(model.decoder.layers):
        if i == NUMBER_LAYER:
            looked.append(look_loss(layer.attention, layer.attention_norm(x), numbers, last=True))
        if i == LOOKING_LAYER:
            looked.append(look_loss(layer.attention, layer.attention_norm(x), evidence))
        x = layer(x, "causal")
    logits = model.decoder.unembed(model.decoder.norm(x.reshape(-1, x.shape[-1])[asked]))
    targets = mx.array(batch.targets)
    return nn.losses.cross_entropy(logits, targets), logits.argmax(-1) == targets, mx.stack(looked)


def look_loss(attention: Any, x: mx.array, what: Looking, *, last: bool = False) -> mx.array:
    """As mini's, of the first key head, which finds things by what they are; or of the last one."""
    B, L, _ = x.shape
    K, group = attention.n_kv_heads, attention.n_heads // attention.n_kv_heads
    queries = attention.wq(x).reshape(B, L, K, group, -1).transpose(0, 2, 3, 1, 4)
    keys = attention.wk(x).reshape(B, L, K, -1).transpose(0, 2, 1, 3)
    head = K - 1 if last else 0
    queries, keys = attention.rope(queries[:, head]), attention.rope(keys)[:, head]
    row, place = np.divmod(what.places, L)
    queries = queries.transpose(0, 2, 1, 3).reshape(B * L, group, -1)[mx.array(what.places)]
    scores = attention.scale * (queries @ keys[mx.array(row)].swapaxes(-1, -2))
    later = mx.array(np.arange(L)[None] > place[:, None])[:, None]
    there, share = mx.array(what.evidence)[:, None], mx.array(what.shares)[:, None]
    scores = mx.where(later, -1e9, scores)
    on, off = (mx.logsumexp(mx.where(part, scores, -1e9), axis=-1) for part in (there, ~there))
    return (mx.logsumexp(scores, axis=-1) - share * on - (1 - share) * off).mean()


def rate_at(step: int, steps: int) -> float:
    """Twice as high in the first steps, then falling to nothing."""
    if step < FAST_STEPS:
        return 2 * RATE * min((step + 1) / 20, 1.0)
    return RATE * (steps - step) / (steps - FAST_STEPS)


class Teaching:
    """A training that goes on where its folder's ended."""

    def __init__(self, folder: Path, steps: int, seed: int):
        self.folder, self.steps, self.seed = folder, steps, seed
        self.model = px.load("mini", "float32")
        options = TuningOptions(rank=RANK, projector=True, head=True, seed=seed)
        put_low_rank(self.model, options)
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
        self.library = Library(self.model, seed, POOL)
        self.gradient = nn.value_and_grad(self.model, self._loss)

    def _loss(self, *batch: Any) -> mx.array:
        found, _, looked = losses(self.model, *batch)
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
        random = Random(f"pages {self.seed} {self.state.step}")
        count = (1, 2, 2, 3, 4)[int(random.random() * 5)]
        rows = [self.library.told(random, count) for _ in range(ROWS[count])]
        loss, gradients = self.gradient(*batch_of(self.library, rows))
        flat: Any = dict(tree_flatten(gradients))
        flat, _ = optim.clip_grad_norm(flat, LONGEST_GRADIENT)
        self.adam.learning_rate = mx.array(rate_at(self.state.step, self.steps))
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
        """How many answers are right, by the number of pages and the kind, about unseen pages."""
        library, right, total = Library(self.model, VALID_SEED, 60), Counter(), Counter()
        random, looked = Random("valid"), []
        for count in ROWS:
            rows = [library.told(random, count) for _ in range(12)]
            batch, *looking = batch_of(library, rows)
            _, hits, looked = losses(self.model, batch, *looking)
            hits, looked = np.array(hits), looked.tolist()
            kinds = [question.kind for told in rows for question in told.asked]
            for i, kind in enumerate(kinds):
                good = bool(hits[batch.answers == i].all())
                for key in (kind, f"{count} pages", "all"):
                    total[key] += 1
                    right[key] += good
        said = (f"{key} {100 * right[key] / total[key]:.1f}" for key in sorted(total))
        away = ", ".join(f"{loss:.2f}" for loss in looked)
        return f"  right of {total['all']}, in %: {', '.join(said)}; looking away {away}"


def asked_as_a_user(adapter: str | None, documents: int) -> Iterator[str]:
    """Generate the answers to two questions in a row about documents of one to four pages."""
    model = px.load("mini", "float32", adapter_path=adapter)
    for count in ROWS:
        told = []
        for number in range(documents):
            random = Random(f"asked {count} {number}")
            first = document(random)[0].number
            pages = [page(random, first + i) for i in range(count)]
            told.append((pages, ask_pages(random, pages, 2)))
        messages = [
            [user(*(part for each in pages for part in (f"Page {each.number}:", each.picture)))]
            for pages, _ in told
        ]
        found = []
        for turn in range(2):
            for conversation, (_, asked) in zip(messages, told, strict=True):
                if turn:
                    conversation.append(user(asked[turn].text))
                else:
                    conversation[0]["content"] += user(asked[turn].text)["content"]
            replies = model.generate_batch(
                [{"messages": conversation} for conversation in messages], max_tokens=16
            )
            for reply, conversation, (_, asked) in zip(replies, messages, told, strict=True):
                conversation.append(answer(reply.text or "nothing"))
                found.append((turn, asked[turn].kind, reply.text == asked[turn].answer))
        model.clear_cache()
        groups = {
            "first": [right for turn, _, right in found if not turn],
            "second": [right for turn, _, right in found if turn],
            "is there": [right for _, kind, right in found if kind == "is there"],
            "all but which page": [right for _, kind, right in found if kind != "page"],
        }
        said = (f"{name} {sum(hits)} of {len(hits)}" for name, hits in groups.items())
        yield f"{count} pages: {', '.join(said)} right"


def main() -> None:
    """Train, and print how it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("dst", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ask", type=int, metavar="DOCUMENTS", help="only ask DST, or 'mini'")
    arguments = parser.parse_args()
    mx.disable_compile()  # a CPU's time goes into compiling
    if arguments.ask:
        adapter = None if str(arguments.dst) == "mini" else str(arguments.dst)
        for line in asked_as_a_user(adapter, arguments.ask):
            print(line, flush=True)
        return
    teaching = Teaching(arguments.dst, arguments.steps, arguments.seed)
    if not teaching.state.step:
        print(teaching.asked(), flush=True)
    for line in teaching.run():
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
