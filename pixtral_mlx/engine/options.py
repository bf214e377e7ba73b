"""What can be asked of an answer."""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..checks import check_fields, is_whole, number, option, options_of, shown
from ..inputs.image_options import ImageOptions

if TYPE_CHECKING:
    from ..interpret.edits import Edit
    from ..interpret.recorder import TraceOptions
    from ..model.kv_cache import KVFormat


Method = TypeVar("Method", bound=Callable[..., Any])

PENALTY_TOKENS = 20
"""Penalties look back so far unless told otherwise; mlx-lm's own number."""

ENCODING = ("image_options", "image_budget", "pdf_password", "raw")
"""What goes to `encode`."""

_REQUEST = ("messages", "images", *ENCODING)

_DIGITS = re.compile(r"\s*-?\d{1,18}\s*", re.ASCII)
_ELSEWHERE = {
    **dict.fromkeys(
        ("max_new_tokens", "max_completion_tokens", "max_output_tokens", "max_length",
         "num_predict", "n_predict"), "max_tokens"
    ),
    **dict.fromkeys(("image", "picture", "pictures", "image_url"), "images"),
    **dict.fromkeys(("prompt", "prompts", "question", "text", "conversation"), "messages"),
    **dict.fromkeys(("stop_sequences", "stop_strings", "stop_words"), "stop"),
    "temp": "temperature",
    "random_seed": "seed",
    "repeat_penalty": "repetition_penalty",
    "repeat_last_n": "repetition_context_size",
    "on_progress": "progress",
}  # fmt: skip
"""What other programs call an option: what it is called here."""


