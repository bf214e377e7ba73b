"""The conversations and pictures of the parity tests, drawn in code with integers only.

The same on every machine; nothing here depends on the package under test. Used by
`make_golden.py` (which runs the reference) and by the tests.
"""

from __future__ import annotations

import checkpoints
import numpy as np
from PIL import Image

SEED = 11  # of the checkpoint behind the golden arrays
GREEDY_TOKENS = 24

# Decoder parity far from the start. With one head width of 128, as in Pixtral 12B, the second
# fastest pair turns by 0.72 a token: rounding its angle hurts more than with a narrow head.
LONG_TEXT = {"head_dim": 128, "n_heads": 2, "n_kv_heads": 1, "n_layers": 2}
LONG_PREFIX, LONG_TOKENS = 16, 24
LONG_STARTS = (65_528, 131_048)  # both cross or end at a limit: 64k, and the 128k context


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture with slopes, edges and fine texture, so that every way of resizing shows."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    stripes = ((x * 3 + y * 2 + seed) // 5 % 2) * 70
    hash_ = (x * 7919 + y * 104_729 + (x * y) * 31 + seed * 65_537) % 101
    red = (x * 200 // width + stripes + hash_ // 2) % 256
    green = (y * 180 // height + hash_ + seed * 17) % 256
    blue = ((x + y) * 5 + 255 - stripes + seed * 29) % 256
    colours = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    if mode == "RGB":
        return Image.fromarray(colours)
    if mode == "RGBA":
        # Opaque, half transparent and wholly transparent columns; colours stay under the last.
        alpha = np.array([255, 128, 0, 60], np.uint8)[x * 4 // width]
        return Image.fromarray(np.dstack([colours, alpha]))
    if mode == "P":
        return _palette(red.astype(np.uint8))
    if mode == "LA":
        alpha = (255 * (y % 3) // 2).astype(np.uint8)
        return Image.merge("LA", [Image.fromarray(a) for a in (colours[..., 1], alpha)])
    if mode == "I;16":
        return Image.fromarray((red * 257).astype(np.uint16))
    return Image.fromarray(colours).convert(mode)


def _palette(indices: np.ndarray) -> Image.Image:
    """Indices into 16 colours, of which the first is transparent."""
    image = Image.fromarray(indices // 16).convert("P")
    image.putdata((indices // 16).flatten().tolist())
    image.putpalette([(i * 53 + c * 91) % 256 for i in range(16) for c in range(3)])
    image.info["transparency"] = 0
    return image


def text(value: str) -> dict:
    """A text part of a message."""
    return {"type": "text", "text": value}


def image(*arguments, **options) -> dict:
    """An image part of a message; arguments as in `picture`."""
    return {"type": "image", "image": picture(*arguments, **options)}


def user(*parts) -> dict:
    """A message from the user."""
    return {"role": "user", "content": list(parts)}


def _text_only():
    return [user(text("Why is the sky blue? Grüße, 日本語, and a literal [IMG] tag."))]


def _one_image():
    return [user(text("What is this?"), image(90, 50))]


def _two_images():
    first, second = image(70, 40, seed=1), image(33, 100, seed=2)
    return [user(text("Compare"), first, text(" with "), second, text(", please."))]


def _modes():
    parts = [image(44, 30, mode, seed=5) for mode in ("RGBA", "P", "L")]
    return [user(*parts, text("Three kinds."))]


def _chat():
    return [
        {"role": "system", "content": "Answer in one word."},
        user(text("First:"), image(50, 35, seed=6)),
        {"role": "assistant", "content": "Stripes."},
        user(image(20, 60, seed=7), text("And now?")),
    ]


def _one_pixel():
    return [user(image(1, 1, seed=8), text("A dot."))]


def _large():
    # Sizes that are halved exactly: there, OpenCV's builds agree to the last digit.
    return [user(image(2048, 544, seed=9), text("Large."))]


def _wide():
    # 67 scales to 16.75 pixels: rounded two rows of patches, with floor it would be one.
    return [user(image(4096, 67, seed=10), text("Wide."))]


CASES = {
    "text_only": _text_only,
    "one_image": _one_image,
    "two_images": _two_images,
    "modes": _modes,
    "chat": _chat,
    "one_pixel": _one_pixel,
    "large": _large,
    "wide": _wide,
}


def _two_sizes():
    first, second = image(50, 80, seed=12), image(90, 30, seed=13)
    return [user(text("Compare"), first, text(" with "), second, text(", please."))]


def _beyond():
    """More tokens than the original context of `MINISTRAL_TEXT`, three times over."""
    return [user(image(60, 50, seed=14), text("One word follows the other. " * 6))]


HEIRS = {
    "small": (1, {}, _two_sizes),
    "ministral": (1, checkpoints.MINISTRAL_TEXT, _beyond),
    "tied": (1, {**checkpoints.MINISTRAL_TEXT, "tied_embeddings": True}, _two_sizes),
}
"""Models that inherited Pixtral's encoder: seed, what their decoder changes, and a conversation."""


def long_tokens() -> np.ndarray:
    """Token ids of the long-position case, (LONG_PREFIX + LONG_TOKENS,)."""
    state = np.random.RandomState(11)
    return state.randint(20, 512, LONG_PREFIX + LONG_TOKENS)


def long_positions(start: int) -> np.ndarray:
    """A few tokens at the very beginning, then a jump: keys and queries far from each other.

    Attention depends on distances alone, so that a short sequence moved to 130k as a whole would
    hide most mistakes.
    """
    return np.concatenate([np.arange(LONG_PREFIX), start + np.arange(LONG_TOKENS)])


def reference_tokens(tokenizer_file, messages):
    """Token ids and pixels of mistral-common itself: `(tokens, [(3, H, W) float32])`."""
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    tokenizer = MistralTokenizer.from_file(str(tokenizer_file))
    request = ChatCompletionRequest(messages=[_to_mistral(message) for message in messages])
    found = tokenizer.encode_chat_completion(request)
    return found.tokens, found.images


def _to_mistral(message: dict):
    """One message in mistral-common's own types."""
    from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
    from mistral_common.protocol.instruct.messages import (
        AssistantMessage,
        SystemMessage,
        UserMessage,
    )

    content = message["content"]
    if message["role"] == "user" and not isinstance(content, str):
        content = [
            ImageChunk(image=part["image"])
            if part["type"] == "image"
            else TextChunk(text=part["text"])
            for part in content
        ]
    kind = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    return kind[message["role"]](content=content)
