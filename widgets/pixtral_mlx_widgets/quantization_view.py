"""`QuantizationView`: what fewer bits do to each matrix, and to the answer."""

from collections.abc import Callable, Iterator
from functools import partial
from os import PathLike
from typing import Any

import traitlets

import pixtral_mlx as px
from pixtral_mlx.checkpoint import AFFINE_BITS, AFFINE_GROUPS, FLOAT_MODES, MODES
from pixtral_mlx.quantization import ConversionOptions, together

from .long_work import LongWork
from .session import Session
from .view import View

WORST = 10
"""Rows of the table."""

SMALL = 1_000_000
"""A model whose layers hold fewer numbers than about ten times this is measured at once."""


class QuantizationView(View):
    """The error of every matrix after quantization, the bytes, and where two answers part.

    >>> QuantizationView(session, bits=3)
    >>> QuantizationView("mini")
    >>> QuantizationView(session, quantized="pixtral-4bit")

    Arguments:
        source: a `Session`, or what `Session` takes: a model that is not quantized, or its path.
        quantized: a quantized version to compare with, a model or a path; None quantizes the
            session's model in memory, as a conversion would.
        bits, group_size, mode: as for `pixtral-mlx convert`.
        max_tokens: of the two answers that are compared.

    Traits:
        bits, group_size, mode: what is chosen; a value that cannot be is refused.
        vision: whether the vision encoder is quantized too.
        errors: [{"name", "part", "layer", "kind", "error", "before", "after"}] measured so far.
        layers: [{"part", "layer", "error"}], each over all its matrices together.
        worst: [(name, error)] of the ten matrices that lose most, worst first.
        layer: the layer of the decoder that is chosen, None for none; `tensor`, the matrix.
        comparison: {"texts", "pieces", "parting", "kl"} of the last two answers; empty before.
        work: {"stage", "done", "total"} of what is under way.
    """

    name = "quantization_view"
    bits = traitlets.Int(4).tag(sync=True)
    group_size = traitlets.Int(64).tag(sync=True)
    mode = traitlets.Enum(MODES, "affine").tag(sync=True)
    vision = traitlets.Bool(False).tag(sync=True)
    choices = traitlets.Dict().tag(sync=True)
    errors = traitlets.List().tag(sync=True)
    layers = traitlets.List().tag(sync=True)
    worst = traitlets.List().tag(sync=True)
    layer = traitlets.Int(None, allow_none=True).tag(sync=True)
    tensor = traitlets.Unicode("").tag(sync=True)
    comparison = traitlets.Dict().tag(sync=True)
    work = traitlets.Dict().tag(sync=True)
    given = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        source: Any,
        quantized: Any = None,
        *,
        bits: int = 4,
        group_size: int | None = None,
        mode: str = "affine",
        max_tokens: int = 48,
        **options: Any,
    ):
        ConversionOptions(bits=bits if mode == "affine" else None, group_size=group_size, mode=mode)
        own_bits, own_group = FLOAT_MODES.get(mode, (bits, group_size or 64))
        self._long: LongWork | None = None
        self._measures = False  # what is under way, if anything
        self._found: list[px.TensorError] = []
        self._quantized, self._copy, self._stage = quantized, None, ""
        session = source if isinstance(source, Session) else Session(source)
        super().__init__(
            session, bits=own_bits, group_size=own_group, mode=mode, given=quantized is not None,
            **options,
        )  # fmt: skip
        self._max_tokens = max_tokens
        self.choices = {
            "mode": list(MODES), "bits": list(AFFINE_BITS), "group_size": list(AFFINE_GROUPS),
            "fixed": {name: list(sizes) for name, sizes in FLOAT_MODES.items()},
        }  # fmt: skip
        self.observe(self._forget, ["bits", "group_size", "mode", "vision"])

    @traitlets.validate("bits", "group_size")
    def _check(self, proposal: Any) -> int:
        """Only what a conversion would take."""
        value, name = proposal["value"], proposal["trait"].name
        allowed = AFFINE_BITS if name == "bits" else AFFINE_GROUPS
        if self.mode in FLOAT_MODES:
            allowed = (FLOAT_MODES[self.mode][name == "group_size"],)
        if value not in allowed:
            raise traitlets.TraitError(
                f"{name} is {value}; allowed with mode {self.mode}: {', '.join(map(str, allowed))}"
            )
        return value

    @traitlets.observe("mode")
    def _fit(self, change: Any) -> None:
        """A float mode has one width and one group size."""
        if change["new"] in FLOAT_MODES:
            self.bits, self.group_size = FLOAT_MODES[change["new"]]
        elif self.group_size not in AFFINE_GROUPS:
            self.group_size = 64

    def _forget(self, _: Any) -> None:
        """What was measured belongs to other choices."""
        self.do_stop()
        self._copy, self._found = None, []
        self.errors, self.layers, self.worst, self.comparison = [], [], [], {}
        self.layer, self.tensor = None, ""

    def _options(self) -> dict[str, Any]:
        """As `ConversionOptions` takes them."""
        affine = self.mode == "affine"
        options: dict[str, Any] = {"bits": self.bits, "group_size": self.group_size}
        options = {**options, "mode": self.mode} if affine else {"mode": self.mode}
        return {**options, "vision_bits": self.bits} if self.vision else options

    # Long work ---------------------------------------------------------------------------------

    def facts_now(self, session: Session) -> dict[str, Any]:
        """As in `View`, and whether the model is so small that all is measured at once."""
        config = session.config
        size = 0 if config is None else config.text.n_layers * config.text.dim**2
        return {**super().facts_now(session), "small": 0 < size < SMALL}

    def to_html(self, path: "str | PathLike[str] | None" = None) -> str:
        """One page, see `View.to_html`; a small model is measured first, as on the screen."""
        self.wait()
        if self.facts.get("small") and not self.errors:
            self.do_measure()
            self.wait()
        return super().to_html(path)

    def do_measure(self) -> None:
        """Measure the error of every matrix.

        Raises:
            RuntimeError: something else is under way.
        """
        under = self._long is not None and not self._long.ended.is_set()
        if under and self._measures:
            return  # this is asked for by every place that shows the widget
        self._measures = True
        self.errors, self.layers, self.worst, self._found = [], [], [], []
        # A step that is under way when this is stopped ends later: it adds to a list of its own.
        self._start(partial(self._measure, self._found), self._publish)

    def do_compare(self) -> None:
        """Answer the last question with both versions.

        Raises:
            RuntimeError: something is under way, or nothing has been asked yet.
        """
        if self.session is None or self.session.asked is None:
            raise RuntimeError("there is no question yet: ask one in the session, then compare")
        self.comparison, self._measures = {}, False
        self._start(self._compare, lambda: None)

    def do_stop(self) -> None:
        """End what is under way; what was found stays."""
        if self._long is not None:
            self._long.stop()
        self.work = {}

    def wait(self, timeout: float | None = None) -> None:
        """Wait until nothing is under way.

        Raises:
            TimeoutError: it takes longer than `timeout` seconds.
        """
        if self._long is not None and not self._long.ended.wait(timeout):
            raise TimeoutError(f"still under way after {timeout} s: wait longer, or stop it")

    def _start(self, steps: Callable[[Any], Iterator], publish: Callable[[], None]) -> None:
        if self._long is not None and not self._long.ended.is_set():
            raise RuntimeError("it is under way: wait for it, or stop it first")
        self.problem, self._stage = "", "preparing"
        self.work = {"stage": self._stage, "done": 0, "total": 0}

        def report(done: int, total: int) -> None:
            self.work = {"stage": self._stage, "done": done, "total": total}
            publish()

        def finish(_: Any, problem: str) -> None:
            publish()
            self.work, self.problem = {}, problem
            self._save_soon()

        self._long = LongWork(self.session, steps, report=report, finish=finish)  # type: ignore
        self._long.start()

    def _second(self, model: Any) -> Any:
        """The quantized version; on the worker's thread."""
        if isinstance(self._quantized, str | PathLike):
            self._quantized = px.load(self._quantized)
        if self._quantized is not None:
            return self._quantized
        if self._copy is None:
            self._copy = px.quantized_copy(model, **self._options())
        return self._copy

    def _measure(self, found: list[px.TensorError], model: Any) -> Iterator[tuple[int, int, None]]:
        """On the worker's thread: a matrix a step, whose error is added to `found`."""
        self._stage = "matrix"
        given = self._quantized is not None
        options = {"quantized": self._second(model)} if given else self._options()
        for error in px.quantization_errors(model, **options):
            found.append(error)
            yield error.index + 1, error.count, None

    def _publish(self) -> None:
        found = list(self._found)
        groups: dict[tuple[str, int], list[px.TensorError]] = {}
        for one in found:
            if one.layer is not None:
                groups.setdefault((one.part, one.layer), []).append(one)
        ranked = sorted(found, key=lambda one: -one.error)
        with self.hold_trait_notifications():
            self.errors = [facts(one) for one in found]
            self.layers = [
                {"part": part, "layer": layer, "error": together(group)}
                for (part, layer), group in groups.items()
            ]
            self.worst = [(one.name, one.error) for one in ranked[:WORST]]

    def _compare(self, model: Any) -> Iterator[tuple[int, int, None]]:
        """On the worker's thread: a token a step, then the first answer read with both."""
        prompt, replies = self.session.asked, []  # type: ignore[union-attr]
        for number in range(2):
            self._stage = f"writing answer {number + 1} of 2, token"
            version = self._second(model) if number else model
            stream = version.stream(prompt, max_tokens=self._max_tokens)
            for _ in stream:
                yield len(stream.reply.tokens), self._max_tokens, None
            replies.append(stream.reply)
        self._stage = "reading the answer with both, token"
        self.comparison = self._parted(model, prompt, *replies)

    def _parted(self, model: Any, prompt: Any, first: Any, second: Any) -> dict[str, Any]:
        end = [model.tokenizer.eos_id]
        tokens = [r.tokens + end * (r.finish_reason == "stop") for r in (first, second)]

        def progress(done: int, total: int) -> None:
            self.work = {"stage": self._stage, "done": done, "total": total}
            if self._long is None or self._long.ended.is_set():
                raise RuntimeError("stopped")
            self.session.worker.answer_waiting(model)  # type: ignore[union-attr]

        kl: list[float] = []
        if tokens[0]:
            found = px.compare_runs(
                model, prompt, tokens[0], other=self._second(model), progress=progress
            )
            kl = found.kl.tolist()
        return {
            "texts": [first.text, second.text],
            "pieces": [[model.tokenizer.label(token) for token in one] for one in tokens],
            "parting": px.first_difference(*tokens),
            "kl": kl,
        }


def facts(one: px.TensorError) -> dict[str, Any]:
    """What the browser hears about a matrix."""
    return {
        "name": one.name, "part": one.part, "layer": one.layer, "kind": one.kind,
        "shape": list(one.shape), "scheme": str(one.scheme), "error": one.error,
        "before": one.bytes_before, "after": one.bytes_after,
    }  # fmt: skip
