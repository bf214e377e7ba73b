"""Words and pictures that only take up room, to measure time and memory with."""

from typing import TYPE_CHECKING

from PIL import Image

from ..model.prompt import Prompt

if TYPE_CHECKING:
    from .tokenizer import Tokenizer


def text_prompt(tokenizer: "Tokenizer", tokens: int) -> Prompt:
    """A prompt of exactly `tokens` ids, at least 1: ordinary words, spread over the vocabulary."""
    words = tokenizer.n_words
    return Prompt([tokenizer.bos_id, *(words // 2 + i % (words // 2) for i in range(tokens - 1))])


def gradient(width: int, height: int) -> Image.Image:
    """A picture of that many pixels, from black to white; what it shows does not matter."""
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")
