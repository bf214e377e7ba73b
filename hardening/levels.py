"""How much memory a process holds, and whether that grows."""

import resource
import statistics
from collections.abc import Sequence

MOST_GROWTH = 0.03
"""Of the level after the warm-up."""
WARM_UP = 0.25
"""This part of a run."""


def resident(process: int | str = "self") -> int:
    """Bytes now; 0 where /proc does not say it."""
    try:
        with open(f"/proc/{process}/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return 0


def growth(levels: Sequence[float]) -> float:
    """Of the last tenth over the tenth after the warm-up, medians, as a share of the latter."""
    tenth, warm = max(1, len(levels) // 10), int(WARM_UP * len(levels))
    before = statistics.median(levels[warm : warm + tenth])
    return statistics.median(levels[-tenth:]) / before - 1 if before else 0.0
