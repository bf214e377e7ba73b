"""Batches to learn from, each a pure function of (seed, step, progress).

All pictures of a batch have one grid shape, so that nothing is padded, and come through the same
pixels pipeline as a user's. `Feeder` draws them in other processes, ahead of time.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache, partial
from random import Random

import numpy as np

from ..inputs.image_options import ImageOptions
from ..inputs.pixels import preprocess
from ..inputs.tokenizer import Tokenizer
from ..model.config import VisionConfig
from ..model.prompt import PatchGrid, image_tokens
from .drawing import CHARACTERS, COLOURS, SHAPES
from .processes import worker_processes
from .questions import HIGHEST, KINDS, Asked, ask
from .scene_layout import LARGEST, PATCHES, Layout, Thing, draw, make_layout, pick

NAMES = ("", *SHAPES, *CHARACTERS)
"""What a cell can hold; the throw-away heads of the first stage tell them apart."""

TINTS = ("", *COLOURS)

OUTWARDS = {(0, 0): (-1, 0), (0, 1): (0, 1), (1, 1): (1, 0), (1, 0): (0, -1)}
"""Which neighbour a patch learns, by its corner of the cell: above, right, below, left."""

QUESTIONS = 6
"""Questions about each picture of a batch."""

FEWER_QUESTIONS = {"which": 4, "describe": 1}
"""The same, in batches that ask one kind only."""

WEIGHTS = {
    "colour": 0.6, "shape": 0.5, "at": 2.2, "where": 1.0, "read": 2.0, "rows": 0.2,
    "columns": 0.2, "wide": 0.15, "next": 2.6, "count": 2.8,
}  # fmt: skip
"""How often each kind is asked; "which" and "describe" have batches of their own."""

SINK = 6
"""Of n things to count, n / (n + SINK) of the attention falls on them, the rest anywhere else: a
share that grows with their number, as a softmax gives it when every one of them pulls alike."""


@dataclass(frozen=True)
class Lesson:
    """One batch.

    Arguments:
        pixels: one array (B, 3, H, W) for each picture that goes into a prompt.
        labels: (B, N, 4) of the first picture's patches: its name, colour, and its neighbour's
            (`OUTWARDS`); -1 where there is no neighbour.
        prefix: ids before the question, the same for the whole batch.
        places: (P, 3) of each id of the prefix: cell row, cell column, picture; -1 for no patch.
        tokens: (B * Q, L) ids of question and answer.
        learnt: (B * Q, L) whether the id belongs to an answer.
        target: (B * Q, L, 2) where a question ends, the cell row and column that it names; -1
            elsewhere, and where it names none.
        by_place: (B * Q, L) whether the evidence is found by its place rather than by what it is.
        evidence: (B * Q, L, P) which ids of the prefix hold the evidence for this id of the answer.
        share: (B * Q, L) how much of the attention is to fall on it, 0 to 1.
    """

    pixels: list[np.ndarray]
    labels: np.ndarray
    prefix: list[int] = field(default_factory=list)
    places: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    tokens: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    learnt: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    target: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 2), np.int32))
    by_place: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))
    evidence: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), bool))
    share: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def vision_lesson(seed: int, step: int, config: VisionConfig, budget: int = 1500) -> Lesson:
    """Pictures with the labels of their patches, for the first stage.

    Arguments:
        seed, step: choose the scenes.
        budget: patches in the batch, about.
    """
    layouts = vision_layouts(seed, step, budget)
    labels = np.stack([_labels(layout) for layout in layouts])
    return Lesson([_pixels(layouts, config)], labels)


def vision_layouts(seed: int, step: int, budget: int) -> list[Layout]:
    """What the pictures of a `vision_lesson` show."""
    random = Random(f"vision {seed} {step}")
    rows, columns = (pick(random, range(1, LARGEST + 1)) for _ in range(2))
    count = max(budget // (PATCHES * PATCHES * rows * columns), 4)
    return [make_layout(random, rows, columns) for _ in range(min(count, 64))]


def _labels(layout: Layout) -> np.ndarray:
    found = np.full((PATCHES * layout.rows, PATCHES * layout.columns, 4), -1, np.int32)
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            cell = (row // PATCHES, column // PATCHES)
            step = OUTWARDS[row % PATCHES, column % PATCHES]
            neighbour = layout.cell(cell[0] + step[0], cell[1] + step[1])
            found[row, column, :2] = _classes(layout.cell(*cell))
            if neighbour is not None:
                found[row, column, 2:] = _classes(neighbour)
    return found.reshape(-1, 4)


def _classes(thing: Thing | None) -> tuple[int, int]:
    thing = thing or Thing()
    return NAMES.index(thing.name), TINTS.index(thing.colour)


def _pixels(layouts: list[Layout], config: VisionConfig) -> np.ndarray:
    options = ImageOptions()
    return np.stack([preprocess(draw(layout), config, options) for layout in layouts])


def text_lesson(
    seed: int, step: int, config: VisionConfig, *, tokenizer: "Words", progress: float,
    budget: int = 4500, counting: float = 1.0, most: int = HIGHEST, earlier: int = 0,
) -> Lesson:  # fmt: skip
    """Pictures with questions and answers, for the later stages.

    Arguments:
        seed, step: choose scenes and questions.
        progress: 0 to 1; grids grow over the first 0.25.
        budget: tokens in the batch, about.
        counting: how much more often than usual it is asked to count.
        most: counts go up to this number.
        earlier: up to so many questions and answers about the same pictures come before.
    """
    random = text_random(seed, step)
    kind, scenes = text_scenes(random, progress=progress, budget=budget)
    turns = random.randint(0, earlier) if earlier else 0
    # As many answers as without: one reading of the pictures serves a conversation too.
    questions = max(FEWER_QUESTIONS.get(kind, QUESTIONS) // (1 + turns), 1)
    shapes = [(layout.rows, layout.columns) for layout in scenes[0]]
    prefix, places = tokenizer.prefix(shapes)
    often = WEIGHTS | {"count": counting * WEIGHTS["count"]}
    ask_about = partial(_questions, random, {kind: 1.0} if kind else often, questions, most)
    asked = [question for scene in scenes for question in ask_about(scene)]
    told = [[question] for question in asked]
    if turns:
        before = {kind: 1.0} if kind == "which" else often | {"describe": 0.5}
        for i, conversation in enumerate(told):
            conversation[:0] = _questions(random, before, turns, most, scenes[i // questions])
    tokens, learnt = tokenizer.encode(told)
    pixels = [_pixels([scene[i] for scene in scenes], config) for i in range(len(shapes))]
    labels = np.stack([_labels(scene[0]) for scene in scenes])
    lesson = Lesson(
        pixels, labels, prefix, places, tokens, learnt,
        target=np.full((*tokens.shape, 2), -1, np.int32),
        by_place=np.zeros(tokens.shape, bool),
        evidence=np.zeros((*tokens.shape, len(prefix)), bool),
        share=np.ones(tokens.shape, np.float32),
    )  # fmt: skip
    for i, conversation in enumerate(told):
        for question, answer in zip(conversation, _runs(learnt[i]), strict=True):
            _explain(lesson, i, answer, question, scenes[i // questions])
    return lesson


def _runs(learnt: np.ndarray) -> list[slice]:
    """Where a row's answers stand, with the tokens that end them."""
    edges = np.flatnonzero(np.diff(learnt, prepend=0, append=0))
    return [slice(start, stop) for start, stop in edges.reshape(-1, 2)]


