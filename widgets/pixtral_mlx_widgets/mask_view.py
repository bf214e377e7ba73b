"""`MaskView`: who may see whom."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import traitlets

import pixtral_mlx as px
from pixtral_mlx.mini import Scene, scene

from .session import Session, sentence
from .view import View


class MaskView(View):
    """Who may see whom: in the encoder every patch sees its own image, and no other; in the decoder
    every token sees those before it.

    Break the encoder's mask, and what leaks from image to image is measured in two runs. Another
    picture can be added; the session's own question stays as it is.

    >>> view = MaskView(session)
    >>> view.add("second.png")
    >>> view.broken = True

    Arguments:
        source: a `Session`, or an image.
        model: with an image: what `Session` takes.

    Traits:
        broken: whether the encoder's mask is taken away.
        leak: what that does, once it is measured: {"features": the change of each image's encoder
            features, RMS of the difference by RMS of what they should be; "kl": divergence of the
            next token's distribution, KL(proper || broken) in nats; "words": the likeliest next
            token and its probability, [[proper], [broken]]}; empty before.
        added: how many pictures were added.
        work: {"stage", "done", "total"} while it is measured; empty otherwise.
    """

    name = "mask_view"
    shared = ()
    broken = traitlets.Bool(False).tag(sync=True)
    leak = traitlets.Dict().tag(sync=True)
    added = traitlets.Int(0).tag(sync=True)
    work = traitlets.Dict().tag(sync=True)

    def __init__(self, source: Any = None, model: Any = None, **options: Any):
        self._longer: px.Prompt | None = None
        self._epoch = 0
        self._measuring: _Measurement | None = None
        self._turn = threading.RLock()  # choices come from the browser's thread and the session's
        super().__init__(source, model, **options)
        self.observe(lambda _: self._measure(), ["broken", "facts"])
        self._measure()

    def prompt_shown(self) -> "px.Prompt | None":
        """The session's prompt, with the pictures that were added."""
        if self.session is None:
            return None
        if self._epoch != self.session.epoch:
            self._epoch, self._longer, self.added = self.session.epoch, None, 0
        return self._longer or self.session.prompt

    # Pictures ----------------------------------------------------------------------------------

    def add(self, image: Any) -> None:
        """Put another picture behind the last one, and measure again if the mask is broken.

        Arguments:
            image: whatever `model.generate` takes as one.

        Raises:
            ValueError: nothing has been asked yet.
            PixtralError: it cannot be used.
        """
        self._start_adding(image).result()

    def do_add(self, number: int) -> None:
        """One of pixtral-mini's scenes."""
        picture = company(int(number)).image

        def added(future: Any) -> None:
            if future.exception() is not None:
                self.problem = sentence(future.exception())

        self._start_adding(picture).add_done_callback(added)

    def _start_adding(self, image: Any) -> Any:
        session, before = self.session, self.prompt_shown()
        if session is None or before is None:
            raise ValueError("there is no prompt yet: ask a question with a picture first")

        def encode(model: Any) -> None:
            self._longer = with_image(before, model.encode("", images=[image]))
            self.added += 1
            self.refresh()

        return session.worker.submit(encode)

    def to_html(self, path: "str | PathLike[str] | None" = None) -> str:
        """One page, see `View.to_html`; a picture that is alone gets company, as on the screen."""
        if self.session is not None:
            self.session.wait()
            if len(self.facts.get("images", ())) == 1:
                self.add(company(self.session.epoch).image)
        return super().to_html(path)

    def do_reset(self) -> None:
        """Take away the pictures that were added."""
        self._longer, self.added = None, 0
        self.refresh()

    def facts_now(self, session: Session) -> dict[str, Any]:
        """As in `View`, of the prompt with the pictures that were added."""
        facts = super().facts_now(session)
        return {**facts, "added": self.added}

    # Words -------------------------------------------------------------------------------------

    def answer_words(self, model: Any, tokens: int) -> dict[str, Any]:
        """The prompt's ids, and how each is written: {"ids", "labels"}.

        Arguments:
            tokens: how many the prompt has, so that no answer belongs to another one.
        """
        prompt = self.prompt_shown()
        if prompt is None or len(prompt.tokens) != tokens:
            raise ValueError(f"the prompt does not have {tokens} tokens: ask again")
        return {
            "ids": np.array(prompt.tokens, np.int32),
            "labels": {str(i): model.tokenizer.label(i) for i in set(prompt.tokens)},
        }

    def questions_shown(self):
        """The words; the masks need nothing else."""
        if self.facts.get("tokens"):
            yield "words", {"tokens": self.facts["tokens"]}

    # The leak ----------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Measure what is shown, unless that is done or under way."""
        with self._turn:
            wanted = (self.session.epoch, self.added) if self.session else None
            ready = wanted is not None and self.broken and self.facts.get("images")
            under = self._measuring
            if under is not None and (not ready or under.wanted != wanted):
                under.stop()
                self._measuring = None
            prompt = self.prompt_shown()
            if ready and self._measuring is None and self.session and prompt:
                self.leak = {}
                self._measuring = _Measurement(self, self.session, prompt, wanted)
                self._measuring.start()

    def do_stop(self) -> None:
        """The reader has waited enough: the mask is whole again."""
        self.broken = False

    def keep(self) -> None:
        """As in `View`, after a measurement that is under way."""
        measuring = self._measuring
        if measuring is not None:
            measuring.ended.wait()
        super().keep()