@dataclass(frozen=True)
class GenerationOptions:
    """How to generate; defaults are greedy.

    Arguments:
        max_tokens: most tokens that the answer may have. None: it ends by itself, or where the
            context does, or what memory holds (see `capacity.most_answer_tokens`).
        temperature: 0 always takes the likeliest token; higher values vary more.
        top_p: sample among the likeliest tokens that together hold this probability; 0 or 1: all.
        top_k: sample among the K likeliest tokens; 0: all.
        min_p: sample among tokens at least this fraction as likely as the likeliest.
        repetition_penalty: above 1 makes recent tokens less likely. What it and the next two do is
            mlx-lm's to say, the prompt counts as what was written.
        repetition_context_size: how many recent tokens `repetition_penalty` sees.
        presence_penalty: subtracted once from the logit of each recent token.
        presence_context_size: how many recent tokens `presence_penalty` sees.
        frequency_penalty: subtracted from the logit of each recent token, for every time it
            occurred.
        frequency_context_size: how many recent tokens `frequency_penalty` sees.
        logit_bias: added to the logits of these token ids. An id may be a string of digits, as in
            JSON.
        seed: makes sampling repeatable.
        top_logprobs: name the K likeliest tokens in the place of every generated one. See
            `reply.top_logprobs`.
        stop: string that ends the answer and is not part of it. One, or any number of them.
        prefill_step_size: most prompt tokens read at a time. Less takes less memory; see `pace`.
        kv_bits: keep keys and values in this many bits; None: as they are computed.
        kv_group_size: how many keys or values share a scale; None: 64, or 32 for narrow heads.
        quantized_kv_start: the position from which keys and values are quantized. Above 0 nothing
            is reused.
        progress: called with (prompt tokens done, all prompt tokens) while the prompt is read.
        force: go ahead even if memory looks too small.
        trace: keep what looking inside needs (`reply.trace`). `TraceOptions` keeps less.
        edits: changes to the run. See `edits`.
        response_format: the form that the answer must have: JSON of a schema, a pattern or a
            grammar. See `as_form` for its shapes and `reply.parsed` for the value.
        tools: functions that the answer may call. In the shape of OpenAI and Mistral, see
            `as_tools`; `reply.tool_calls` are the calls.
        tool_choice: whether, and which of them, it calls. "auto", "none", "required" (or "any"), or
            {"type": "function", "function": {"name": ...}}.
        parallel_tool_calls: whether an answer may have several calls.
        prompt_lookup_num_tokens: guess up to this many tokens from what repeats, and check them in
            one pass. At most 4. Pays where answers repeat (JSON, tables), and where a pass over
            several tokens is cheap, which is measured; see `lookup` for what holds; not with
            `trace`, `quantized_kv_start`, `response_format` or `tools`.
        reuse: continue from what earlier calls on this model computed for the same beginning. That
            is the same tokens, image contents and edits (see `prompt_cache`); what this call
            computes is left for later ones. False computes everything and leaves nothing.

    Raises:
        ValueError: a value out of range.
    """

    max_tokens: int | None = option(
        256,
        help="most tokens that the answer may have",
        kind=int,
        range=(1, None),
        unit="N",
        optional=True,
    )
    temperature: float = option(
        0.0,
        help="0 always takes the likeliest token; higher values vary more",
        kind=float,
        range=(0, 100),
        unit="T",
    )
    top_p: float = option(
        1.0,
        help="sample among the likeliest tokens that together hold this probability; 0 or 1: all",
        kind=float,
        range=(0, 1),
        unit="P",
    )
    top_k: int = option(0, help="sample among the K likeliest tokens; 0: all", kind=int, unit="K")
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
    repetition_context_size: int = option(
        PENALTY_TOKENS,
        help="how many recent tokens `repetition_penalty` sees",
        kind=int,
        range=(1, None),
        unit="N",
    )
    presence_penalty: float = option(
        0.0,
        help="subtracted once from the logit of each recent token",
        kind=float,
        range=(-100, 100),
        unit="P",
    )
    presence_context_size: int = option(
        PENALTY_TOKENS,
        help="how many recent tokens `presence_penalty` sees",
        kind=int,
        range=(1, None),
        unit="N",
    )
    frequency_penalty: float = option(
        0.0,
        help="subtracted from the logit of each recent token, for every time it occurred",
        kind=float,
        range=(-100, 100),
        unit="F",
    )
    frequency_context_size: int = option(
        PENALTY_TOKENS,
        help="how many recent tokens `frequency_penalty` sees",
        kind=int,
        range=(1, None),
        unit="N",
    )
    logit_bias: Mapping[int, float] | None = option(
        None, help="added to the logits of these token ids", unit="ID=B", repeated=True
    )
    seed: int | None = option(
        None, help="makes sampling repeatable", kind=int, range=(0, 2**64 - 1), unit="N"
    )
    top_logprobs: int = option(
        0,
        help="name the K likeliest tokens in the place of every generated one",
        kind=int,
        range=(0, 20),
        unit="K",
    )
    stop: str | Iterable[str] = option(
        (), help="string that ends the answer and is not part of it", unit="TEXT", repeated=True
    )
    prefill_step_size: int = option(
        512, help="most prompt tokens read at a time", kind=int, range=(1, None), unit="N"
    )
    kv_bits: int | None = option(
        None,
        help="keep keys and values in this many bits; None: as they are computed",
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
        0, help="the position from which keys and values are quantized", kind=int, unit="N"
    )
    progress: Callable[[int, int], None] | None = option(
        None, help="called with (prompt tokens done, all prompt tokens) while the prompt is read"
    )
    force: bool = option(False, help="go ahead even if memory looks too small", kind=bool)
    trace: "bool | TraceOptions" = option(
        False, help="keep what looking inside needs (`reply.trace`)"
    )
    edits: "Sequence[Edit]" = option((), help="changes to the run")
    response_format: Any = option(
        None, help="the form that the answer must have: JSON of a schema, a pattern or a grammar"
    )
    tools: Any = option((), help="functions that the answer may call")
    tool_choice: Any = option("auto", help="whether, and which of them, it calls")
    parallel_tool_calls: bool = option(
        True, help="whether an answer may have several calls", kind=bool
    )
    prompt_lookup_num_tokens: int = option(
        0,
        help="guess up to this many tokens from what repeats, and check them in one pass",
        kind=int,
        range=(0, 64),
        unit="N",
    )
    reuse: bool = option(
        True,
        help="continue from what earlier calls on this model computed for the same beginning",
        kind=bool,
    )

    def __post_init__(self):
        from ..interpret.edits import as_edits  # imports MLX, and `--help` reads this file

        check_fields(self)
        object.__setattr__(self, "edits", as_edits(() if self.edits is None else self.edits))
        self._check_bias()
        self._check_stop()
        if self.response_format is not None:
            from .form import as_form

            object.__setattr__(self, "response_format", as_form(self.response_format))
        from ..inputs.tools import as_tools  # which brings what fetches pictures

        tools = as_tools(self.tools, self.tool_choice, self.parallel_tool_calls)
        object.__setattr__(self, "tools", tools)
        for name in ("trace", "quantized_kv_start", "response_format", "tools"):
            if self.prompt_lookup_num_tokens and getattr(self, name):
                raise ValueError(
                    f"prompt_lookup_num_tokens and {name} cannot be used together: {name} goes by "
                    "single tokens"
                )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "GenerationOptions":
        """From options by name, as calls and requests give them.

        Raises:
            ValueError: a value out of range.
            TypeError: no such option; the line names the one that is meant.
        """
        for name in given:
            if name not in cls.__dataclass_fields__:
                raise TypeError(_no_option(name, [*_REQUEST, *options_of(cls)]))
        return cls(**given)

    def _check_bias(self) -> None:
        if self.logit_bias is None:
            return
        if not isinstance(self.logit_bias, Mapping):
            raise ValueError(
                f"logit_bias must be a mapping from token ids to numbers, got "
                f"{shown(self.logit_bias)}"
            )
        found = {}
        for named, bias in self.logit_bias.items():
            token = int(named) if isinstance(named, str) and _DIGITS.fullmatch(named) else named
            if not is_whole(token):
                raise ValueError(f"logit_bias must name whole numbers, got {shown(token)}")
            bias = number(f"logit_bias of token {token}", bias, -(10**9), 10**9)
            found[int(token)] = float(bias)
        object.__setattr__(self, "logit_bias", found)

    def _check_stop(self) -> None:
        stop = () if self.stop is None else self.stop
        listed = [stop] if isinstance(stop, str) or not isinstance(stop, Iterable) else list(stop)
        if not all(isinstance(text, str) and text for text in listed):
            raise ValueError(f"stop must be strings that are not empty, got {shown(listed)}")
        object.__setattr__(self, "stop", tuple(map(str, listed)))

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


