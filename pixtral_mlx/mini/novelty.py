"""What evaluation shows that training never drew, and how often pixtral-mini is right about it.

The two draw pictures from different seeds, but small grids hold few things: the content of some
scenes comes up in both. And no combination was kept from training: each shape comes in each colour
in each cell of each grid. What its scenes cannot hold is made here: characters apart from one
another (there they are one code, side by side), and two pictures of one shape.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from random import Random

from ..pixtral import Pixtral
from ..tables import format_table
from .evaluation import ANSWER_TOKENS, Findings
from .questions import KINDS
from .scene_layout import Layout, Thing, make_layout, shuffled
from .scenes import Scene, scene
from .stages import CONTINUED, STAGES, layouts

SEED = 0
"""Of the run that the bundled weights come from."""

FIRST_PLAN = next(replace(stage, steps=4000) for stage in STAGES if stage.name == "answer")
FIRST_STEPS = 900
"""Of that run: so many steps of "answer" followed this plan, then the one of `STAGES`."""

GROUPS = ("old content", "new content", "apart", "one shape")
"""What is asked about: scenes whose content training drew too, and those that it never drew; those
with characters apart; and pairs of pictures of one shape."""

Content = tuple[int, int, tuple[Thing, ...]]
"""Rows, columns, and what is in the cells."""


def content(layout: Layout) -> Content:
    """All that answers depend on, and nothing of how it is drawn."""
    return layout.rows, layout.columns, layout.cells


def drawn_by_training() -> Iterator[Layout]:
    """Every layout that the run behind the bundled weights drew, and those that "answer" would have
    drawn if it had followed one plan: rather too many than too few. The heads learnt again before
    "converse"."""
    plans = (layouts(stage, SEED) for stage in (*STAGES, *CONTINUED[:1]))
    return chain(chain.from_iterable(plans), layouts(FIRST_PLAN, SEED, FIRST_STEPS))


@dataclass
class Census:
    """What was drawn.

    Arguments:
        pictures: how many.
        contents: all that are in them.
        pairs: how often each coloured shape was in each cell of each grid.
    """

    pictures: int = 0
    contents: set[Content] = field(default_factory=set)
    pairs: Counter[tuple[int, int, int, Thing]] = field(default_factory=Counter)


def census(drawn: Iterable[Layout]) -> Census:
    """Count what was drawn."""
    found = Census()
    for layout in drawn:
        rows, columns, cells = one = content(layout)
        found.pictures += 1
        found.contents.add(one)
        found.pairs.update((rows, columns, i, t) for i, t in enumerate(cells) if t.colour)
    return found


def apart(shown: Scene) -> Scene | None:
    """The scene with its cells shuffled; None if its characters still stand side by side."""
    cells = shuffled(Random(f"apart {shown.seed}"), shown.layout.cells)
    layout = replace(shown.layout, cells=tuple(cells))
    return None if one_code(layout) else Scene(layout, shown.other, shown.seed)


def one_code(layout: Layout) -> bool:
    """Whether the characters stand side by side in one row, as everywhere in training; or there
    are none."""
    characters = [bool(thing.name and not thing.colour) for thing in layout.cells]
    places = [layout.place(i) for i, character in enumerate(characters) if character]
    return all(after == (row, column + 1) for (row, column), after in pairwise(places))


def of_one_shape(shown: Scene) -> Scene:
    """The scene with a second picture of as many rows and columns as the first."""
    rows, columns = shown.layout.rows, shown.layout.columns
    other = make_layout(Random(f"one shape {shown.seed}"), rows, columns)
    return Scene(shown.layout, other, shown.seed)


def ask_new(
    model: Pixtral,
    seeds: range,
    *,
    known: set[Content],
    progress: Callable[[], object] = lambda: None,
) -> tuple[Findings, int]:
    """Ask every question of these scenes, and of what is made of them.

    Arguments:
        seeds: of the scenes.
        known: the contents that count as old.
        progress: called after each scene.

    Returns:
        Right answers for each kind of question and group of `GROUPS`; and how many scenes are of
        old content.
    """
    found, old = Findings(), 0
    for seed in seeds:
        shown = scene(seed)
        is_old = content(shown.layout) in known
        old += is_old
        pairs = [q for q in of_one_shape(shown).questions if q.kind == "which"]
        scattered = apart(shown)
        asked = {
            GROUPS[not is_old]: shown.questions,
            "apart": scattered.questions if scattered else [],
            "one shape": pairs,
        }
        for group, questions in asked.items():
            for q in questions:
                reply = model.generate(q.text, images=q.images, max_tokens=ANSWER_TOKENS)
                found.count(q.kind, group, reply.text == q.answer)
        model.clear_cache()  # no other scene has these pictures
        progress()
    return found, old


def novelty_table(found: Findings) -> list[str]:
    """One line a kind, and all together: right answers of how many, in each group."""
    rows: list[tuple[str, ...]] = [("kind", *GROUPS)]
    rows += [(kind, *(_share(found, (kind,), group) for group in GROUPS)) for kind in KINDS]
    return format_table([*rows, ("all", *(_share(found, KINDS, group) for group in GROUPS))])


def _share(found: Findings, kinds: tuple[str, ...], group: str) -> str:
    asked, right = (sum(c[k, group] for k in kinds) for c in (found.asked, found.right))
    return f"{100 * right / asked:.1f} % of {asked}" if asked else ""
