"""What one look of `pixtral-mlx doctor` gives: a record, whatever happens."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import PixtralError

OK, WARN, FAIL, SKIPPED = "ok", "warn", "fail", "skipped"


@dataclass(frozen=True)
class Check:
    """What one look gave.

    Arguments:
        name: two or three words.
        status: "ok", "warn" (it goes on, with a loss), "fail" or "skipped" (it was not looked at).
        text: what was seen, one line.
        advice: what to do about it, one line; empty where there is nothing to do.
        facts: the numbers, for JSON.
    """

    name: str
    status: str
    text: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """All of it by name, for JSON."""
        return asdict(self)


def attempt(name: str, look: Callable[[], Check | Iterable[Check]]) -> Iterator[Check]:
    """What one look gives, one after the other; what it raises is its last line."""
    try:
        found = look()
        yield from [found] if isinstance(found, Check) else found
    except Exception as error:
        said, known = " ".join(str(error).split()), isinstance(error, PixtralError)
        text = said if known else f"{type(error).__name__}: {said}"
        yield Check(name, FAIL, text, "" if known else "report this line")
