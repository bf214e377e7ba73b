"""`MemoryView`: what fits into which Mac, and how fast it can be at best; predict, then measure."""

import math
import threading
from dataclasses import replace
from functools import lru_cache
from os import PathLike
from typing import Any

import traitlets
from mlx.utils import tree_flatten

import pixtral_mlx as px
from pixtral_mlx.checkpoint import AFFINE_BITS, KEEP_BITS
from pixtral_mlx.cost import (
    CHIPS,
    activation_bytes,
    decode_bytes,
    expected_usable_bytes,
    operations_per_second,
    prefill_operations,
    run_seconds,
    step_weight_bytes,
    this_chip,
)
from pixtral_mlx.engine import RESERVE_BYTES, kv_bytes_per_token
from pixtral_mlx.inputs import gradient, text_prompt
from pixtral_mlx.model import PIXTRAL_12B
from pixtral_mlx.quantization import ConversionOptions, plan_for

from .session import Session, sentence
from .view import View, config_of

AS_LOADED = 0
BITS = (*AFFINE_BITS, KEEP_BITS)
MOST_IMAGES, LARGEST_SIDE, MOST_TEXT = 16, 1024, 8192
MEASURED_TOKENS = 32


class MemoryView(View):
    """Weights, KV cache and activations against the memory of a Mac, and the bound that its memory
    bandwidth sets. Everything about a chip is an estimate; what is measured is measured here, now.

    >>> MemoryView(session)          # the sizes of its model, and a run to measure
    >>> MemoryView()                 # Pixtral 12B's sizes
    >>> MemoryView("Pixtral-Large-2411")  # the sizes of a folder

    Weights and KV cache are exact. Activations are `cost.activation_bytes`: the greater
    of the encoder's and of one prefill step's residuals and inner activations, without attention
    scores, which Metal computes in tiles; what of `capacity.RESERVE_BYTES` is beyond
    them is left for buffers, Python and the tokenizer. A decode step reads every weight of the
    decoder and the keys and values of the context, so that tokens/s <= bandwidth / those bytes. The
    prefill takes at least its operations over what the GPU's cores and clock allow.

    Arguments:
        source: a `Session`; or sizes, as a `px.PixtralConfig` or the path of a model folder; None
            for Pixtral 12B's.

    Traits:
        chip: a key of `pixtral_mlx.cost.CHIPS`. memory_gb: of the Mac.
        bits: of the weights; 0 is as they are loaded (only with a session).
        images, side: number of square pictures and their side in pixels. text_tokens: beside them.
        prediction: tokens/s that the reader expects; None before.
        measured: {"tokens_per_second", "gigabytes_per_second", "peak_bytes", "prompt_seconds",
            "prompt_tokens", "device", "bound"} of the last run; empty before. `bound` is that of
            this machine's chip in tokens/s; None if it is not an Apple chip in the table.
        work: {"stage", "done", "total"} of a run under way.
    """

    name = "memory_view"
    chip = traitlets.Enum(tuple(CHIPS), "M3 Max").tag(sync=True)
    memory_gb = traitlets.Int(64).tag(sync=True)
    bits = traitlets.Enum((AS_LOADED, *BITS), 4).tag(sync=True)
    images = traitlets.Int(1).tag(sync=True)
    side = traitlets.Int(LARGEST_SIDE).tag(sync=True)
    text_tokens = traitlets.Int(200).tag(sync=True)
    prediction = traitlets.Float(None, allow_none=True).tag(sync=True)
    measured = traitlets.Dict().tag(sync=True)
    work = traitlets.Dict().tag(sync=True)
    choices = traitlets.Dict().tag(sync=True)

    def __init__(self, source: Any = None, *, linked: bool = True, **traits: Any):
        self._config, self._stream, problem = PIXTRAL_12B, None, ""
        self._thread: threading.Thread | None = None
        self._stopped = False
        session = source if isinstance(source, Session) else None
        if isinstance(source, str | PathLike):
            try:
                self._config = config_of(source)
            except px.PixtralError as error:
                problem = sentence(error)
        elif isinstance(source, px.PixtralConfig):
            self._config = source
        elif source is not None and session is None:
            raise TypeError(
                f"source is {source!r}; allowed: a Session, a PixtralConfig, the path of a "
                "model folder, or nothing for Pixtral 12B"
            )
        start = {"bits": AS_LOADED} if session else {}
        super().__init__(session, linked=linked, **{**start, **traits})
        if problem:
            self.problem = problem
            return
        self._check_bits({"new": self.bits})
        self.choices = {
            "chips": [[name, list(chip.memory_gb)] for name, chip in CHIPS.items()],
            "bits": [AS_LOADED, *BITS] if session else list(BITS),
            "most": {"images": MOST_IMAGES, "side": LARGEST_SIDE, "text_tokens": MOST_TEXT},
            "can_measure": session is not None,
        }  # fmt: skip
        self._fit_memory(None)
        self.observe(self._fit_memory, "chip")
        self.observe(self._check_bits, "bits")
        if session is None:
            self.facts, self.state = {"epoch": 0, "images": []}, "ready"
            self._save_soon()

    @traitlets.validate("images", "side", "text_tokens")
    def _check_range(self, proposal: Any) -> int:
        low = {"images": 0, "side": 16, "text_tokens": 0}[proposal["trait"].name]
        if proposal["value"] < low:
            raise traitlets.TraitError(
                f"{proposal['trait'].name} is {proposal['value']}; allowed: {low} or more"
            )
        return proposal["value"]

    def _check_bits(self, change: Any) -> None:
        if change["new"] == AS_LOADED and self.session is None:
            raise ValueError("bits 0 is the model as it is loaded: give a session, or other bits")

    def _fit_memory(self, _: Any) -> None:
        """A chip is sold with some sizes of memory: the nearest that is not less, or the most."""
        sizes = CHIPS[self.chip].memory_gb
        if self.memory_gb not in sizes:
            self.memory_gb = min((s for s in sizes if s >= self.memory_gb), default=max(sizes))

    # The estimate ------------------------------------------------------------------------------

    def answer_estimate(
        self,
        model: Any,
        chip: str,
        memory_gb: int,
        bits: int,
        images: int,
        side: int,
        text_tokens: int,
    ) -> dict[str, Any]:
        """Bytes, tokens and bounds for one choice; all but weights, KV cache and tokens is an
        estimate."""
        config = model.config if model is not None else self._config
        itemsize = model.decoder.norm.weight.dtype.size if model is not None else 2
        sizes = loaded_bytes(model) if bits == AS_LOADED else planned_bytes(config, bits)
        grids = self._grids(config, images, side)
        tokens = text_tokens + sum(grid.tokens for grid in grids)
        read = decode_bytes(step_weight_bytes(sizes), config.text, tokens, itemsize)
        operations = prefill_operations(config, tokens, grids)
        weights, kv = sum(sizes.values()), tokens * kv_bytes_per_token(config.text, itemsize)
        activations = activation_bytes(config, tokens, grids, itemsize=itemsize)
        reserve = max(0, RESERVE_BYTES - activations)
        usable = expected_usable_bytes(memory_gb)
        made = CHIPS[chip]
        return {
            "tokens": tokens, "image_tokens": grids[0].tokens if grids else 0,
            "grid": list(grids[0]) if grids else None,
            "merge": config.vision.spatial_merge_size if config.vision else 1,
            "context": config.text.max_seq_len,
            "weights": weights, "kv": kv, "activations": activations,
            "reserve": reserve,
            "kv_per_token": kv_bytes_per_token(config.text, itemsize),
            "memory": memory_gb * 2**30, "usable": usable,
            "fits": weights + kv + activations + reserve <= usable,
            "read": read, "bandwidth": made.gigabytes_per_second * 1e9,
            "tokens_per_second": made.gigabytes_per_second * 1e9 / read,
            "operations": operations,
            "prefill_seconds": operations / made.operations_per_second,
            "trial_seconds": None if model is None else trial_seconds(model, tokens, grids),
        }  # fmt: skip

    @staticmethod
    def _grids(config: Any, images: int, side: int) -> list[px.PatchGrid]:
        return [px.patch_grid(side, side, config.vision)] * images if config.vision else []

    def chosen(self) -> dict[str, Any]:
        """The arguments of the estimate that is shown."""
        names = ("chip", "memory_gb", "bits", "images", "side", "text_tokens")
        return {name: getattr(self, name) for name in names}

    def estimate(self) -> dict[str, Any]:
        """The numbers that are shown, in bytes, seconds and tokens; see `answer_estimate`."""
        return self.ask("estimate", **self.chosen())

    def questions_shown(self):
        """The estimate."""
        yield "estimate", self.chosen()

    # Predict, then measure ---------------------------------------------------------------------

    def do_measure(self) -> None:
        """Write 32 tokens after as many pictures and words as are chosen, and keep what it took.

        Raises:
            RuntimeError: there is no session, or a run is under way.
        """
        if self.session is None:
            raise RuntimeError("a run needs a model: use MemoryView(session)")
        if self._thread is not None and self._thread.is_alive():
            raise RuntimeError("a run is under way: wait for it, or stop it first")
        self._stopped, self.problem = False, ""
        self._thread = threading.Thread(
            target=self._measure, args=(self.session,), name="pixtral-mlx memory", daemon=True
        )
        self._thread.start()

    def do_stop(self) -> None:
        """End the run."""
        self._stopped = True
        if self._stream is not None:
            self._stream.stop()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until no run is under way.

        Raises:
            TimeoutError: it takes longer than `timeout` seconds.
        """
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise TimeoutError(f"the run is under way after {timeout} s: wait longer")

    def _measure(self, session: Session) -> None:
        try:
            self.work = {"stage": "preparing the pictures", "done": 0, "total": 0}
            arguments = (self.images, self.side, self.text_tokens)
            prompt, eos = session.worker.submit(lambda model: trial(model, *arguments)).result()
            self._stream = session.worker.stream(
                prompt, max_tokens=MEASURED_TOKENS, logit_bias={eos: -1e9}, trace=False,
                reuse=False, progress=self._prefilled,
            )  # fmt: skip
            if self._stopped:
                self._stream.stop()
            for done, _ in enumerate(self._stream, start=1):
                self.work = {"stage": "writing", "done": done, "total": MEASURED_TOKENS}
            reply = self._stream.reply
            if len(reply.tokens) > 1:
                self.measured = session.worker.submit(lambda model: took(model, reply)).result()
        except Exception as error:
            self.problem = sentence(error)
        finally:
            self._stream, self.work = None, {}
            self._save_soon()

    def _prefilled(self, done: int, total: int) -> None:
        self.work = {"stage": "reading the prompt", "done": done, "total": total}


def loaded_bytes(model: Any) -> dict[str, int]:
    """{parameter: bytes} of a model, in memory."""
    arrays: Any = tree_flatten(model.parameters())
    return {name: array.nbytes for name, array in arrays}


@lru_cache(maxsize=16)
def planned_bytes(config: px.PixtralConfig, bits: int) -> dict[str, int]:
    """{parameter: bytes} after a conversion to `bits`.

    Raises:
        ConfigError: nothing of this model can be quantized so.
    """
    return {t.name: t.nbytes for t in plan_for(config, ConversionOptions(bits=bits)).tensors}


def trial(model: Any, images: int, side: int, text_tokens: int) -> tuple[px.Prompt, int]:
    """A prompt of so many square pictures and about so many words, and the end token's id."""
    words = text_prompt(model.tokenizer, max(text_tokens, 1))
    if not images or model.vision_encoder is None:
        return words, model.tokenizer.eos_id
    prompt = model.encode("", [gradient(side, side)] * images)
    return replace(prompt, tokens=[*prompt.tokens, *words.tokens[1:]]), model.tokenizer.eos_id


