"""A field: its value, where it stands, how sure it is, and why somebody should look at it."""

from dataclasses import asdict, dataclass
from typing import Any

Box = tuple[float, float, float, float]
"""x, y, width, height as shares of the page as it is seen: upright, its margins included."""


@dataclass(frozen=True)
class Field:
    """One value, and what is known of it.

    Arguments:
        value: as it stands in the data; None where it is null or left out.
        confidence: how likely the model found these very words, 0 to 1: the product over the
            value's tokens, before the mask of the schema; of null, how sure it is that nothing is
            there. It ranks right above wrong; it does not find what is not there, `present` does.
        allowed_mass: how much of the probability was on what the schema allows, the least over the
            value's tokens, 0 to 1.
        page: where it stands, from 1 on; None of a value that is null.
        box: where on the page, see `Box`.
        text: the words of the page that say it, where the page has text of its own.
        agrees: whether a second question gave the same; None: there was none.
        present: whether a question of its own found it there; None: that was not asked.
        reasons: why a person should look at it; none: nobody need.
        first: what the first pass said.
        second: what the second pass said; None where it was not asked.
    """

    value: Any
    confidence: float = 0.0
    allowed_mass: float = 1.0
    page: int | None = None
    box: Box | None = None
    text: str | None = None
    agrees: bool | None = None
    present: bool | None = None
    reasons: tuple[str, ...] = ()
    first: Any = None
    second: Any = None

    @property
    def needs_review(self) -> bool:
        """Whether there is a reason to look at it."""
        return bool(self.reasons)

    def row(self) -> dict[str, Any]:
        """As JSON has it, numbers rounded to four digits."""
        found = asdict(self)
        for name in ("confidence", "allowed_mass"):
            found[name] = round(found[name], 4)
        found["box"] = None if self.box is None else [round(side, 4) for side in self.box]
        return {**found, "reasons": [*self.reasons], "needs_review": self.needs_review}
