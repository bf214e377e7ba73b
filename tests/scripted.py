"""A reader whose answers are written down beforehand, in the place of a model."""

import json
from types import SimpleNamespace

import numpy as np
from PIL import Image

from pixtral_mlx.engine.form import as_form
from pixtral_mlx.engine.reply import Reply
from pixtral_mlx.extraction.asking import Ask, advance
from pixtral_mlx.extraction.documents import open_document
from pixtral_mlx.extraction.options import ExtractionOptions
from pixtral_mlx.extraction.reading import as_schema, read_document
from pixtral_mlx.inputs.image_options import ImageOptions
from pixtral_mlx.model.config import PIXTRAL_12B_VISION

GRID = 2, 3


class Looking:
    """A trace of tokens of a letter each, which all look at the last patch of the last page."""

    def __init__(self, text, pages):
        self.words, self.text_layers = [*text], [0]
        patches = GRID[0] * GRID[1]
        spans = [
            SimpleNamespace(patch_positions=lambda n=n: range(n * patches, (n + 1) * patches))
            for n in range(pages)
        ]
        self.prompt = SimpleNamespace(grids=[GRID] * pages, spans=spans)
        self._row = np.eye(pages * patches)[-1]

    def token_attention(self, token, layer):
        """See `Trace`."""
        return self._row


def reply_of(text, form, pages=1, *, logprob=-0.001, mass=1.0, cut=False):
    """An answer of one token a letter."""
    count = len(text)
    reply = Reply(
        text, [1] * count, [logprob / max(count, 1)] * count, "length" if cut else "stop",
        allowed_mass=[mass] * count, forced=[False] * count,
    )  # fmt: skip
    reply.trace = Looking(text, pages)
    form = as_form(form)
    if cut:
        reply.parse_error = "the answer was cut"
    elif form is not None:
        reply.parsed, reply.parse_error = form.read(text)
    return reply


def read(schema, answer, *, pages=1, at_once=None, max_tokens=100, **options):
    """A document, read.

    Arguments:
        answer: called with (question, pages); gives what is written, as a text, or as a value for
            JSON, or (text, options of `reply_of`).

    Returns:
        (Outcome, the questions in order with the numbers of their pages, notes).
    """
    sources = [Image.new("RGB", (32, 32), (n, 0, 0)) for n in range(pages)]
    listed = open_document(sources, ImageOptions(), PIXTRAL_12B_VISION)
    parts = [listed[i : i + (at_once or pages)] for i in range(0, pages, at_once or pages)]
    asked, notes = [], []
    steps = read_document(
        as_schema(schema), parts, ExtractionOptions(**options), max_tokens=max_tokens,
        note=notes.append,
    )  # fmt: skip
    reply = None
    while isinstance(ask := advance(steps, reply), Ask):
        numbers = [page.number for page in ask.pages]
        asked.append((ask.question, numbers))
        said, how = answer(ask.question, numbers), {}
        if isinstance(said, tuple):
            said, how = said
        text = said if isinstance(said, str) else json.dumps(said)
        reply = reply_of(text, ask.form, len(numbers), **how)
        if ask.stop is not None and ask.stop(reply):
            reply.finish_reason = "interrupted"
    return ask, asked, notes
