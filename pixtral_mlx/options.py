"""What can be asked of an answer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .edits import Edit
    from .kv_format import KVFormat
    from .recorder import TraceOptions


@dataclass(frozen=True)
class GenerationOptions:
    """How to generate; defaults are greedy.

    Arguments:
        max_tokens: at most this many new tokens.
        temperature: 0 takes the likeliest token; higher is more varied.
        top_p: sample among the likeliest tokens that hold this much probability; 0 or 1: all.
        top_k: sample among this many likeliest tokens; 0: all.
        min_p: sample among tokens at least this fraction as likely as the likeliest.
        repetition_penalty: above 1 makes recent tokens less likely.
        logit_bias: added to the logits of token ids.
        seed: makes sampling repeatable.
        stop: strings that end the answer; they are not part of it.
        prefill_step_size: prompt tokens a step at most, see `pace`; less takes less memory.
        kv_bits: 8 or 4 keeps keys and values in so many bits; None as they are computed.
        kv_group_size: how many share a scale: 32, 64 or 128 (None: 64, or 32 for narrow heads).
        quantized_kv_start: tokens from which on they are quantized; above 0 nothing is reused.
        progress: called with (prompt tokens done, all prompt tokens) during prefill.
        force: go on where memory would not suffice.
        trace: keep what looking inside needs (`reply.trace`); `TraceOptions` keeps less.
        edits: changes to the run, see `edits`.
        prompt_lookup_num_tokens: above 0, copy up to so many tokens from where the last ones stood
            before, and check them in one pass; see `lookup` for what holds. Pays where answers
            repeat (JSON, tables); not with `trace` or `quantized_kv_start`.
        reuse: go on from what earlier calls on this model computed for the same beginning (the
            same tokens, image contents and edits; see `prompt_cache`), and leave this one for
            later calls. False computes everything and leaves nothing.

    Raises:
        ValueError: a value out of range.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    stop: str | Sequence[str] = ()
    prefill_step_size: int = 512
    kv_bits: int | None = None
    kv_group_size: int | None = None
    quantized_kv_start: int = 0
    progress: Callable[[int, int], None] | None = None
    force: bool = False
    trace: "bool | TraceOptions" = False
    edits: "Sequence[Edit]" = ()
    prompt_lookup_num_tokens: int = 0
    reuse: bool = True

    def __post_init__(self):
        from .edits import as_edits  # imports MLX, and `--help` reads this file

        ranges = {
            "max_tokens": (1, math.inf), "temperature": (0, 100), "top_p": (0, 1),
            "top_k": (0, math.inf), "min_p": (0, 1), "prefill_step_size": (1, math.inf),
            "repetition_penalty": (0.01, 100), "seed": (0, 2**64 - 1),
            "prompt_lookup_num_tokens": (0, 64),
        }  # fmt: skip
        optional, whole = (
            ("repetition_penalty", "seed"),
            ("max_tokens", "top_k", "prefill_step_size", "seed", "prompt_lookup_num_tokens"),
        )
        for name, (lowest, highest) in ranges.items():
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            kind = Integral if name in whole else Real
            if isinstance(value, bool) or not isinstance(value, kind):
                wanted = "whole number" if name in whole else "number"
                raise ValueError(f"{name} is {value!r}; allowed is a {wanted}")
            if not lowest <= value <= highest:
                allowed = f"{lowest} to {highest}" if highest < math.inf else f"{lowest} or more"
                raise ValueError(f"{name} is {value}; allowed is {allowed}")
        _ = self.kv_format  # which looks at its own three
        for name in ("stop", "edits"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, ())
        object.__setattr__(self, "edits", as_edits(self.edits))
        for token in self.logit_bias or ():
            if isinstance(token, bool) or not isinstance(token, Integral):
                raise ValueError(f"logit_bias names token {token!r}; allowed are whole numbers")
        for token, bias in (self.logit_bias or {}).items():
            if not -1e9 <= bias <= 1e9:
                raise ValueError(f"logit_bias of token {token} is {bias}; allowed is -1e9 to 1e9")
        for name in ("trace", "quantized_kv_start"):
            if self.prompt_lookup_num_tokens and getattr(self, name):
                raise ValueError(
                    f"prompt_lookup_num_tokens and {name} exclude one another: {name} goes by "
                    "single tokens"
                )
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if not all(isinstance(s, str) and s for s in self.stop):
            raise ValueError(f"stop is {self.stop!r}; allowed are strings that are not empty")

    @property
    def kv_format(self) -> "KVFormat":
        """What `kv_bits`, `kv_group_size` and `quantized_kv_start` say."""
        from .kv_format import KVFormat

        return KVFormat(self.kv_bits, self.kv_group_size, self.quantized_kv_start)

    @property
    def trace_options(self) -> "TraceOptions | None":
        """What `trace` says; None keeps nothing."""
        from .recorder import TraceOptions

        if isinstance(self.trace, TraceOptions):
            return self.trace
        return TraceOptions() if self.trace else None
