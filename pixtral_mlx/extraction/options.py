"""What can be asked of an extraction."""

from collections.abc import Callable
from dataclasses import dataclass

from ..checks import check_fields, option


@dataclass(frozen=True)
class ExtractionOptions:
    """How a document is read, by name.

    Arguments:
        instructions: said before every question: "amounts are in Swiss francs".
        double_check: ask once more for every field, and whether it is there at all.
        min_confidence: fields below it need review.
        one_by_one: ask for every field by a question of its own, for models that cannot write JSON.
            None: where the first pass is cut, or the schema fights the model.
        second_look: ask once more at a lower resolution; where questions are the first pass, this
            is their second.
        second_seed: ask once more, and draw the answer at temperature 1 with this seed: it is the
            same about as often as `confidence` says.
        pages_at_once: most pages in one question; None: as many as context and memory allow.
        progress: called with (questions answered, questions known of so far).

    Raises:
        ValueError: a value that is not allowed.
    """

    instructions: str = option(
        "", help="said before every question: 'amounts are in Swiss francs'", kind=None, unit="TEXT"
    )
    double_check: bool = option(
        True, help="ask once more for every field, and whether it is there at all", kind=bool
    )
    min_confidence: float = option(
        0.9, help="fields below it need review", kind=float, range=(0, 1), unit="P"
    )
    one_by_one: bool | None = option(
        None,
        help="ask for every field by a question of its own, for models that cannot write JSON",
        choices=(True, False),
    )
    second_look: bool = option(False, help="ask once more at a lower resolution", kind=bool)
    second_seed: int | None = option(
        None,
        help="ask once more, and draw the answer at temperature 1 with this seed; None: do not",
        kind=int,
        range=(0, 2**64 - 1),
        unit="N",
    )
    pages_at_once: int | None = option(
        None,
        help="most pages in one question; None: as many as context and memory allow",
        kind=int,
        range=(1, 100),
        unit="N",
    )
    progress: Callable[[int, int], None] | None = option(
        None, help="called with (questions answered, questions known of so far)"
    )

    def __post_init__(self):
        check_fields(self)
        if not isinstance(self.instructions, str):
            kind = type(self.instructions).__name__
            raise ValueError(f"instructions must be a string, got {kind}")
