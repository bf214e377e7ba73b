"""Will it fit? Weights, KV cache, activations and trace against the memory that MLX may use."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import mlx.core as mx

from ..checkpoint import layouts
from ..checkpoint.identity import arrays_of
from ..cost.chips import wired_limit_bytes
from ..cost.cost import activation_bytes
from ..cost.machine import memory_bytes
from ..errors import CapacityError
from ..interpret.recorder import TraceOptions
from ..model.config import PixtralConfig, TextConfig
from ..model.kv_cache import KV_BITS, KVFormat
from ..model.prompt import Prompt
from ..model.vision_language_model import VisionLanguageModel
from ..tables import format_bytes, format_memory

RESERVE_BYTES = 2_000_000_000
"""An estimate of what a run takes on a Mac beside weights and KV cache: activations, buffers that
MLX keeps, Python and the tokenizer. Published peaks lie up to so much above them; nothing was
measured on a Mac. What is advised counts it (`Need.advised`); `check_memory` refuses what is sure
not to fit, and counts activations and traces one by one."""

_SMALLER_TRACES = {
    "a trace without the encoder (px.TraceOptions(vision_layers=()))": TraceOptions(()),
    "trace=False": None,
}

WORTHWHILE_TOKENS = 1024
"""Of an answer without a limit of its own: for less room than this it is not to share memory."""

LEAST_BUDGET = 16
"""Tokens of an image below which nobody is told to shrink it."""


def usable_bytes() -> int:
    """Memory that MLX may use: Metal's recommended working set, else MLX's own limit."""
    info = mx.device_info()
    return int(info.get("max_recommended_working_set_size") or mx.get_memory_limit())


def weights_bytes(model: VisionLanguageModel) -> int:
    """Bytes of all parameters, whether they have been read from disk yet or not."""
    return sum(array.nbytes for array in arrays_of(model))


def kv_bytes_per_token(config: TextConfig, itemsize: int = 2, kv: KVFormat | None = None) -> int:
    """Bytes of keys and values that one token of context takes: 163,840 for the 12B in 16 bits,
    87,040 where they are kept in 8 and 46,080 in 4; see `KVFormat.bytes_per_token`."""
    return (kv or KVFormat()).of(config).bytes_per_token(config, itemsize)


def room_bytes(model: VisionLanguageModel, tokens: int, kv: KVFormat | None = None) -> int:
    """Usable memory that weights and the KV cache of `tokens` leave; below 0 they do not fit."""
    per_token = kv_bytes_per_token(model.config.text, model.decoder.norm.weight.dtype.size, kv)
    return usable_bytes() - weights_bytes(model) - tokens * per_token


def check_context(prompt: Prompt, context: int) -> None:
    """Compare a prompt with the context, in tokens.

    Raises:
        CapacityError: it is empty or too long; the message says what would fit.
    """
    length = len(prompt.tokens)
    if 0 < length <= context:
        return
    images = [span.stop - span.start for span in prompt.spans]
    ways = _fewer_images(images, lambda kept: length - sum(images) + sum(kept) <= context)
    advice = (
        f"{' or '.join(ways)} would fit" if ways else f"send {'less' if length else 'some'} text"
    )
    raise CapacityError(
        f"the prompt has {length:,} tokens; the context holds 1 to {context:,}: {advice}"
    )


def check_images(images: Sequence[int], context: int) -> None:
    """Compare pictures with the context, before they are decoded.

    Arguments:
        images: tokens that each takes at least.
        context: in tokens.

    Raises:
        CapacityError: they alone are too many; the message says what would fit.
    """
    if sum(images) <= context:
        return
    ways = _fewer_images(images, lambda kept: sum(kept) <= context)
    advice = f"{' or '.join(ways)} would fit" if ways else "send none"
    raise CapacityError(
        f"the pictures alone take {sum(images):,} tokens; the context holds {context:,}: {advice}"
    )


@dataclass(frozen=True)
class Need:
    """What a run takes, in bytes.

    Arguments:
        config: of the model.
        weights: bytes of all parameters.
        text_tokens: of the prompt without its images, and those to be written.
        images: tokens of each image; a little more than its patches, or its squares of them.
        kv: in what form keys and values are kept.
        itemsize: bytes of an activation.
        prefill_step_size: prompt tokens a step.
        answer_tokens: those of `text_tokens` that are to be written.
        trace: what is kept for looking inside, or None.
    """

    config: PixtralConfig
    weights: int
    text_tokens: int
    images: tuple[int, ...] = ()
    kv: KVFormat = KVFormat()  # noqa: RUF009  (frozen)
    itemsize: int = 2
    prefill_step_size: int = 512
    answer_tokens: int = 0
    trace: TraceOptions | None = None

    @property
    def tokens(self) -> int:
        """Of context at the end of the answer."""
        return self.text_tokens + sum(self.images)

    @property
    def cache(self) -> int:
        """Of keys and values; where they are quantized later, as they are until then."""
        text, size = self.config.text, self.itemsize
        plain = min(self.tokens, self.kv.start) * kv_bytes_per_token(text, size)
        return max(plain, self.tokens * kv_bytes_per_token(text, size, self.kv))

    @property
    def activations(self) -> int:
        """An estimate, see `cost.activation_bytes`."""
        return activation_bytes(
            self.config, self.tokens, [(1, tokens) for tokens in self.images],
            itemsize=self.itemsize, prefill_step_size=self.prefill_step_size,
        )  # fmt: skip

    @property
    def kept(self) -> int:
        """Of the trace, see `TraceOptions.numbers`; an image has a little less than its tokens."""
        if self.trace is None:
            return 0
        vision = self.config.vision
        patches = sum(self.images) * (1 if vision is None else vision.spatial_merge_size**2)
        return self.itemsize * self.trace.numbers(
            self.config, self.tokens, self.answer_tokens, patches
        )

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.activations + self.kept

    @property
    def advised(self) -> int:
        """As `total`, with at least `RESERVE_BYTES` beside weights and KV cache."""
        return self.weights + self.cache + max(self.activations + self.kept, RESERVE_BYTES)

    @property
    def spare(self) -> int:
        """Usable bytes that are left beside it; below 0 it does not fit."""
        return usable_bytes() - self.total

    def fits(self, usable: int, **other: Any) -> bool:
        """Whether it fits, or would with other values of its fields."""
        return replace(self, **other).total <= usable

    def __str__(self) -> str:
        return (
            f"weights {format_bytes(self.weights)} + KV cache of {self.tokens:,} tokens "
            f"{format_bytes(self.cache)} + activations {format_bytes(self.activations)}"
            + (f" + trace {format_bytes(self.kept)}" if self.trace else "")
        )


def need_of(
    model: VisionLanguageModel,
    prompt: Prompt,
    max_tokens: int,
    kv: KVFormat | None = None,
    prefill_step_size: int = 512,
    trace: TraceOptions | None = None,
) -> Need:
    """What it takes to answer a prompt with at most `max_tokens`."""
    images = tuple(span.stop - span.start for span in prompt.spans)
    return Need(
        model.config, weights_bytes(model), len(prompt.tokens) - sum(images) + max_tokens, images,
        (kv or KVFormat()).of(model.config.text), model.decoder.norm.weight.dtype.size,
        prefill_step_size, max_tokens, trace,
    )  # fmt: skip


def most_answer_tokens(
    model: VisionLanguageModel,
    prompt: Prompt,
    most: int,
    *,
    kv: KVFormat | None = None,
    prefill_step_size: int = 512,
    trace: TraceOptions | None = None,
    shares: int = 1,
) -> int:
    """How long the answer to a prompt may be so that it fits, in tokens, from 1 to `most`.

    Arguments:
        most: what the context leaves.
        shares: so many answers of its length should fit at once, beside `RESERVE_BYTES`, whatever
            their prompts. Where that would leave this one fewer than `WORTHWHILE_TOKENS`, half as
            many, and so on, down to this one alone.
    """
    need = need_of(model, prompt, 0, kv, prefill_step_size, trace)
    beside = usable_bytes() - need.weights

    def fits(shares: int, tokens: int) -> bool:
        one = replace(need, text_tokens=need.text_tokens + tokens, answer_tokens=tokens)
        reading = max(one.activations, RESERVE_BYTES) if shares > 1 else one.activations
        return reading + shares * (one.cache + one.kept) <= beside

    found = _largest(most + 1, partial(fits, shares))
    while shares > 1 and found < min(most, WORTHWHILE_TOKENS):
        shares //= 2
        found = _largest(most + 1, partial(fits, shares))
    return max(1, found)


def check_memory(
    model: VisionLanguageModel,
    prompt: Prompt,
    max_tokens: int,
    *,
    kv: KVFormat | None = None,
    prefill_step_size: int = 512,
    trace: TraceOptions | None = None,
) -> None:
    """Compare weights, KV cache, activations and trace with what is usable; nothing is read yet.

    What `model.prompt_cache` keeps does not count: it goes where a run needs the room.

    Raises:
        CapacityError: it cannot fit; the message says what would.
    """
    need = need_of(model, prompt, max_tokens, kv, prefill_step_size, trace)
    usable = usable_bytes()
    if need.fits(usable):
        return
    ways = _less_context(need, need.text_tokens - max_tokens, usable) + _raised_limit(need)
    advice = f"{' or '.join(ways)} would fit" if ways else _fewer_bits(model, need, usable)
    raise CapacityError(
        f"{need}; {format_memory(usable, memory_bytes())} are available: {advice} "
        "(--force tries anyway)"
    )


def _less_context(need: Need, words: int, usable: int) -> list[str]:
    """What fits with these weights; `words` tokens of text were sent."""
    advice = []

    def fits(tokens: int) -> bool:
        answer = min(need.answer_tokens, max(1, tokens - words))
        return need.fits(usable, text_tokens=tokens, answer_tokens=answer)

    most = _largest(need.text_tokens, fits)
    if most > words:
        advice.append(f"--max-tokens {most - words}")
    elif most > 0:
        advice.append(f"{most:,} tokens of text and answer")
    advice += _fewer_images(need.images, lambda kept: need.fits(usable, images=tuple(kept)))
    for bits in KV_BITS:
        with suppress(ValueError):  # heads that are too narrow
            kv = KVFormat(bits).of(need.config.text)
            if bits < (need.kv.bits or 16) and need.fits(usable, kv=kv):
                advice.append(f"--kv-bits {bits}")
                break
    for name, trace in _SMALLER_TRACES.items():
        if need.trace is not None and need.fits(usable, trace=trace):
            advice.append(name)
            break
    return advice


def _fewer_images(images: Sequence[int], fits: Callable[[list[int]], bool]) -> list[str]:
    """How many of the images would fit, and how many tokens each might take."""
    advice = []
    if len(images) > 1:
        most = _largest(len(images), lambda count: fits(list(images[:count])))
        if most > 0:
            advice.append(f"the first {most} of {len(images)} pictures")
    if images:
        budget = _largest(max(images), lambda most: fits([min(size, most) for size in images]))
        if budget >= LEAST_BUDGET:
            advice.append(f"--image-budget {budget}")
    return advice


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number below `most` that fits; 0 if none does."""
    return bisect_left(range(1, most), True, key=lambda number: not fits(number))


def _raised_limit(need: Need) -> list[str]:
    """On a Mac with room that macOS keeps from the GPU: how to raise its limit until a restart."""
    memory = int(mx.device_info().get("memory_size", 0))
    limit = wired_limit_bytes(memory)
    if not need.fits(limit):
        return []
    return [f"a higher limit (sudo sysctl iogpu.wired_limit_mb={limit >> 20}, not measured)"]


def _fewer_bits(model: VisionLanguageModel, need: Need, usable: int) -> str:
    """The widest conversion that fits, by scale."""
    parameters = sum(prod(shape) for shape in layouts.shapes(model.config).values())
    now = 8 * need.weights / parameters
    for bits in (8, 6, 5, 4, 3, 2):
        # Groups of 64 add half a bit; the vision encoder, which stays in 16, is a small part.
        weights = int((bits + 0.5) / now * need.weights)
        if weights < need.weights and need.fits(usable, weights=weights):
            return f"{bits} bits would fit: `pixtral-mlx convert SRC DST --bits {bits}`"
    return "no width would fit: it takes a machine with more memory"
