"""What tests show and ask: pictures of noise, and messages."""

import numpy as np
from PIL import Image


def noise(seed: int = 0, width: int = 70, height: int = 40) -> Image.Image:
    """A picture in which every pixel is its own: 70 x 40 are 5 x 3 patches."""
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def user(*parts) -> list[dict]:
    """Messages of one turn: texts and pictures as they come."""
    listed = [{"type": "image", "image": p} if not isinstance(p, str) else p for p in parts]
    return [{"role": "user", "content": listed}]
