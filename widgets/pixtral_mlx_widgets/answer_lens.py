"""`AnswerLens`: every word of an answer, where it looked, and what else it could have been."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
import traitlets

import pixtral_mlx as px

from .session import Session
from .word_view import WordView

RIVALS = 6
"""Of the distribution that a token was drawn from, so many are shown."""


class AnswerLens(WordView):
    """An answer while it is written: each word is a chip that shows where it looked.

    >>> session.ask("Describe the picture.", images=["scene.png"])
    >>> lens = AnswerLens(session)
    >>> lens.token = 4, lens.layer = 2          # as if clicked

    Arguments:
        source: a `Session`, or an image with `model`, which is then asked `question`.

    Traits, beside those of `WordView`:
        temperature, top_p: what the bars "drawn from" show and "run again" uses; at first those
            that the question was asked with.
    """

    name = "answer_lens"
    temperature = traitlets.Float(0.0, min=0.0, max=100.0).tag(sync=True)
    top_p = traitlets.Float(1.0, min=0.0, max=1.0).tag(sync=True)

    def __init__(self, source: Any = None, model: Any = None, **options: Any):
        self._every_word = False
        if isinstance(source, Session):
            for name in ("temperature", "top_p"):
                options.setdefault(
                    name, source.options.get(name, getattr(type(self), name).default_value)
                )
        super().__init__(source, model, **options)

    def do_again(self) -> dict:
        """Ask once more, with the temperature and top-p that are set."""
        if self.session is not None:
            self.session.again(temperature=self.temperature, top_p=self.top_p)
        return {}

    def answer_token(self, model: Any, token: int) -> dict[str, Any]:
        """A token, its probability and its rivals, before temperature and filters."""
        trace = self._trace()
        probabilities = np.exp(trace.log_probabilities(token))
        ids = _strongest(probabilities, trace.tokens[token])
        label = model.tokenizer.label
        return {
            "text": label(trace.tokens[token]), "p": float(np.exp(trace.logprobs[token])),
            "rivals": [
                {"text": label(i), "p": float(probabilities[i]), "chosen": i == trace.tokens[token]}
                for i in ids
            ],
            "other": max(float(1 - probabilities[ids].sum()), 0.0),
        }  # fmt: skip

    def answer_sampling(
        self, model: Any, token: int, temperature: float, top_p: float
    ) -> dict[str, Any]:
        """What temperature and top-p make of the same distribution, before anything is drawn."""
        trace = self._trace()
        logprobs = trace.log_probabilities(token)
        after = px.sampling_probabilities(logprobs, temperature=temperature, top_p=top_p)
        ids = _strongest(np.exp(logprobs), trace.tokens[token])
        return {
            "after": [float(after[i]) for i in ids],
            "other": max(float(1 - after[ids].sum()), 0.0), "left": int((after > 0).sum()),
        }  # fmt: skip

    def answer_lens(self, model: Any, token: int) -> dict[str, Any]:
        """For every layer, the word that the model would have said had it stopped there."""
        trace, rows = self._trace(), []
        own = trace.tokens[token]
        for layer in trace.text_layers:
            logprobs = trace.log_probabilities(token, layer)
            top = int(logprobs.argmax())
            rows.append({
                "layer": layer, "text": model.tokenizer.label(top), "same": top == own,
                "p": float(np.exp(logprobs[top])), "own": float(np.exp(logprobs[own])),
            })  # fmt: skip
        return {"layers": rows}

    def questions_shown(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """What is shown of the chosen token; for a page, of every token."""
        yield from super().questions_shown()
        chosen = self.at()
        if chosen is None or chosen < 0:
            return
        tokens = range(len(self._trace().tokens)) if self._every_word else [chosen]
        images = range(len(self.facts.get("images", ())))
        settings = {"temperature": _number(self.temperature), "top_p": _number(self.top_p)}
        for token in tokens:
            for image in images if self._every_word else [self.image] * bool(images):
                at = {"layer": self.layer, "head": self.head, "image": image}
                yield "look", {"token": token, **at}
            yield "token", {"token": token}
            yield "sampling", {"token": token, **settings}
            yield "lens", {"token": token}
        yield from self._questions_known(tokens)

    def questions_beyond(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Where every word looked in each layer, then in each head of the mean, then in both."""
        text, images = self.facts.get("text"), range(len(self.facts.get("images", ())))
        tokens = range(len(self._trace().tokens)) if self.words else ()
        if not text or not images:
            return
        layers, heads = [*range(text["layers"])], [*range(text["heads"])]
        pairs = [(layer, None) for layer in layers] + [(None, head) for head in heads]
        for layer, head in pairs + [(layer, head) for layer in layers for head in heads]:
            for token in tokens:
                for image in images:
                    at = {"layer": layer, "head": head, "image": image}
                    yield "look", {"token": token, **at}

    def to_html(
        self, path: "str | PathLike[str] | None" = None, *, heading: Sequence[str] = ()
    ) -> str:
        """One page, with what is shown of every word of the answer; see `View.to_html`."""
        with self.every_word():
            return super().to_html(path, heading=heading)

    @contextmanager
    def every_word(self) -> Iterator[None]:
        """Meanwhile, what is kept is what is shown of every word, not of the chosen one alone."""
        self._every_word = True
        try:
            yield
        finally:
            self._every_word = False


def _strongest(probabilities: np.ndarray, own: int) -> list[int]:
    """The likeliest tokens, and the chosen one if it is not among them."""
    count = min(RIVALS, len(probabilities))
    best = np.argpartition(-probabilities, count - 1)[:count]
    ids = [int(i) for i in sorted(best, key=lambda i: (-probabilities[i], i))]
    return ids if own in ids else [*ids, own]


def _number(value: float) -> float:
    """Written as JavaScript writes it: 1 and not 1.0."""
    return int(value) if value == int(value) else value
