"""What is believed of a field, when all questions about it have been answered."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..checks import shown
from .answers import LEAST_MASS, Answer
from .asking import Asking
from .evidence import Place, place_of
from .fields import Field
from .forms import same
from .leaves import MISSING, Leaf
from .options import ExtractionOptions
from .passes import Found, Passes

Judged = tuple[Field, Any]
"""A field, and the value that goes into the data; `MISSING` leaves it out."""


def judge(
    found: Found, passes: Passes, options: ExtractionOptions, *, one_by_one: bool
) -> Asking[Judged]:
    """Ask what is still to be asked about a field, and say what it is.

    Arguments:
        one_by_one: whether a question has given its value already.
    """
    leaf, answer, reasons = found.leaf, found.answer, []
    present, sure = found.present or (None, 0.0)
    if options.double_check and leaf.asks_presence and found.present is None:
        present, sure = yield from _presence(found, passes)
    value = answer.value
    second, how = yield from _second(found, passes, options, present, one_by_one=one_by_one)
    agrees = None if second is None else same(value, second.value)
    confidence, mass = answer.confidence, answer.allowed_mass
    place = Place()
    if value is not None and present is False and (leaf.nullable or leaf.optional):
        reasons.append(f"the first pass wrote {shown(value)}, and a question finds nothing there")
        value, confidence, agrees = None, sure, False
    elif value is None:
        confidence, agrees = _of_nothing(found, present, sure, second, reasons)
    else:
        if not answer.valid:
            reasons.append("the model gave nothing that the schema allows")
        if present is False:
            reasons.append("a question finds nothing there, and the schema does not allow null")
        if agrees is False and second is not None:
            reasons.append(f"a second question{how} gave {shown(second.value)}")
        place = _placed(leaf, value, answer, second if agrees else None)
        reasons += place.reasons
    reasons += [f"other pages say {shown(other.value)}" for other in found.others]
    reasons += doubts(confidence, mass if value is not None else 1.0, options)
    field = Field(
        value, confidence, mass, place.page, place.box, place.text, agrees, present,
        tuple(dict.fromkeys(reasons)), answer.value, None if second is None else second.value,
    )  # fmt: skip
    left_out = value is None and not leaf.nullable and leaf.optional
    return field, MISSING if left_out else value


def _presence(found: Found, passes: Passes) -> Asking[tuple[bool | None, float]]:
    """In the part where something was found; in all of them where nothing was."""
    if found.answer.value is not None:
        return (yield from passes.ask_presence(found.asked, found.part))
    answers = []
    for part in range(len(passes.parts)):
        answers.append((yield from passes.ask_presence(found.asked, part)))
    there = [each for each in answers if each[0]]
    return max(there, key=lambda e: e[1]) if there else min(answers, key=lambda e: e[1])


def _second(
    found: Found, passes: Passes, options: ExtractionOptions, present: bool | None, *,
    one_by_one: bool,
) -> Asking[tuple[Answer | None, str]]:  # fmt: skip
    """What other questions say, up to the first that says something else, and how that was asked;
    None where there is none."""
    value, second, how = found.answer.value, None, ""
    if present is False or (value is None and not present):
        return None, how
    if options.double_check and not one_by_one:
        second = yield from passes.ask_value(found.asked, found.part)
    if options.second_look and (second is None or same(second.value, value)):
        how = " at a lower resolution"
        second = yield from passes.ask_value(found.asked, found.part, smaller=True)
    if options.second_seed is not None and (second is None or same(second.value, value)):
        how, seed = " drawn at random", options.second_seed
        second = yield from passes.ask_value(found.asked, found.part, seed=seed)
    return second, how


def _of_nothing(
    found: Found, present: bool | None, sure: float, second: Answer | None, reasons: list[str]
) -> tuple[float, bool | None]:
    """How sure it is that nothing is there, and whether a question agrees."""
    leaf, confidence = found.leaf, found.answer.confidence
    if not (leaf.nullable or leaf.optional):
        reasons.append("the document has nothing there, and the schema does not allow null")
    if present is None:
        return confidence, None
    if not present:
        return sure, True
    said = "" if second is None else f": {shown(second.value)}"
    reasons.append(f"the first pass found nothing, and a question finds something{said}")
    return confidence, False


def _placed(leaf: Leaf, value: Any, answer: Answer, second: Answer | None) -> Place:
    """Where it stands: as the shorter answer looked, if there are two that agree."""
    chosen = "enum" in leaf.schema or "const" in leaf.schema or isinstance(value, bool)
    look = second.look if second is not None and second.look is not None else answer.look
    return place_of(value, look, spelled=not chosen)


def doubts(confidence: float, mass: float, options: ExtractionOptions) -> list[str]:
    """Why an answer is not believed by itself."""
    found = []
    if confidence < options.min_confidence:
        found.append(f"confidence {confidence:.2f} is below {options.min_confidence:g}")
    if mass < LEAST_MASS:
        found.append(f"the schema allowed only {mass:.0%} of what the model would have said")
    return found


def flagged(field: Field, reasons: Sequence[str]) -> Field:
    """The same field with more reasons to look at it."""
    return replace(field, reasons=(*field.reasons, *reasons))
