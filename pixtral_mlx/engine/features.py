"""What the images of a prompt give to the decoder, in steps, and from the prompt cache where it is
there.

Each step ends after a layer of the encoder, with states that nobody has computed yet: who has other
things to do computes them and goes on later.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from ..errors import PromptError
from ..model.prompt import Prompt
from ..model.tap import NO_TAP, Tap
from ..model.vision_language_model import NO_VISION, VisionLanguageModel
from .content import image_digest
from .prompt_cache import PromptCache

Result = TypeVar("Result")
Steps = Generator[mx.array, None, Result]
"""States of the encoder, layer by layer; at last what they were for."""


def at_once(steps: Steps[Result]) -> Result:
    """What comes of the steps, for callers with nothing to do in between."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def feature_steps(
    model: VisionLanguageModel, prompt: Prompt, tap: Tap = NO_TAP, kept: PromptCache | None = None
) -> Steps[mx.array]:
    """Features of all images, shape (N, D), one image after the other.

    Images that show the same are encoded once, and not at all if `kept` holds their features.

    Raises:
        PromptError: the model has no vision encoder.
    """
    encoder, projector = model.vision_encoder, model.projector
    if encoder is None or projector is None:
        raise PromptError(NO_VISION)
    inside = tap.at("projector")
    if tap.edits:
        encoded = yield from _encoded(encoder, prompt.images, tap)
        return inside("", projector(encoded, [encoder.grid(image) for image in prompt.images]))
    digests = [image_digest(image) for image in prompt.images]
    known = {} if kept is None else kept.features(digests)
    new = {d: i for d, i in zip(digests, prompt.images, strict=True) if d not in known}
    # One pass may be looked at as well; otherwise the tap takes a pass of its own, so that looking
    # never changes in what company an image is encoded, and with it the last bits.
    together = len(new) == len(digests)
    if new:
        encoded = yield from _encoded(encoder, list(new.values()), tap if together else NO_TAP)
        grids = [encoder.grid(image) for image in new.values()]
        parts = mx.split(
            encoded, np.cumsum([rows * columns for rows, columns in grids])[:-1].tolist()
        )
        # Projected one by one, so that each has memory of its own.
        found = {d: projector(p, [g]) for d, p, g in zip(new, parts, grids, strict=True)}
        known |= found
        if kept is not None:
            kept.keep_features(found)
    if tap is not NO_TAP and not together:
        yield from _encoded(encoder, prompt.images, tap)
    return inside("", mx.concatenate([known[digest] for digest in digests]))


def _encoded(encoder: Any, images: Sequence, tap: Tap) -> Steps[mx.array]:
    """The encoder's features, shape (N, vision width)."""
    states = mx.array(0)
    for states in encoder.steps(images, tap):
        yield states
    return states


def embedding_steps(
    model: VisionLanguageModel, prompt: Prompt, start: int, kept: PromptCache | None
) -> Steps[mx.array | None]:
    """Embeddings of a prompt from position `start` on, shape (L - start, D).

    Images that end before it are not looked at; None if no image is left: then the decoder
    embeds the tokens itself.
    """
    if start and model.vision_encoder is not None and model.config.vision is not None:
        left = prompt.tokens[start:].count(model.config.vision.image_token_id)
        if left == 0:
            return None
        grids = map(model.vision_encoder.grid, prompt.images)
        square = model.config.vision.spatial_merge_size**2
        sizes = [rows * columns // square for rows, columns in grids]
        seen = 0
        while sum(sizes[seen + 1 :]) >= left:
            seen += 1
        rest = replace(prompt, tokens=prompt.tokens[start:], images=prompt.images[seen:])
        return model.merge(rest, (yield from feature_steps(model, rest, kept=kept))[-left:])
    return model.merge(prompt, (yield from feature_steps(model, prompt, kept=kept)))