@lru_cache(maxsize=1)
def _speeds() -> tuple[float, float]:
    """Operations and bytes per second of this machine; without a published bandwidth only the
    operations count, since measuring it would take seconds."""
    import mlx.core as mx

    chip = this_chip(str(mx.device_info().get("device_name", "")))
    bandwidth = chip.gigabytes_per_second * 1e9 if chip else math.inf
    return operations_per_second().per_second, bandwidth


def trial_seconds(model: Any, tokens: int, grids: list[px.PatchGrid]) -> float:
    """An estimate of how long a run takes on this machine."""
    per_second, bandwidth = _speeds()
    itemsize = model.decoder.norm.weight.dtype.size
    read = decode_bytes(step_weight_bytes(loaded_bytes(model)), model.config.text, tokens, itemsize)
    return run_seconds(
        model.config, tokens, grids,
        step_bytes=read, steps=MEASURED_TOKENS, per_second=per_second, bandwidth=bandwidth,
    )  # fmt: skip


def took(model: Any, reply: px.Reply) -> dict[str, Any]:
    """What a run took, and what this machine's chip could do at most."""
    import mlx.core as mx

    stats, device = reply.stats, str(mx.device_info().get("device_name", "this machine"))
    itemsize = model.decoder.norm.weight.dtype.size
    # The context grows by a token a step: the middle of the answer is the mean.
    context = stats.prompt_tokens + stats.generated_tokens // 2
    read = decode_bytes(
        step_weight_bytes(loaded_bytes(model)), model.config.text, context, itemsize
    )
    chip = this_chip(device, float(mx.device_info().get("memory_size", 0)))
    return {
        "tokens_per_second": stats.decode_tokens_per_second,
        "gigabytes_per_second": stats.decode_tokens_per_second * read / 1e9,
        "peak_bytes": stats.peak_bytes, "prompt_seconds": stats.prompt_seconds,
        "prompt_tokens": stats.prompt_tokens, "device": device,
        "bound": chip.gigabytes_per_second * 1e9 / read if chip else None,
    }  # fmt: skip
