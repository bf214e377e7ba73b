"""What a run costs, by arithmetic, and what this machine can do.

It knows the sizes of a model, but no weights, no prompt and no answer. In reading order:

`cost`: the operations of a prefill, the bytes that a decode step reads
`chips`: Apple's chips as they are published, for machines that nobody has measured
`machine`: this machine: its chip, its memory, how exactly it multiplies
`pace`: how long a prompt takes, and how many tokens a step may read before macOS would end it
`buffers`: the freed buffers that MLX keeps, within bounds
"""

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .chips import CHIPS, expected_usable_bytes, this_chip
    from .cost import activation_bytes, decode_bytes, prefill_operations, step_weight_bytes
    from .pace import operations_per_second, run_seconds

__all__ = [
    "CHIPS",
    "activation_bytes",
    "decode_bytes",
    "expected_usable_bytes",
    "operations_per_second",
    "prefill_operations",
    "run_seconds",
    "step_weight_bytes",
    "this_chip",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "chips": "CHIPS expected_usable_bytes this_chip",
        "cost": "activation_bytes decode_bytes prefill_operations step_weight_bytes",
        "pace": "operations_per_second run_seconds",
    },
)
