"""Conversations for `teach_adapter.py` that say where to look: about numbered pages, and charts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar, NamedTuple, Protocol

import mlx.core as mx
from PIL import Image

import pixtral_mlx as px
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.inputs.pixels import preprocess
from pixtral_mlx.mini.charts import chart, chart_patches, chart_questions
from pixtral_mlx.mini.learning import LOOKING_LAYER
from pixtral_mlx.mini.lessons import SINK, Words
from pixtral_mlx.mini.pages import PATCH, Page, PageQuestion, ask_pages, document, page
from pixtral_mlx.mini.scene_layout import shuffled
from pixtral_mlx.model.prompt import PatchGrid, image_tokens

NUMBER_LAYER, NAME_LAYER, COLUMN_LAYER = 1, 2, 2
"""The decoder layers in which patches look at the number of their page, answers at the number that
their question names, and the letters below bars at the highest squares above. The last must know
their column, which mini does after layer 1."""
BY_NAME, BY_PLACE = 0, -1
"""The key heads that look: the first finds things by what they are, the last by where they are."""


class Hint(NamedTuple):
    """Where a position is to look.

    Arguments:
        layer, head: of the decoder; a key head, with all its query heads.
        place: the position that looks, in the conversation.
        evidence: those that it is to look at.
        share: of its attention that is to fall there, 0 to 1.
    """

    layer: int
    head: int
    place: int
    evidence: Sequence[int]
    share: float


@dataclass(frozen=True, eq=False)
class Told:
    """A conversation, as ids.

    Arguments:
        tokens: of all of it, as `Tokenizer.encode_answers` gives them.
        answers: where the answers stand, each with its end token.
        kinds: of the questions.
        pictures: their numbers in the pool.
        hints: where to look.
    """

    tokens: list[int]
    answers: list[slice]
    kinds: list[str]
    pictures: list[int]
    hints: list[Hint]


class Writing:
    """Puts a conversation together, and says where its parts stand."""

    def __init__(self, model: px.Pixtral):
        words = Words(model.tokenizer)
        self.ids, (self._begin, self._end) = words._ids, (words._begin, words._end)
        self._bos, self._eos = model.tokenizer.bos_id, model.tokenizer.eos_id
        self._image_ids = model.tokenizer.image_ids
        self.tokens = [self._bos, self._begin]
        self.answers: list[slice] = []

    def text(self, text: str) -> int:
        """Write it; where it begins."""
        start = len(self.tokens)
        self.tokens += self.ids(text)
        return start

    def digits(self, start: int, number: int) -> list[int]:
        """Where a number's first mention from a position on stands."""
        ids = [self.ids(digit)[-1] for digit in str(number)]
        for place in range(start, len(self.tokens)):
            if self.tokens[place : place + len(ids)] == ids:
                return [*range(place, place + len(ids))]
        raise ValueError(f"{number} is not said: give a text that says it")

    def picture(self, picture: Image.Image) -> int:
        """Write its tokens; where they begin."""
        start = len(self.tokens)
        self.tokens += image_tokens(grid_of(picture), self._image_ids)
        return start

    def turn(self, question: str, answer: str) -> range:
        """Write both; the positions from which the words of the answer are said, its end left
        out."""
        self.tokens += [*([self._begin] if self.answers else []), *self.ids(question), self._end]
        start = len(self.tokens)
        self.tokens += [*self.ids(answer), self._eos]
        self.answers.append(slice(start, len(self.tokens)))
        return range(start - 1, len(self.tokens) - 2)


