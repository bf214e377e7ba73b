"""Apple chips and their memory: what to expect of a machine that nobody has measured.

All of it is an estimate: published bandwidths that no program quite reaches, and operations from
core counts and clocks.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """One Apple chip, with the most GPU cores it comes with.

    Arguments:
        name: "M4 Max".
        gigabytes_per_second: memory bandwidth, as Apple publishes it.
        gpu_cores, gigahertz: of the GPU; the clock is what others measured.
        memory_gb: sizes it is sold with.
    """

    name: str
    gigabytes_per_second: float
    gpu_cores: int
    gigahertz: float
    memory_gb: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """In which type `dtype="auto"` computes. M1 and M2 have no bfloat16 in their GPUs: on an M2
        Ultra it was slower than float16 by a third and more
        (github.com/ml-explore/mlx-examples/pull/186). Not measured with this program."""
        return "float16" if self.name.startswith(("M1", "M2")) else "bfloat16"

    @property
    def operations_per_second(self) -> float:
        """The most that its GPU could compute: 128 lanes a core, two operations a clock, the same
        in 16 and 32 bits. A prefill takes at least its operations divided by this."""
        return self.gpu_cores * 128 * 2 * self.gigahertz * 1e9


# Bandwidth, GPU cores and memory: Apple's technical specifications of each Mac
# (support.apple.com/specs) and its announcements. Where a chip comes in two bandwidths, both stand.
_TABLE = (
    ("M1", 68.25, 8, 1.28, (8, 16)),
    ("M1 Pro", 200, 16, 1.3, (16, 32)),
    ("M1 Max", 400, 32, 1.3, (32, 64)),
    ("M1 Ultra", 800, 64, 1.3, (64, 128)),
    ("M2", 100, 10, 1.4, (8, 16, 24)),
    ("M2 Pro", 200, 19, 1.4, (16, 32)),
    ("M2 Max", 400, 38, 1.4, (32, 64, 96)),
    ("M2 Ultra", 800, 76, 1.4, (64, 128, 192)),
    ("M3", 100, 10, 1.4, (8, 16, 24)),
    ("M3 Pro", 150, 18, 1.4, (18, 36)),
    ("M3 Max, 30 cores", 300, 30, 1.4, (36, 96)),
    ("M3 Max", 400, 40, 1.4, (48, 64, 128)),
    ("M3 Ultra", 819, 80, 1.4, (96, 256, 512)),
    ("M4", 120, 10, 1.58, (16, 24, 32)),
    ("M4 Pro", 273, 20, 1.58, (24, 48, 64)),
    ("M4 Max, 32 cores", 410, 32, 1.58, (36,)),
    ("M4 Max", 546, 40, 1.58, (48, 64, 128)),
)
CHIPS = {row[0]: Chip(*row) for row in _TABLE}


def usable_bytes(memory_gb: int) -> float:
    """An estimate of what Metal recommends to use at most on a Mac with this much memory: two
    thirds up to 36 GB, three quarters above. On a Mac, `capacity.usable_bytes` has the figure."""
    return memory_gb * 2**30 * (2 / 3 if memory_gb <= 36 else 3 / 4)


def wired_limit_bytes(memory_bytes: int) -> int:
    """What the GPU's limit may be raised to with `sysctl iogpu.wired_limit_mb`, until a restart:
    all but an eighth of the memory, and at least 6 GB, which stay with macOS. Not measured."""
    return max(0, memory_bytes - max(memory_bytes // 8, 6 * 2**30))


def this_chip(device_name: str) -> Chip | None:
    """The chip that `mx.device_info()["device_name"]` names; None if it is not in the table."""
    return CHIPS.get(device_name.removeprefix("Apple ").strip())