def company(number: int) -> Scene:
    """A small scene to stand behind a picture that is alone."""
    return scene(100 + number, 2, 3)


class _Measurement(threading.Thread):
    """Two runs, one with the mask and one without, each of one token."""

    def __init__(self, view: MaskView, session: Session, prompt: px.Prompt, wanted: Any):
        super().__init__(name="pixtral-mlx leak", daemon=True)
        self.wanted, self.ended = wanted, threading.Event()
        self._view, self._session, self._prompt = view, session, prompt
        self._stopped, self._stream = False, None

    def stop(self) -> None:
        self._stopped = True
        if self._stream is not None:
            self._stream.stop()
        self._view.work = {}

    def run(self) -> None:
        view = self._view
        try:
            proper = self._run((), "with the mask")
            broken = self._run((px.edits.NoVisionMask(),), "without the mask")
            if not self._stopped:
                view.leak = leak_between(proper, broken, self._prompt)
        except Exception as error:
            if not self._stopped:
                view.problem = sentence(error)
        finally:
            if not self._stopped:
                view.work = {}
            self.ended.set()

    def _run(self, edits: Sequence[px.edits.Edit], stage: str) -> dict[str, Any]:
        """Features of the encoder and the next token's log-probabilities."""
        if self._stopped:
            return {}
        config: Any = self._session.config
        last = config.vision.num_hidden_layers - 1  # there are images, so there is an encoder
        options = px.TraceOptions((), (config.text.n_layers - 1,), (f"vision.{last}",))
        # The end token would leave nothing to look into; what is read comes before this bias.
        end = self._session.look(lambda model: model.tokenizer.eos_id).result()
        self._view.work = {"stage": f"running {stage}", "done": 0, "total": 0}
        self._stream = self._session.worker.stream(
            self._prompt, max_tokens=1, trace=options, edits=edits, reuse=False,
            logit_bias={end: -1e4}, progress=lambda *counts: self._report(stage, *counts),
        )  # fmt: skip
        for _ in self._stream:
            pass
        if self._stopped:
            return {}
        trace: Any = self._stream.reply.trace

        def read(_: Any) -> dict[str, Any]:
            return {
                "features": trace.states[f"vision.{last}"],
                "next": trace.log_probabilities(0),
                "word": list(trace.alternatives(0, 1)[0]),
            }

        return self._session.look(read).result()

    def _report(self, stage: str, done: int, total: int) -> None:
        if not self._stopped:
            self._view.work = {"stage": f"running {stage}", "done": done, "total": total}


def leak_between(proper: Any, broken: Any, prompt: px.Prompt) -> dict[str, Any]:
    """What the second run has of other images; see `MaskView.leak`."""
    changes = []
    for image in range(len(prompt.grids)):
        own = prompt.patch_range(image)
        part = slice(own.start, own.stop)
        should, is_now = proper["features"][part], broken["features"][part]
        changes.append(float(np.sqrt(np.mean((is_now - should) ** 2) / np.mean(should**2))))
    p, q = proper["next"].astype(np.float64), broken["next"].astype(np.float64)
    return {
        "features": changes,
        "kl": max(float((np.exp(p) * (p - q)).sum()), 0.0),  # rounding may fall below 0
        "words": [proper["word"], broken["word"]],
    }


def with_image(prompt: px.Prompt, alone: px.Prompt) -> px.Prompt:
    """A prompt with the picture of another one behind its last picture.

    Arguments:
        alone: a prompt of one picture, encoded by the same model; if `prompt` has no picture, its
            place is taken over too.
    """
    span = alone.spans[0]
    at = prompt.spans[-1].stop if prompt.spans else span.start
    tokens = [*prompt.tokens[:at], *alone.tokens[span.start : span.stop], *prompt.tokens[at:]]
    return px.Prompt(
        tokens, [*prompt.images, *alone.images], [*prompt.grids, *alone.grids],
        [*prompt.spans, replace(span, start=at)],
    )  # fmt: skip
