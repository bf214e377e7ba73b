"""On what a view opens: the word that leans most on one place of the picture."""

from typing import Any

import numpy as np

import pixtral_mlx as px
from pixtral_mlx.interpret import words_of

LAYERS, WORDS = 8, 64
"""At most so many layers, spread over all, and words are looked at: nobody shall wait for it."""


def opening(trace: px.Trace) -> dict[str, Any]:
    """Something worth seeing in an answer.

    Returns:
        {"token" of the word whose attention on a single patch is the greatest, the mean over heads
        and layers, "image", "patch": [row, column] of that patch}; empty if there is none.
    """
    layers = spread(trace.text_layers, LAYERS)
    best: dict[str, Any] = {}
    most = 0.0
    words = [w for w in words_of(list(trace.words)) if any(c.isalnum() for c in w.text)]
    for word in words[:WORDS] if layers else ():
        token = word.tokens[0]
        row = np.mean([trace.token_attention(token, layer) for layer in layers], axis=0)
        for image, span in enumerate(trace.prompt.spans):
            found = row[span.patch_positions()].reshape(span.grid)
            if float(found.max()) > most:
                most = float(found.max())
                patch = [int(at) for at in np.unravel_index(int(found.argmax()), found.shape)]
                best = {"token": token, "image": image, "patch": patch}
    return best


def spread(layers: Any, most: int) -> list[int]:
    """At most so many of some layers, evenly spread, the last among them."""
    kept = list(layers)
    return kept[::-1][:: max(-(-len(kept) // most), 1)][::-1]
