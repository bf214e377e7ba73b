"""What happens to a word when a part of the picture is hidden: the test of every attention map."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ..checks import check_index, is_whole, whole
from ..cost.buffers import bounded_buffers
from ..model.prompt import Patch, PatchGrid, Prompt
from ..model.tap import NO_TAP, At, Tap
from ..model.vision_language_model import VisionLanguageModel
from .activations import nan_error
from .edits import PROJECTOR, Edit, MaskPatches, edited

TOKENS_AT_ONCE = 8192
"""Tokens that run together; bounds the memory of a batch."""


def occlusion_map(
    model: VisionLanguageModel,
    prompt: Prompt,
    token: int,
    tokens: Sequence[int],
    *,
    block: int = 1,
    image: int = 0,
    edits: Sequence[Edit] = (),
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """How much the log-probability of a generated token drops when patches are hidden.

    For each block of patches, the token is looked at again behind the same words with those
    patches replaced by the mean of their image.

    Arguments:
        prompt: from `model.encode`, without edits.
        token: its number in the answer.
        tokens: the answer.
        block: side of the blocks that are hidden, in patches.
        image: which one.
        edits: of the run that is looked at; patches are hidden after them.
        progress: called with (blocks done, all blocks).

    Returns:
        Drop in nats, float32, shape (rows, columns): each patch has that of its block.

    Raises:
        IndexError: the answer has no such token, or the prompt no such image.
        ValueError: the block is smaller than one patch.
    """
    check_occlusion(prompt, token, image, block)
    grid = prompt.grid(image)
    blocks = list(_blocks(grid, block))
    run = _Run(model, prompt, token, image, tokens, edits)
    size = max(1, TOKENS_AT_ONCE // len(run.prompt.tokens))
    found = np.zeros(grid, np.float32)
    before = run.log_probabilities([()])[0]
    for start in range(0, len(blocks), size):
        part = blocks[start : start + size]
        for patches, value in zip(part, run.log_probabilities(part), strict=True):
            found.ravel()[patches] = before - value
        if progress:
            progress(start + len(part), len(blocks))
    return found


def occlusion(
    model: VisionLanguageModel,
    prompt: Prompt,
    token: int,
    tokens: Sequence[int],
    patches: Sequence[Patch],
    *,
    image: int = 0,
    edits: Sequence[Edit] = (),
) -> float:
    """The same for one set of patches, hidden together: the drop in nats.

    Arguments and errors as for `occlusion_map`.
    """
    check_occlusion(prompt, token, image)
    MaskPatches(patches, image).check(prompt, model.config)
    run = _Run(model, prompt, token, image, tokens, edits)
    before, after = run.log_probabilities([(), patches])
    return float(before - after)


def check_occlusion(prompt: Prompt, token: int, image: int, block: int = 1) -> None:
    """What can be said before there is an answer.

    Raises:
        IndexError: the token's number is none, or the prompt has no such image.
        ValueError: the block is smaller than one patch.
    """
    whole("block", block, 1)
    if not is_whole(token) or token < 0:
        raise IndexError(f"token {token!r}: the first token is 0")
    prompt.grid(image)


class _Run:
    """One token of an answer, looked at again with patches of one image hidden."""

    def __init__(
        self,
        model: VisionLanguageModel,
        prompt: Prompt,
        token: int,
        image: int,
        tokens: Sequence[int],
        edits: Sequence[Edit],
    ):
        check_index("token", token, len(tokens))
        prompt = edited(prompt, edits, model.config)
        self._model, self._image, self._token = model, image, tokens[token]
        self._tap = Tap(prompt, edits) if edits else NO_TAP
        self._features = model.features(prompt, self._tap)
        self.prompt = replace(prompt, tokens=[*prompt.tokens, *tokens[:token]])

    @bounded_buffers()
    def log_probabilities(self, hidden: Sequence[Sequence[Patch]]) -> np.ndarray:
        """Of the token, once for each set of hidden patches; the sets run together."""
        model, versions = self._model, []
        for patches in hidden:
            mask = MaskPatches(patches, self._image)
            features = mask.change(self._features, At(PROJECTOR, None, self.prompt))
            versions.append(model.merge(self.prompt, features))
        tokens = mx.array(self.prompt.tokens)[None]
        states = model.decoder.hidden(tokens, None, mx.stack(versions), self._tap)[:, -1]
        logits = model.decoder.unembed(states).astype(mx.float32)
        found = np.array(logits[:, self._token] - mx.logsumexp(logits, axis=-1))
        if np.isnan(found).any():
            raise nan_error(model)
        return found


def _blocks(grid: PatchGrid, side: int) -> Iterator[list[int]]:
    """Row-major patch numbers of each block; those at the edges may be smaller."""
    numbers = np.arange(grid.patches).reshape(grid)
    for row in range(0, grid.rows, side):
        for column in range(0, grid.columns, side):
            yield numbers[row : row + side, column : column + side].ravel().tolist()