def _explain(
    lesson: Lesson, row: int, answer: slice, asked: Asked, scene: list[Layout]
) -> None:  # fmt: skip
    """Write into a lesson what the model is to look for and look at for one answer."""
    things = len(asked.cells)
    lesson.by_place[row, answer] = asked.kind in ("at", "describe")
    if asked.kind == "count":
        lesson.share[row, answer] = things / (things + SINK)
    if asked.kind == "at":
        lesson.target[row, answer.start - 1] = scene[0].place(asked.cells[0])
    _mark(lesson.evidence[row], (answer.start, answer.stop - 1), asked, lesson.places, scene)


def text_random(seed: int, step: int) -> Random:
    """Where the chance of a `text_lesson` comes from: first its scenes, then its questions."""
    return Random(f"text {seed} {step}")


def text_scenes(random: Random, *, progress: float, budget: int) -> tuple[str, list[list[Layout]]]:
    """What the pictures of a `text_lesson` show, before it is asked about.

    Returns:
        The kind that all questions are of ("" for several), and for each scene its pictures.
    """
    largest = min(LARGEST, 2 + int(progress / 0.25 * (LARGEST - 2)))
    chance = random.random()
    kind = "which" if chance < 0.1 else "describe" if chance < 0.2 else ""
    shapes = [tuple(pick(random, range(1, largest + 1)) for _ in range(2))]
    while kind == "which" and len(shapes) < 2:
        other = tuple(pick(random, range(1, largest + 1)) for _ in range(2))
        shapes += [other] if other != shapes[0] else []
    images = sum(PatchGrid(PATCHES * rows, PATCHES * columns).tokens for rows, columns in shapes)
    length = 2 + images + FEWER_QUESTIONS.get(kind, QUESTIONS) * 18
    count = max(budget // length, 4)
    return kind, [[make_layout(random, *shape) for shape in shapes] for _ in range(count)]


def _mark(
    evidence: np.ndarray,
    answer: tuple[int, int],
    asked: Asked,
    places: np.ndarray,
    scene: list[Layout],
) -> None:
    """Fill one question's part of `Lesson.evidence`; `answer` is where its words begin and end.

    A code is read cell by cell, a description looks at what it is naming, a neighbour is seen by
    the patch that knows it, and other questions look at all their cells at once.
    """
    first, end = answer
    layout = scene[-1] if asked.second else scene[0]
    cells = [np.array([*layout.place(cell), int(asked.second)]) for cell in asked.cells]
    patches = [(places == cell).all(axis=1) for cell in cells]
    if asked.kind == "read":
        evidence[first:end] = patches
    elif asked.kind == "next":
        evidence[first:end, _outward(layout, *asked.cells)] = True
    elif asked.kind == "describe":
        # The words are the tokens, but for a space of its own before a digit.
        pieces = re.findall(r" ?[A-Za-z]+|[\d ,.]", asked.answer)
        starts = [i for i, piece in enumerate(pieces) if piece in (" from", " of", " to")]
        for start, seen in zip(starts, patches, strict=True):
            evidence[first + start + 1 : end] = seen
    else:
        for seen in patches:
            evidence[first:end] |= seen


def _outward(layout: Layout, cell: int, neighbour: int) -> int:
    """Index in the prefix of the patch that knows its cell's neighbour."""
    (row, column), there = layout.place(cell), layout.place(neighbour)
    step = (there[0] - row, there[1] - column)
    (corner,) = (corner for corner, outwards in OUTWARDS.items() if outwards == step)
    line = PATCHES * layout.columns + 1
    return 2 + (PATCHES * row + corner[0]) * line + PATCHES * column + corner[1]


def _questions(
    random: Random, kinds: dict[str, float], number: int, most: int, scene: list[Layout]
) -> list[Asked]:
    """`number` questions about one scene, of these kinds and as often as they say; those that the
    scene does not allow give way to others."""
    found: list[Asked] = []
    while len(found) < number:
        chosen = _weighted(random, kinds) if len(kinds) > 1 else next(iter(kinds))
        asked = ask(chosen, scene[0], random, scene[-1], most=most)
        if asked is None and chosen == "which":
            asked = Asked("which", "Describe the picture.", "nothing")
        if asked is not None:
            found.append(asked)
    return found


def _weighted(random: Random, weights: dict[str, float]) -> str:
    left = random.random() * sum(weights.values())
    for kind, weight in weights.items():
        left -= weight
        if left < 0:
            return kind
    return KINDS[0]


class Words:
    """Turns questions into ids, as `Tokenizer.encode` would for a whole request.

    Arguments:
        tokenizer: the checkpoint's.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        words = tokenizer._words
        self._ids = lru_cache(maxsize=None)(lambda text: words.encode(text, bos=False, eos=False))
        self._begin, self._end = (words.get_special_token(n) for n in ("[INST]", "[/INST]"))

    def prefix(self, shapes: list[tuple[int, ...]]) -> tuple[list[int], np.ndarray]:
        """Ids up to the question for pictures of these (rows, columns) of cells, and `places`."""
        tokens = [self._tokenizer.bos_id, self._begin]
        places = [(-1, -1, -1)] * 2
        for number, (rows, columns) in enumerate(shapes):
            grid = PatchGrid(PATCHES * rows, PATCHES * columns)
            tokens += image_tokens(grid, self._tokenizer.image_ids)
            for row in range(grid.rows):
                places += [(row // PATCHES, c // PATCHES, number) for c in range(grid.columns)]
                places.append((row // PATCHES, -1, number))
        return tokens, np.array(places, np.int32)

    def encode(self, conversations: Sequence[Sequence[Asked]]) -> tuple[np.ndarray, np.ndarray]:
        """`tokens` and `learnt` of a lesson, padded at the right with the end token."""
        eos = self._tokenizer.eos_id
        rows: list[tuple[list[int], list[int]]] = []
        for conversation in conversations:
            said, told = list[int](), list[int]()
            for asked in conversation:
                question = [*self._ids(asked.text), self._end]
                question[:0] = [self._begin] if said else []
                answer = [*self._ids(asked.answer), eos]
                said += question + answer
                told += [0] * len(question) + [1] * len(answer)
            rows.append((said, told))
        longest = max(len(said) for said, _ in rows)
        tokens = np.full((len(rows), longest), eos, np.int32)
        learnt = np.zeros(tokens.shape, np.float32)
        for i, (said, told) in enumerate(rows):
            tokens[i, : len(said)], learnt[i, : len(told)] = said, told
        return tokens, learnt


class Feeder:
    """Makes lessons in other processes while the model learns from those that are ready.

    Arguments:
        make: `make(step) -> Lesson`; must be picklable.
        workers: processes; 0 makes each lesson when it is asked for.
        ahead: lessons that are waiting at most.
    """

    def __init__(self, make: Callable[[int], Lesson], *, workers: int = 1, ahead: int = 8):
        self._make, self._workers, self._ahead = make, workers, ahead

    def lessons(self, start: int, stop: int) -> Iterator[Lesson]:
        """The lessons of the steps from `start` up to `stop`, in order."""
        if not self._workers:
            yield from map(self._make, range(start, stop))
            return
        with worker_processes(self._workers) as pool:
            waiting: deque[Future[Lesson]] = deque()
            for step in range(start, stop):
                waiting.append(pool.submit(self._make, step))
                if len(waiting) > self._ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
