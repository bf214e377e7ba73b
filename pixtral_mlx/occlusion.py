"""What happens to a word when a part of the picture is hidden: the test of every attention map."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from .edits import MaskPatches
from .image import PatchGrid
from .places import check_index, image_grid, is_whole
from .tokenizer import Prompt

if TYPE_CHECKING:
    from .model import Pixtral

TOKENS_AT_ONCE = 8192
"""Tokens that run together; bounds the memory of a batch."""


def occlusion_map(
    model: "Pixtral",
    prompt: Prompt,
    token: int,
    *,
    block: int = 1,
    image: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """How much the log-probability of a generated token drops when patches are hidden.

    The greedy answer is generated once; then, for each block of patches, the token is looked at
    again behind the same words with those patches replaced by the mean of their image.

    Arguments:
        prompt: from `model.encode`.
        token: its number in the answer.
        block: side of the blocks that are hidden, in patches.
        image: which one.
        progress: called with (blocks done, all blocks).

    Returns:
        Drop in nats, float32, shape (rows, columns): each patch has that of its block.

    Raises:
        IndexError: the answer has no such token, or the prompt no such image.
        ValueError: the block is smaller than one patch.
    """
    if not is_whole(block) or block < 1:
        raise ValueError(f"block is {block!r}; allowed is a whole number of patches, 1 or more")
    if not is_whole(token) or token < 0:
        raise IndexError(f"token {token!r}: they count from 0")
    grid = image_grid(prompt, image)
    tokens = model.generate(prompt, max_tokens=token + 1, reuse=False).tokens
    check_index("token", token, len(tokens))
    longer = Prompt(prompt.tokens + tokens[:token], prompt.images, prompt.grids, prompt.spans)
    features = model.features(prompt)

    blocks = list(_blocks(grid, block))
    size = max(1, TOKENS_AT_ONCE // len(longer.tokens))
    before = _log_probabilities(model, longer, [features], tokens[token])[0]
    found = np.zeros(grid, np.float32)
    for start in range(0, len(blocks), size):
        part = blocks[start : start + size]
        hidden = [
            MaskPatches(patches, image).change("projector", features, None, prompt)
            for patches in part
        ]
        after = _log_probabilities(model, longer, hidden, tokens[token])
        for patches, value in zip(part, after, strict=True):
            found.ravel()[patches] = before - value
        if progress:
            progress(start + len(part), len(blocks))
    return found


def _blocks(grid: PatchGrid, side: int) -> Iterator[list[int]]:
    """Row-major patch numbers of each block; those at the edges may be smaller."""
    numbers = np.arange(grid.patches).reshape(grid)
    for row in range(0, grid.rows, side):
        for column in range(0, grid.columns, side):
            yield numbers[row : row + side, column : column + side].ravel().tolist()


def _log_probabilities(
    model: "Pixtral", prompt: Prompt, features: Sequence[Any], token: int
) -> np.ndarray:
    """Of one token behind the same prompt, for each version of its image features."""
    batch = mx.stack([model.merge(prompt, version) for version in features])
    last = model.decoder.hidden(mx.array(prompt.tokens)[None], input_embeddings=batch)[:, -1]
    logits = model.decoder.unembed(last).astype(mx.float32)
    return np.array(logits[:, token] - mx.logsumexp(logits, axis=-1))