def grid_of(picture: Image.Image) -> PatchGrid:
    """Its patches."""
    return PatchGrid(picture.height // PATCH, picture.width // PATCH)


class Lessons(Protocol):
    """What one adapter is taught with."""

    rows: ClassVar[dict[int, int]]
    """{how many pictures, or bars, a conversation has: conversations of a batch}, of about as many
    tokens."""
    usual: ClassVar[tuple[int, ...]]
    """Which of them are drawn, as often as they stand here."""
    features: list[mx.array]
    """Of the pictures in the pool."""
    grids: list[PatchGrid]
    """Of the same."""

    def __init__(self, model: px.Pixtral, seed: int, count: int): ...

    def told(self, random: Random, size: int) -> Told:
        """A conversation, drawn by chance."""
        ...


def encoded(model: px.Pixtral, picture: Image.Image) -> mx.array:
    """What the encoder says of it, shape (patches, width)."""
    vision, encoder = model.config.vision, model.vision_encoder
    if vision is None or encoder is None:
        raise ValueError("pictures are for a model with a vision encoder: give pixtral-mini")
    features = encoder([preprocess(picture, vision, ImageOptions())])
    mx.eval(features)
    return features


class PageLessons:
    """One to four numbered pages, or one without a number, as `extract` shows it. An answer looks
    at its evidence, in two layers. Before, a patch looks at the number of its page, and the answer
    at the number that the question names, if any, so that both know it."""

    rows: ClassVar = {1: 8, 2: 5, 3: 4, 4: 3}
    usual: ClassVar = (1, 2, 2, 3, 4)
    questions = 8

    def __init__(self, model: px.Pixtral, seed: int, count: int):
        self._model = model
        self.pages = [page(Random(f"page {seed} {i}")) for i in range(count)]
        self.features = [encoded(model, each.picture) for each in self.pages]
        self.grids = [grid_of(each.picture) for each in self.pages]

    def told(self, random: Random, size: int) -> Told:
        """A conversation about so many pages."""
        numbers = [int(random.random() * len(self.pages)) for _ in range(size)]
        first = document(random)[0].number
        pages = [replace(self.pages[n], number=first + i) for i, n in enumerate(numbers)]
        writing, hints, starts = Writing(self._model), list[Hint](), list[int]()
        shown = set[int]()
        numbered = size > 1 or random.random() < 0.5
        for each in pages:
            header: list[int] = []
            if numbered:
                header = writing.digits(writing.text(f"Page {each.number}:"), each.number)
            starts.append(writing.picture(each.picture))
            grid = grid_of(each.picture)
            cells = [(r, c) for r in range(grid.rows) for c in range(grid.columns)]
            patches = patch_places(starts[-1], grid, cells)
            if numbered:
                hints += [Hint(NUMBER_LAYER, BY_PLACE, place, header, 1.0) for place in patches]
            shown |= {*patches}
        asked = ask_pages(random, pages, self.questions, numbered=numbered)
        for question in asked:
            start = len(writing.tokens)
            said = writing.turn(question.text, question.answer)
            if question.page is not None:
                named = writing.digits(start, question.page)
                hints += [Hint(NAME_LAYER, BY_PLACE, place, named, 1.0) for place in said]
            hints += self._looks(question, pages, starts, said, shown)
        kinds = [question.kind for question in asked]
        return Told(writing.tokens, writing.answers, kinds, numbers, hints)

    @staticmethod
    def _looks(
        question: PageQuestion, pages: Sequence[Page], starts: Sequence[int], said: Sequence[int],
        shown: set[int],
    ) -> list[Hint]:  # fmt: skip
        """Where the words of an answer look: at their evidence; and those that count look at no
        other patch, so that where nothing is there they look at none.

        Arguments:
            starts: where the pictures of the pages begin.
            said: the positions that look.
            shown: the positions of all patches.
        """

        # In the last layer too, since boxes are drawn around what all layers look at.
        def look(places: Sequence[int], evidence: Sequence[int], share: float) -> list[Hint]:
            return [
                Hint(layer, BY_NAME, place, evidence, share)
                for layer in (LOOKING_LAYER, LOOKING_LAYER + 1)
                for place in places
            ]

        cells = [
            patch_places(starts[i], grid_of(pages[i].picture), pages[i].patches(cell))
            for i, cell in question.cells
        ]
        if question.kind == "read":
            return [
                hint for place, seen in zip(said, cells, strict=False)
                for hint in look([place], seen, 1.0)
            ]  # fmt: skip
        seen = [place for cell in cells for place in cell]
        if question.kind not in ("count", "is there"):
            return look(said, seen, 1.0)
        found = look(said, [*(shown - {*seen})], 0.0)
        if cells:
            found += look(said, seen, len(cells) / (len(cells) + SINK))
        return found


def patch_places(start: int, grid: PatchGrid, patches: Sequence[tuple[int, int]]) -> list[int]:
    """Of some patches, each (row, column), of a picture that begins at `start`."""
    return [start + row * (grid.columns + 1) + column for row, column in patches]


class ChartLessons:
    """Bar charts. A letter looks at the highest square above, whose row says the value; an answer
    looks at the letter that it is about."""

    rows: ClassVar = {2: 16, 3: 12, 4: 10, 5: 8}
    usual: ClassVar = (2, 3, 4, 4, 5, 5)
    questions = 6

    def __init__(self, model: px.Pixtral, seed: int, count: int):
        self._model = model
        charts = [chart(Random(f"chart {seed} {i}")) for i in range(count)]
        self._bars = [bars for _, bars in charts]
        self._pictures = [picture for picture, _ in charts]
        self.features = [encoded(model, picture) for picture in self._pictures]
        self.grids = [grid_of(picture) for picture in self._pictures]
        self._sized = {
            size: [i for i, bars in enumerate(self._bars) if len(bars) == size]
            for size in self.rows
        }

    def told(self, random: Random, size: int) -> Told:
        """A conversation about a chart with so many bars."""
        number = self._sized[size][int(random.random() * len(self._sized[size]))]
        bars, grid, writing = self._bars[number], self.grids[number], Writing(self._model)
        start = writing.picture(self._pictures[number])
        hints, letters = list[Hint](), dict[str, list[int]]()
        for letter in bars:
            below, squares = chart_patches(bars, letter)
            letters[letter] = patch_places(start, grid, below)
            seen = patch_places(start, grid, squares)
            share = bars[letter].value / (bars[letter].value + SINK)
            hints += [Hint(COLUMN_LAYER, BY_PLACE, place, seen, share) for place in letters[letter]]
        asked = shuffled(random, chart_questions(bars))[: self.questions]
        for question in asked:
            said = writing.turn(question.text, question.answer)
            if question.about:
                hints += [
                    Hint(LOOKING_LAYER, BY_NAME, place, letters[question.about], 1.0)
                    for place in said
                ]
        kinds = [question.kind for question in asked]
        return Told(writing.tokens, writing.answers, kinds, [number], hints)
