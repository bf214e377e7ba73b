"""What can be asked of an answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..checks import check_fields, is_whole, number, option, shown

if TYPE_CHECKING:
    from ..interpret.edits import Edit
    from ..interpret.recorder import TraceOptions
    from ..model.kv_cache import KVFormat


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
        stop: strings that end the answer and are not part of it.
        prefill_step_size: prompt tokens per step at most. Less takes less memory; see `pace`.
        kv_bits: keep keys and values in so many bits; None: as they are computed.
        kv_group_size: how many keys or values share a scale; None: 64, or 32 for narrow heads.
        quantized_kv_start: tokens from which on keys and values are quantized. Above 0 nothing is
            reused.
        progress: called with (prompt tokens done, all prompt tokens) while the prompt is read.
        force: go on where memory would not suffice.
        trace: keep what looking inside needs (`reply.trace`). `TraceOptions` keeps less.
        edits: changes to the run. See `edits`.
        prompt_lookup_num_tokens: copy up to so many tokens from what repeats, and check them at
            once. Pays where answers repeat (JSON, tables); see `lookup` for what holds; not with
            `trace` or `quantized_kv_start`.
        reuse: go on from what earlier calls on this model computed for the same beginning. That
            is the same tokens, image contents and edits (see `prompt_cache`); what this call
            computes is left for later ones. False computes everything and leaves nothing.

    Raises:
        ValueError: a value out of range.
    """

    max_tokens: int = option(
        256, help="at most this many new tokens", kind=int, range=(1, None), unit="N"
    )
    temperature: float = option(
        0.0,
        help="0 takes the likeliest token; higher is more varied",
        kind=float,
        range=(0, 100),
        unit="T",
    )
    top_p: float = option(
        1.0,
        help="sample among the likeliest tokens that hold this much probability; 0 or 1: all",
        kind=float,
        range=(0, 1),
        unit="P",
    )
    top_k: int = option(
        0, help="sample among this many likeliest tokens; 0: all", kind=int, unit="K"
    )
    min_p: float = option(
        0.0,
        help="sample among tokens at least this fraction as likely as the likeliest",
        kind=float,
        range=(0, 1),
        unit="P",
    )
    repetition_penalty: float | None = option(
        None,
        help="above 1 makes recent tokens less likely",
        kind=float,
        range=(0.01, 100),
        unit="R",
    )
    logit_bias: Mapping[int, float] | None = option(
        None, help="added to the logits of token ids", unit="ID=B", repeated=True
    )
    seed: int | None = option(
        None, help="makes sampling repeatable", kind=int, range=(0, 2**64 - 1), unit="N"
    )
    stop: str | Sequence[str] = option(
        (), help="strings that end the answer and are not part of it", unit="TEXT", repeated=True
    )
    prefill_step_size: int = option(
        512, help="prompt tokens per step at most", kind=int, range=(1, None), unit="N"
    )
    kv_bits: int | None = option(
        None,
        help="keep keys and values in so many bits; None: as they are computed",
        kind=int,
        choices=(4, 8),
        unit="N",
    )
    kv_group_size: int | None = option(
        None,
        help="how many keys or values share a scale; None: 64, or 32 for narrow heads",
        kind=int,
        choices=(32, 64, 128),
        unit="N",
    )
    quantized_kv_start: int = option(
        0, help="tokens from which on keys and values are quantized", kind=int, unit="N"
    )
    progress: Callable[[int, int], None] | None = option(
        None, help="called with (prompt tokens done, all prompt tokens) while the prompt is read"
    )
    force: bool = option(False, help="go on where memory would not suffice", kind=bool)
    trace: "bool | TraceOptions" = option(
        False, help="keep what looking inside needs (`reply.trace`)"
    )
    edits: "Sequence[Edit]" = option((), help="changes to the run")
    prompt_lookup_num_tokens: int = option(
        0,
        help="copy up to so many tokens from what repeats, and check them at once",
        kind=int,
        range=(0, 64),
        unit="N",
    )
    reuse: bool = option(
        True,
        help="go on from what earlier calls on this model computed for the same beginning",
        kind=bool,
    )

    def __post_init__(self):
        from ..interpret.edits import as_edits  # imports MLX, and `--help` reads this file

        check_fields(self)
        object.__setattr__(self, "edits", as_edits(() if self.edits is None else self.edits))
        self._check_bias()
        self._check_stop()
        for name in ("trace", "quantized_kv_start"):
            if self.prompt_lookup_num_tokens and getattr(self, name):
                raise ValueError(
                    f"prompt_lookup_num_tokens and {name} exclude one another: {name} goes by "
                    "single tokens"
                )

    def _check_bias(self) -> None:
        for token, bias in (self.logit_bias or {}).items():
            if not is_whole(token):
                raise ValueError(f"logit_bias must name whole numbers, got {shown(token)}")
            number(f"logit_bias of token {token}", bias, -(10**9), 10**9)

    def _check_stop(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        if not all(isinstance(text, str) and text for text in stop):
            raise ValueError(f"stop must be strings that are not empty, got {shown(stop)}")
        object.__setattr__(self, "stop", stop)

    @property
    def kv_format(self) -> "KVFormat":
        """What `kv_bits`, `kv_group_size` and `quantized_kv_start` say."""
        from ..model.kv_cache import KVFormat

        return KVFormat(self.kv_bits, self.kv_group_size, self.quantized_kv_start)

    @property
    def trace_options(self) -> "TraceOptions | None":
        """What `trace` says; None keeps nothing."""
        from ..interpret.recorder import TraceOptions

        if isinstance(self.trace, TraceOptions):
            return self.trace
        return TraceOptions() if self.trace else None
