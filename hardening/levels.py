"""How much memory a process holds, and whether that grows."""

import resource
import statistics
from collections.abc import Sequence

MOST_GROWTH = 0.03
"""Of the level after the warm-up."""
WARM_UP = 0.25
"""This part of a run."""
LEAST = 100
"""With fewer levels nothing is said of growth."""


def resident(process: int | str = "self") -> int:
    """Bytes now; 0 where /proc does not say it."""
    try:
        with open(f"/proc/{process}/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return 0


def verdict(levels: Sequence[float]) -> tuple[str, bool]:
    """What to say of them, and whether memory grew no more than it may: the last tenth is compared
    with the tenth after the warm-up, medians."""
    last = f"{levels[-1] / 1e6:.0f} MB"
    if len(levels) < LEAST or not levels[0]:
        return last, True
    tenth, warm = len(levels) // 10, int(WARM_UP * len(levels))
    before = statistics.median(levels[warm : warm + tenth])
    grown = statistics.median(levels[-tenth:]) / before - 1
    return f"memory {grown:+.1%} since the warm-up, {last}", grown <= MOST_GROWTH
