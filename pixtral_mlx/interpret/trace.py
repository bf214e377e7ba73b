"""Looking inside an answer: any row of any attention map, exactly, when it is asked for.

What is kept is small: the turned queries and keys of the vision encoder, the queries and the
residual stream of the generated tokens, and the KV cache that exists anyway. A row of attention is
then one small product and a softmax; the maps themselves (24 x 16 x 4096 x 4096 numbers for one
large image) are never made.

Attention is not explanation: set every map next to a knock-out of the same patches
(`model.occlusion_map`), and see how well the one predicts the other.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ..checks import check_index
from ..errors import CheckpointError
from ..model.config import PixtralConfig
from ..model.prompt import Patch, Prompt
from ..model.tap import Site
from ..model.vision_language_model import VisionLanguageModel
from . import picture
from .maps import Evidence, attention_rows, distances, find_evidence
from .trace_file import TraceRecord, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image


@dataclass(eq=False)
class Trace:
    """Everything that was kept of one answer; grows while the answer is being written.

    Made by `model.generate(..., trace=True)` as `reply.trace`, by `model.stream` as `piece.trace`,
    and by `open_trace`. All methods count layers, heads, tokens and patches from zero and raise
    IndexError, saying what exists, for what does not. Where the model merges patches, maps of the
    encoder have a cell a patch, and maps of the decoder a cell a token.

    Arguments:
        config: sizes of the model.
        prompt: what the model received.
        tokens: generated ids so far, without the end token.
        logprobs: one a token.
        words: the text of each token.
        groups: how many neighbouring patches saw one another: one entry an image.
        model: for the methods that compute with weights; None for a trace from a file.
        label: the text of an id, for those methods.
    """

    config: PixtralConfig
    prompt: Prompt
    tokens: list[int]
    logprobs: list[float]
    words: list[str]
    groups: Sequence[int]
    model: VisionLanguageModel | None = None
    label: Callable[[int], str] = str
    _recorded: Any = None
    _keys: Callable[[int], mx.array] = field(default=lambda layer: mx.array(0), repr=False)
    _rerun: Callable[[int], dict[str, mx.array]] | None = field(default=None, repr=False)

    # Vision ------------------------------------------------------------------------------------

    def vision_attention(
        self, layer: int, patch: Patch, head: int | None = None, image: int = 0
    ) -> np.ndarray:
        """Where a patch looks within its image.

        Arguments:
            layer: of the encoder.
            patch: row-major number or (row, column).
            head: None is the mean over heads.
            image: which one.

        Returns:
            float32, shape (rows, columns) of the encoder's patches, sums to 1. (Where an edit lets
            images see one another, the part on its own image, which then sums to less.)
        """
        grid = self.prompt.encoder_grid(image)
        rows = self._vision_rows(layer, [grid.index(patch)], image, head)
        return rows[:, 0].mean(axis=0).reshape(grid)

    def vision_rows(self, layer: int, patch: Patch, image: int = 0) -> np.ndarray:
        """`vision_attention` of all heads at once: float32, shape (heads, rows, columns)."""
        grid = self.prompt.encoder_grid(image)
        return self._vision_rows(layer, [grid.index(patch)], image).reshape(-1, *grid)

    def vision_distances(self, layer: int, image: int = 0) -> np.ndarray:
        """How far each head of a layer looks, mean over an image's patches (Dosovitskiy et al.
        2020, figure 11): the distance between a patch and what it sees, weighted by attention.

        Returns:
            Patches (1 is the side of one), float32, shape (heads,).
        """
        grid = self.prompt.encoder_grid(image)
        means = [
            (self._vision_rows(layer, part, image) * distances(grid, part)).sum(axis=(1, 2))
            for part in _parts(grid.patches)
        ]
        return np.stack(means).sum(axis=0) / np.float32(grid.patches)

    def vision_rollout(
        self,
        patch: Patch,
        image: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Attention rollout (Abnar and Zuidema 2020): attention followed back through all layers,
        half of each layer passing by on the residual stream.

        Arguments:
            progress: called with (steps done, all steps).

        Returns:
            float32, shape (rows, columns), sums to 1 (to less where an edit lets images see one
            another).
        """
        rollout = np.zeros(0, np.float32)
        for done, total, so_far in self.vision_rollout_steps(patch, image):
            rollout = so_far
            if progress:
                progress(done, total)
        return rollout

    def vision_rollout_steps(
        self, patch: Patch, image: int = 0
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """`vision_rollout` a step at a time, for callers that have other things to do in between.

        Yields:
            (steps done, all steps, the map so far): the map of the last step is the rollout.
        """
        grid = self.prompt.encoder_grid(image)
        flow = np.zeros(grid.patches, np.float32)
        flow[grid.index(patch)] = 1
        layers, starts = self._vision_layers(), range(0, grid.patches, 256)
        done, total = 0, len(layers) * len(starts)
        for layer in reversed(layers):
            through = np.zeros_like(flow)
            for start in starts:
                part = range(start, min(start + 256, grid.patches))
                maps = self._vision_rows(layer, part, image).mean(axis=0)
                through += flow[part.start : part.stop] @ maps
                done += 1
                if start == starts[-1]:
                    flow = (flow + through) / 2
                yield done, total, flow.reshape(grid)

    def _vision_layers(self) -> range:
        return range(self.config.vision.num_hidden_layers if self.config.vision else 0)

    def _vision_rows(
        self, layer: int, patches: Sequence[int], image: int, head: int | None = None
    ) -> np.ndarray:
        """Attention of some patches of an image on that image: (H, patches, N), or H is 1."""
        self._check_thread()
        check_index("vision layer", layer, len(self._vision_layers()))
        site = f"vision.{layer}"
        if f"{site}.queries" not in self._recorded.vision:
            raise IndexError(f"vision layer {layer}: not kept in this trace, see TraceOptions")
        queries = self._recorded.vision[f"{site}.queries"]
        keys = self._recorded.vision[f"{site}.keys"]
        own, seen = self._ranges(image)
        if head is not None:
            check_index("vision head", head, queries.shape[0])
            queries, keys = queries[head : head + 1], keys[head : head + 1]
        chosen = queries[:, mx.array([own.start + p for p in patches])]
        rows = attention_rows(chosen, keys[:, seen.start : seen.stop])
        return rows[:, :, own.start - seen.start : own.stop - seen.start]

    def _ranges(self, image: int) -> tuple[range, range]:
        """Patches of an image among all, and the patches that it saw."""
        own = self.prompt.patch_range(image)
        end = 0
        for size in self.groups:
            end += size
            if own.stop <= end:
                return own, range(end - size, end)
        return own, own

    # Text --------------------------------------------------------------------------------------

    def token_attention(self, token: int, layer: int, head: int | None = None) -> np.ndarray:
        """Where the query that chose a generated token looked.

        Arguments:
            token: its number in the answer; 0 was chosen at the last position of the prompt.
            layer: of the decoder.
            head: None is the mean over heads.

        Returns:
            float32, shape (prompt tokens + token,), sums to 1.
        """
        return self._token_rows(token, layer, head).mean(axis=0)

    def token_rows(self, token: int, layer: int) -> np.ndarray:
        """`token_attention` of all heads at once: float32, shape (heads, prompt tokens + token)."""
        return self._token_rows(token, layer)

    def _token_rows(self, token: int, layer: int, head: int | None = None) -> np.ndarray:
        queries = self._kept(f"text.{layer}.queries", token, layer)
        queries = queries.reshape(self.config.text.n_heads, -1)
        keys = self._keys(layer)[:, : len(self.prompt.tokens) + token]
        # Grouped queries: heads 0 ... H/K - 1 share KV head 0, and so on.
        group = queries.shape[0] // keys.shape[0]
        if head is not None:
            check_index("text head", head, queries.shape[0])
            queries, keys = queries[head : head + 1], keys[head // group : head // group + 1]
            group = 1
        rows = attention_rows(queries.reshape(keys.shape[0], group, -1), keys)
        return rows.reshape(-1, rows.shape[-1])

    def image_attention(
        self, token: int, layer: int | None = None, head: int | None = None, image: int = 0
    ) -> np.ndarray:
        """The part of `token_attention` that falls on an image's patches, not renormalised.

        Arguments:
            layer, head: None is the mean over all that were kept.

        Returns:
            float32, shape (rows, columns) of the image's tokens, each of which shows
            `prompt.merge` x `prompt.merge` patches.
        """
        grid = self.prompt.grid(image)
        places = self.prompt.spans[image].patch_positions()
        layers = self.text_layers if layer is None else [layer]
        rows = [self.token_attention(token, one, head)[places] for one in layers]
        return np.stack(rows).mean(axis=0, dtype=np.float32).reshape(grid)

    def image_rows(self, token: int, image: int = 0) -> np.ndarray:
        """`image_attention` of all heads of all kept layers (see `text_layers`) at once.

        Returns:
            float32, shape (layers, heads, rows, columns).
        """
        grid = self.prompt.grid(image)
        places = self.prompt.spans[image].patch_positions()
        rows = [self._token_rows(token, layer)[:, places] for layer in self.text_layers]
        return np.stack(rows).reshape(len(rows), -1, *grid)

    def image_shares(self, token: int) -> list[float]:
        """How much of a token's attention falls on each image, mean over layers and heads."""
        count = len(self.prompt.grids)
        return [float(self.image_attention(token, image=image).sum()) for image in range(count)]

    def evidence(self, token: int, image: int = 0) -> Evidence:
        """The box of patches that a token rests on.

        Of the mean map over layers and heads: the patches that hang together with the strongest
        one and have at least half its attention.
        """
        return find_evidence(self.image_attention(token, image=image))

    @property
    def text_layers(self) -> list[int]:
        """The layers of the decoder that were kept, see `TraceOptions`."""
        layers = range(self.config.text.n_layers)
        kept = [layer for layer in layers if f"text.{layer}.queries" in self._recorded.text]
        return kept or list(layers)

    def _kept(self, site: str, token: int, layer: int) -> mx.array:
        check_index("text layer", layer, self.config.text.n_layers)
        self._check_token(token)
        if site not in self._recorded.text:
            raise IndexError(f"text layer {layer}: not kept in this trace, see TraceOptions")
        return self._recorded.text[site][token]

    def _check_thread(self) -> None:
        if getattr(self._recorded, "writer", None) not in (None, threading.get_ident()):
            raise RuntimeError(
                "this answer is being written on another thread: look through px.Worker, "
                "`worker.submit(lambda model: ...)`, or wait for its end"
            )

    def _check_token(self, token: int) -> None:
        self._check_thread()
        if not self.tokens:
            raise IndexError(f"token {token}: nothing was generated")
        check_index("token", token, len(self.tokens))

    # Probabilities -----------------------------------------------------------------------------

    def logit_lens(self, token: int, layer: int, top: int = 5) -> list[tuple[str, float]]:
        """What the model would have said after `layer`, had it stopped there (nostalgebraist 2020).

        Arguments:
            token: whose choice is looked at. layer: of the decoder.
            top: how many.

        Returns:
            [(text, probability)], likeliest first.
        """
        return self._top_words(self._kept(f"text.{layer}", token, layer), top)

    def position_lens(self, position: int, layer: int, top: int = 5) -> list[tuple[str, float]]:
        """`logit_lens` at any position of the prompt, a word or an image patch.

        The position is run once more against the keys and values before it.
        """
        self._check_thread()
        check_index("position", position, len(self.prompt.tokens))
        check_index("text layer", layer, self.config.text.n_layers)
        if self._rerun is None:
            raise CheckpointError("a trace from a file has no model: make a new one with generate")
        return self._top_words(self._rerun(position)[f"text.{layer}"], top)

    def alternatives(self, token: int, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest tokens where a token was chosen: [(text, probability)], before logit bias
        and penalties, like `log_probabilities`."""
        return self.logit_lens(token, self.config.text.n_layers - 1, top)

    def log_probabilities(self, token: int, layer: int | None = None) -> np.ndarray:
        """The whole distribution that a token was chosen from, before logit bias, penalties,
        temperature and filters; or what it would have been after an earlier layer.

        Returns:
            Natural logarithms, float32, shape (vocabulary,).
        """
        layer = self.config.text.n_layers - 1 if layer is None else layer
        return self._log_probabilities(self._kept(f"text.{layer}", token, layer))

    def surprise(self, token: int) -> float:
        """Negative log-probability of a generated token, in nats: 0 is certain."""
        self._check_token(token)
        return -self.logprobs[token]

    def _top_words(self, hidden: mx.array, top: int) -> list[tuple[str, float]]:
        probabilities = np.exp(self._log_probabilities(hidden))
        best = np.argsort(-probabilities, kind="stable")[: max(top, 0)]
        return [(self.label(int(i)), float(probabilities[i])) for i in best]

    def _log_probabilities(self, hidden: mx.array) -> np.ndarray:
        if self.model is None:
            raise CheckpointError("a trace from a file has no model: make a new one with generate")
        decoder = self.model.decoder
        logits = decoder.unembed(decoder.norm(hidden.reshape(1, -1)))[0].astype(mx.float32)
        return np.array(logits - mx.logsumexp(logits))

    # Everything else ---------------------------------------------------------------------------

    @property
    def states(self) -> dict[str, np.ndarray]:
        """The states that `TraceOptions.states` named: float32, without the batch axis; those of
        the decoder over all positions that were computed."""
        self._check_thread()
        found = {}
        for name, whole in self._recorded.whole_states(self.config).items():
            batched = Site.parse(name, self.config).batched
            found[name] = np.array((whole[0] if batched else whole).astype(mx.float32))
        return found

    @property
    def nbytes(self) -> int:
        """Bytes kept for this trace beside the KV cache."""
        return self._recorded.nbytes

    def save(self, path: "str | Path") -> None:
        """Write a safetensors file that `open_trace` opens without the model.

        Raises:
            CheckpointError: the name is taken, or cannot be written.
        """
        self._check_thread()
        count, recorded = len(self.tokens), self._recorded
        text = recorded.rows(self.config, count)
        layers = [layer for layer in self.text_layers if f"text.{layer}.queries" in text]
        keys = {n: self._keys(n)[:, : len(self.prompt.tokens) + count] for n in layers}
        states = recorded.whole_states(self.config)
        write_trace(
            TraceRecord(
                self.config, self.prompt, self.tokens, self.logprobs, self.words, self.groups,
                recorded.vision, text, keys, states,
            ),
            path,
        )  # fmt: skip

    def picture(self, question: str = "", model: str = "") -> "Image.Image":
        """The answer, and for every word where the model looked (mean over layers and heads);
        drawn without a browser; `question` and the name of the `model` go with it if given.

        Raises:
            ImageError: there is no image or no word to draw.
        """
        return picture.draw_words(
            self.words, self.logprobs, self.prompt.images,
            lambda token, image: self.image_attention(token, image=image),
            question=question, model=model,
        )  # fmt: skip


def _parts(patches: int) -> list[range]:
    """Patches a few at a time: whole maps of large images would be too much."""
    return [range(start, min(start + 256, patches)) for start in range(0, patches, 256)]