def names_options(method: Method) -> Method:
    """A method whose TypeError says what to write: the right word for one that it does not know,
    what is missing, what has to have its name.

    Where it takes `**options`, these are the fields of `GenerationOptions`.
    """
    own = inspect.signature(method).parameters
    bare = [name for name, one in own.items() if one.kind == one.POSITIONAL_OR_KEYWORD][1:]
    needed = [name for name in bare if own[name].default is inspect.Parameter.empty]
    known = [name for name, one in own.items() if one.kind != one.VAR_KEYWORD and name != "self"]
    if len(known) < len(own) - 1:
        known = [*dict.fromkeys((*_REQUEST, *known, *options_of(GenerationOptions)))]

    @functools.wraps(method)
    def called(*args: Any, **given: Any) -> Any:
        for name in given:
            if name not in known:
                raise TypeError(_no_option(name, known))
        first = bare[: len(args) - 1]
        missing = [name for name in needed if name not in first and name not in given]
        if len(args) - 1 > len(bare):
            others = [name for name in known if name not in bare]
            said = (
                f"{len(args) - 1} values without a name; allowed: {', '.join(bare)}; give the "
                f"others by their names: {', '.join(others[:3])}"
            )
        elif twice := [name for name in first if name in given]:
            said = f"{twice[0]} twice, by its place and by its name; leave one out"
        elif missing:
            call = f"{method.__name__}({', '.join(needed)})"
            said = f"no {' and no '.join(missing)}; write {call}"
        else:
            return method(*args, **given)
        raise TypeError(f"{method.__name__} got {said}")

    return called  # type: ignore


def _no_option(name: str, known: Sequence[str]) -> str:
    """What to write instead of a word that is no option."""
    right = _ELSEWHERE.get(name, name)
    if right in known:
        several = "batch_size" in known or "return_errors" in known
        example = "[[picture], ...]" if several else "[picture]"
        return f"{name} is called {right} here" + f": images={example}" * (right == "images")
    if right in options_of(GenerationOptions):
        return f"{right} is an option of the answer: give it to generate or stream"
    if name in options_of(ImageOptions):
        return f"{name} is an option of pictures: image_options=px.ImageOptions({name}=...)"
    close = difflib.get_close_matches(name, known, 1)
    meant = f": did you mean {close[0]}?" if close else f"; allowed: {', '.join(known)}"
    return f"there is no option {shown(name)}{meant}"
