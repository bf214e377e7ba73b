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
        memory_gb: sizes it is sold with; where a chip comes in two bandwidths, no size comes
            with both.
        source: where the bandwidth is published.
    """

    name: str
    gigabytes_per_second: float
    gpu_cores: int
    gigahertz: float
    memory_gb: tuple[int, ...]
    source: str

    @property
    def dtype(self) -> str:
        """In which type `dtype="auto"` computes the decoder. M1 and M2 have no bfloat16 in their
        GPUs: on an M2 Ultra it was slower than float16 by a third and more
        (github.com/ml-explore/mlx-examples/pull/186). Not measured with this program."""
        return "float16" if self.name.startswith(("M1", "M2")) else "bfloat16"

    @property
    def operations_per_second(self) -> float:
        """The most that its GPU could compute: 128 lanes a core, two operations a clock, the same
        in 16 and 32 bits. A prefill takes at least its operations divided by this; the neural
        accelerators that GPUs have from the M5 on are not counted."""
        return self.gpu_cores * 128 * 2 * self.gigahertz * 1e9


_NEWS = "https://www.apple.com/newsroom/"
_M1 = "https://en.wikipedia.org/wiki/Apple_M1"  # Apple publishes none; 128 bits of LPDDR4X-4266
_M1_PRO = (
    f"{_NEWS}2021/10/introducing-m1-pro-and-m1-max-the-most-powerful-chips-apple-has-ever-built/"
)
_M1_ULTRA = (
    f"{_NEWS}2022/03/apple-unveils-m1-ultra-the-worlds-most-powerful-chip-for-a-personal-computer/"
)
_M2 = f"{_NEWS}2022/06/apple-unveils-m2-with-breakthrough-performance-and-capabilities/"
_M2_PRO = f"{_NEWS}2023/01/apple-unveils-m2-pro-and-m2-max-next-generation-chips-for-next-level-workflows/"  # noqa: E501
_M2_ULTRA = f"{_NEWS}2023/06/apple-introduces-m2-ultra/"
_M3 = "https://support.apple.com/en-us/117735"
_M3_PRO = "https://support.apple.com/en-us/117736"
_M3_ULTRA = "https://support.apple.com/en-us/122211"
_M4 = f"{_NEWS}2024/05/apple-introduces-m4-chip/"
_M4_PRO = "https://support.apple.com/en-us/121553"
_M5 = f"{_NEWS}2025/10/apple-unleashes-m5-the-next-big-leap-in-ai-performance-for-apple-silicon/"
_M5_PRO = f"{_NEWS}2026/03/apple-debuts-m5-pro-and-m5-max-to-supercharge-the-most-demanding-pro-workflows/"  # noqa: E501
_M5_MAX = "https://www.apple.com/macbook-pro/specs/"
_M6 = (
    f"{_NEWS}2026/08/apple-introduces-m6-and-m5-ultra-for-a-big-leap-in-performance-and-ai-compute/"
)

# Bandwidth, GPU cores and memory: Apple's technical specifications of each Mac and its
# announcements. Where a chip comes in two bandwidths, both stand, the lesser one first. The clocks
# of the M5 and M6 are taken to be alike.
_TABLE = (
    ("M1", 68.25, 8, 1.28, (8, 16), _M1),
    ("M1 Pro", 200, 16, 1.3, (16, 32), _M1_PRO),
    ("M1 Max", 400, 32, 1.3, (32, 64), _M1_PRO),
    ("M1 Ultra", 800, 64, 1.3, (64, 128), _M1_ULTRA),
    ("M2", 100, 10, 1.4, (8, 16, 24), _M2),
    ("M2 Pro", 200, 19, 1.4, (16, 32), _M2_PRO),
    ("M2 Max", 400, 38, 1.4, (32, 64, 96), _M2_PRO),
    ("M2 Ultra", 800, 76, 1.4, (64, 128, 192), _M2_ULTRA),
    ("M3", 100, 10, 1.4, (8, 16, 24), _M3),
    ("M3 Pro", 150, 18, 1.4, (18, 36), _M3_PRO),
    ("M3 Max, 30 cores", 300, 30, 1.4, (36, 96), _M3_PRO),
    ("M3 Max", 400, 40, 1.4, (48, 64, 128), _M3_PRO),
    ("M3 Ultra", 819, 80, 1.4, (96, 256, 512), _M3_ULTRA),
    ("M4", 120, 10, 1.58, (16, 24, 32), _M4),
    ("M4 Pro", 273, 20, 1.58, (24, 48, 64), _M4_PRO),
    ("M4 Max, 32 cores", 410, 32, 1.58, (36,), _M4_PRO),
    ("M4 Max", 546, 40, 1.58, (48, 64, 128), _M4_PRO),
    ("M5", 153, 10, 1.62, (16, 24, 32), _M5),
    ("M5 Pro", 307, 20, 1.62, (24, 48, 64), _M5_PRO),
    ("M5 Max, 32 cores", 460, 32, 1.62, (36,), _M5_MAX),
    ("M5 Max", 614, 40, 1.62, (48, 64, 128), _M5_PRO),
    ("M5 Ultra", 1200, 80, 1.62, (96, 256, 512), _M6),
    ("M6", 170, 12, 1.62, (16, 24, 32), _M6),
)
CHIPS = {row[0]: Chip(*row) for row in _TABLE}


def expected_usable_bytes(memory_gb: int) -> float:
    """An estimate of what Metal recommends to use at most on a Mac with this much memory: two
    thirds up to 36 GB, three quarters above. On a Mac, `capacity.usable_bytes` has the figure."""
    return memory_gb * 2**30 * (2 / 3 if memory_gb <= 36 else 3 / 4)


def wired_limit_bytes(memory_bytes: int) -> int:
    """What the GPU's limit may be raised to with `sysctl iogpu.wired_limit_mb`, until a restart:
    all but an eighth of the memory, and at least 6 GB, which stay with macOS. Not measured."""
    return max(0, memory_bytes - max(memory_bytes // 8, 6 * 2**30))


def this_chip(device_name: str, memory_bytes: float = 0) -> Chip | None:
    """The chip of this name, as `mx.device_info()["device_name"]` has it; None if it is not in the
    table.

    Arguments:
        memory_bytes: of the machine, which tells apart the two bandwidths of an M3, M4 or M5 Max;
            0 if it is not known: the wider one.
    """
    name = device_name.removeprefix("Apple ").strip()
    alike = [chip for chip in CHIPS.values() if chip.name.split(",")[0] == name]
    sold = [chip for chip in alike if round(memory_bytes / 2**30) in chip.memory_gb]
    return next(iter(sold or reversed(alike)), None)
