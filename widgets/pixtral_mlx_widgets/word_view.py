"""What views of an answer share: its words as they come, where each looked, and knock-outs."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import traitlets

import pixtral_mlx as px
from pixtral_mlx.interpret import block_means, words_of

from .packing import heat
from .session import Session, sentence
from .view import View

SECONDS_BETWEEN_WORDS = 0.08
"""New words travel at most this often, however fast they are written."""

LEAST_TOP = 0.01
"""Nats at the end of a knock-out map's colours, at least: rounding shall not look like much."""


class Stopped(Exception):
    """Leaves long work that nobody wants any more."""


class WordView(View):
    """A view of the words of an answer.

    Traits:
        token: number of the chosen token in the answer; None follows the newest while the answer
            is written, and is then the word that leans most on the picture.
        layer, head: of the decoder; None is the mean over all.
        image: which picture is lit.
        plain: whether attention is a map of colours (cividis); else it is light on the picture.
        words: [{"text", "tokens", "p"}] so far; p is the probability of the least likely token.
        stats: {"speed" in tokens a second, "prompt" and "cached" tokens, "finished"}.
        work: {"what", "stage", "done", "total"} of long work of this view; {"problem"} if it
            failed; empty if there is none.
        known: names of what long work has found so far, as "knock:3:0".
    """

    shared = ("image", "patch", "token")
    opens = True
    token = traitlets.Int(None, allow_none=True).tag(sync=True)
    layer = traitlets.Int(None, allow_none=True).tag(sync=True)
    head = traitlets.Int(None, allow_none=True).tag(sync=True)
    plain = traitlets.Bool(False).tag(sync=True)
    words = traitlets.List().tag(sync=True)
    stats = traitlets.Dict().tag(sync=True)
    work = traitlets.Dict().tag(sync=True)
    known = traitlets.List().tag(sync=True)

    def __init__(self, source: Any = None, model: Any = None, **options: Any):
        self._found: dict[str, Any] = {}
        self._stop_work = threading.Event()
        self._sent_at, self._sending = 0.0, threading.Lock()
        super().__init__(source, model, **options)

    # The words ---------------------------------------------------------------------------------

    def _follow(self, session: Session, linked: bool) -> None:
        super()._follow(session, linked)
        session.observe(lambda _: self._grow(), "tokens")

    def refresh(self) -> None:
        """As `View.refresh`, and the words."""
        super().refresh()
        if self.session is not None:
            self._grow(last=not self.session.busy)

    def _grow(self, last: bool = False) -> None:
        """Send the words that are there; the last ones always, others not too often."""
        with self._sending:
            now = time.monotonic()
            if last or now - self._sent_at >= SECONDS_BETWEEN_WORDS:
                self.stats, self.words = stats_now(self.session), words_now(self.session)
                self._sent_at = now

    def _choose_what_exists(self, facts: Mapping[str, Any]) -> None:
        super()._choose_what_exists(facts)
        if self.facts and facts["epoch"] != self.facts["epoch"]:
            self.token = None
            self._found, self.known, self.work = {}, [], {}
            self._stop_work.set()

    def at(self) -> int | None:
        """The token that is shown: the chosen one, else the one to open on, else the newest."""
        count = len(self.session.reply.tokens) if self.session and self.session.reply else 0
        if self.token is not None and self.token < count:
            return self.token
        opens = self.opening.get("token") if self.session and not self.session.busy else None
        return count - 1 if opens is None else opens

    def _answered(self) -> Session:
        if self.session is None or self.session.reply is None or self.session.asked is None:
            raise RuntimeError("there is no answer yet: ask a question first")
        return self.session

    def _trace(self) -> px.Trace:
        trace = self.session.trace if self.session else None
        if trace is None:
            raise ValueError("there is nothing to look into yet: ask a question, with a trace")
        return trace

    # Where a word looked -----------------------------------------------------------------------

    def answer_look(
        self, model: Any, token: int, layer: int | None, head: int | None, image: int
    ) -> dict[str, Any]:
        """Where a token looked: its map on one image, and its share on each."""
        trace = self._trace()
        count = len(trace.prompt.spans)
        if not 0 <= image < count:
            raise IndexError(f"image {image}: the question has {count}")
        layers = trace.text_layers if layer is None else [layer]
        row = np.mean([trace.token_attention(token, one, head) for one in layers], axis=0)
        maps = [row[span.patch_positions()].reshape(span.grid) for span in trace.prompt.spans]
        chosen = maps[image]
        peak = np.unravel_index(int(chosen.argmax()), chosen.shape)
        shares = [float(one.sum()) for one in maps]
        return {
            **heat(chosen), "shares": shares, "peak": [int(place) for place in peak],
            "merge": trace.prompt.merge,
        }  # fmt: skip

    # Knock-outs: long work ---------------------------------------------------------------------

    def do_knock(self, token: int, image: int) -> dict:
        """Hide what a token looked at most, and measure; the result comes as `known` grows."""
        self._begin(f"knock:{token}:{image}", "hiding patches", self._knock, token, image)
        return {}

    def do_occlude(self, token: int, image: int, block: int) -> dict:
        """Hide block after block, and measure."""
        name = f"occlude:{token}:{image}:{block}"
        self._begin(name, "hiding block by block", self._occlude, token, image, block)
        return {}

    def do_stop_work(self) -> dict:
        """The reader does not want the rest of the long work."""
        self._stop_work.set()
        return {}

    def answer_knocked(self, model: Any, token: int, image: int) -> dict[str, Any]:
        """What `do_knock` found."""
        return self._kept(f"knock:{token}:{image}")

    def answer_occluded(
        self, model: Any, token: int, image: int, block: int, layer: int | None, head: int | None
    ) -> dict[str, Any]:
        """What `do_occlude` found, and how alike the map of attention ranks the blocks."""
        drops = self._kept(f"occlude:{token}:{image}:{block}")
        attention = self._trace().image_attention(token, layer, head, image=image)
        pair = [block_means(one, block) for one in (attention, drops)]
        rho = px.rank_correlation(*pair)
        return {
            "drops": drops, "top": max(float(np.abs(drops).max()), LEAST_TOP), "block": block,
            "rho": None if np.isnan(rho) else rho,
        }  # fmt: skip

    def _kept(self, name: str) -> Any:
        if name not in self._found:
            raise ValueError("this has not been measured yet")
        return self._found[name]

    def _edits(self) -> tuple[Any, ...]:
        """Of the answer that is shown."""
        return tuple(self.session.options.get("edits") or ()) if self.session else ()

    def _asked(self) -> dict[str, Any]:
        return {"tokens": list(self._trace().tokens), "edits": self._edits()}

    def _knock(self, model: Any, progress: Callable, token: int, image: int) -> dict[str, Any]:
        trace = self._trace()
        rows, columns, share = trace.evidence(token, image)
        patches = [(r, c) for r in range(*rows) for c in range(*columns)]
        asked = self._answered().asked
        drop = model.occlusion(asked, token, patches, image=image, **self._asked())
        before = trace.logprobs[token]
        return {
            "rows": list(rows), "columns": list(columns), "share": share, "drop": drop,
            "before": float(np.exp(before)), "after": float(np.exp(before - drop)),
        }  # fmt: skip

    def _occlude(self, model: Any, progress: Callable, token: int, image: int, block: int):
        asked = self._answered().asked
        return model.occlusion_map(
            asked, token, block, image=image, progress=progress, **self._asked()
        )

    def _begin(self, name: str, stage: str, function: Callable, *arguments: Any) -> None:
        """Start `function(model, progress, *arguments)` on the worker's thread.

        Raises:
            RuntimeError: other work is under way, or the answer is still being written.
        """
        session = self._answered()
        if name in self._found:
            return
        if "stage" in self.work:
            raise RuntimeError("something else is being measured: wait for it, or stop it")
        if session.busy:
            raise RuntimeError("the answer is still being written: wait for it, or stop it")
        self._stop_work.clear()
        self.work = {"what": name, "stage": stage, "done": 0, "total": 0}

        def run(model: Any) -> Any:
            return function(model, self._progress(model), *arguments)

        try:
            found = session.look(run)
        except Exception:
            self.work = {}
            raise
        found.add_done_callback(lambda done: self._end(name, done))

    def _progress(self, model: Any) -> Callable[[int, int], None]:
        """Shows how far the work is, answers clicks between its steps, and ends it early."""
        session = self._answered()
        epoch = session.epoch

        def progress(done: int, total: int) -> None:
            self.work = {**self.work, "done": done, "total": total}
            session.worker.answer_waiting(model)
            if self._stop_work.is_set() or session.busy or session.epoch != epoch:
                raise Stopped

        return progress

    def _end(self, name: str, done: Any) -> None:
        error = None if done.cancelled() else done.exception()
        if error is None and not done.cancelled():
            self._found[name] = done.result()
            self.known = list(self._found)
        self.work = {} if error is None or isinstance(error, Stopped) else {
            "problem": sentence(error)
        }  # fmt: skip
        self._save_soon()

    def measure(self, what: str, *arguments: int) -> Any:
        """Long work for Python: starts it, and waits for what it finds.

        >>> lens.measure("knock", 3, 0)["drop"]        # token 3, image 0: nats

        Arguments:
            what: "knock" (token, image) or "occlude" (token, image, block).

        Raises:
            RuntimeError: it was stopped, or it cannot begin now.
        """
        getattr(self, f"do_{what}")(*arguments)
        name = ":".join(map(str, (what, *arguments)))
        while self.work.get("what") == name:
            time.sleep(0.01)
        if name not in self._found:
            raise RuntimeError(self.work.get("problem", f"{what} was stopped"))
        return self._found[name]

    def _questions_known(self, tokens: Any) -> Any:
        """What was measured for some tokens, as the browser asks for it."""
        for name in list(self._found):
            what, *numbers = name.split(":")
            if what not in ("knock", "occlude") or int(numbers[0]) not in tokens:
                continue
            token, image = int(numbers[0]), int(numbers[1])
            arguments = {"token": token, "image": image}
            if what == "occlude":
                arguments |= {"block": int(numbers[2]), "layer": self.layer, "head": self.head}
            yield f"{what}{'d' if what == 'occlude' else 'ed'}", arguments


def stats_now(session: Session | None) -> dict[str, Any]:
    """What a session's answer took so far."""
    reply = session.reply if session else None
    if reply is None:
        return {}
    return {
        "speed": round(reply.stats.decode_tokens_per_second, 1),
        "prompt": reply.stats.prompt_tokens, "cached": reply.stats.cached_tokens,
        "finished": reply.finish_reason,
    }  # fmt: skip


def words_now(session: Session | None) -> list[dict[str, Any]]:
    """The words that a session's answer has so far."""
    reply = session.reply if session else None
    if reply is None or reply.trace is None:
        return []
    pieces = list(reply.trace.words)
    return [
        {
            "text": word.text, "tokens": word.tokens,
            "p": float(f"{np.exp(min(reply.logprobs[t] for t in word.tokens)):.4g}"),
        }
        for word in words_of(pieces)
    ]  # fmt: skip
