"""Where a forward pass can be looked at and changed.

The modules call an optional `Tap` at named sites; without one they run as if there were none:

| site | shape | what it is |
|---|---|---|
| `vision.embeddings` | (N, D) | patches of all images after `ln_pre` |
| `vision.3.queries`, `vision.3.keys` | (1, H, N, head_dim) | turned by RoPE-2D |
| `vision.3.heads` | (N, H, head_dim) | what each head of layer 3 gives to `wo` |
| `vision.3` | (N, D) | the residual stream after layer 3 |
| `projector` | (N, D) | what enters the decoder for each patch |
| `text.embeddings` | (B, L, D) | image features merged in |
| `text.3.queries` | (B, H, L, head_dim) | turned by RoPE |
| `text.3.heads` | (B, L, H, head_dim) | what each head of layer 3 gives to `wo` |
| `text.3` | (B, L, D) | the residual stream after layer 3 |

Layers count from zero. Keys and values of the decoder are in its KV cache.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from .decoder import Decoder
    from .edits import Edit
    from .tokenizer import Prompt

Recorder = Callable[[str, mx.array, int], None]


class Tap:
    """Carries the edits of one run into the modules, and what they compute out of them.

    Arguments:
        prompt: of the run; edits ask it where the images are.
        edits: applied at every site, in order, before anything is recorded.
        record: called with (site, value, position of the first token); None records nothing.
    """

    def __init__(
        self, prompt: "Prompt", edits: Sequence["Edit"] = (), record: Recorder | None = None
    ):
        self.prompt, self.edits, self.record = prompt, tuple(edits), record
        self.position = 0

    def __call__(self, site: str, value: mx.array, before: mx.array | None = None) -> mx.array:
        """Called by the modules: the value, edited.

        Arguments:
            site: its name in the table above.
            value: what was computed.
            before: at the end of a layer, the residual stream before it.
        """
        for edit in self.edits:
            value = edit.change(site, value, before, self.prompt, self.position)
        if self.record is not None:
            self.record(site, value, self.position)
        return value

    def lengths(self, lengths: Sequence[int]) -> Sequence[int]:
        """How many neighbouring patches see one another: one entry an image, unless edited."""
        for edit in self.edits:
            lengths = edit.lengths(lengths)
        return lengths


class TappedDecoder:
    """A decoder with a tap in it, in the shape that mlx-lm's `generate_step` calls."""

    def __init__(self, decoder: "Decoder", tap: Tap):
        self._decoder, self._tap = decoder, tap
        self.layers = decoder.layers

    def __call__(
        self,
        inputs: mx.array,
        cache: list[Any] | None = None,
        input_embeddings: mx.array | None = None,
    ) -> mx.array:
        """As `Decoder.__call__`."""
        return self._decoder(inputs, cache, input_embeddings, self._tap)
