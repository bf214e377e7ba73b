"""A picture lit where attention is: its own colours there, dimmed and grey elsewhere.

`drawing/colours.js` draws the same in a browser.
"""

import numpy as np

DIM = 0.4
"""How bright a picture stays where no attention is."""

LIGHT = (255, 200, 40)
"""What a legend shows in more and more light."""


def light_of(shares: np.ndarray) -> np.ndarray:
    """How much light a share of the greatest attention is, 0 to 1: its root, so that a tenth is
    seen."""
    return np.sqrt(np.clip(shares, 0, 1))


def lit(colours: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Colours where such shares of the greatest attention fall.

    Arguments:
        colours: RGB from 0 to 255, shape (..., 3).
        shares: 0 to 1, shape (...).

    Returns:
        uint8, shape (..., 3).
    """
    colours = np.asarray(colours, np.float64)
    dim = DIM * np.round(colours @ [0.299, 0.587, 0.114])[..., None]
    return np.round(dim + (colours - dim) * light_of(shares)[..., None]).astype(np.uint8)


def spotlit(pixels: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """A picture lit by a map, patch by patch.

    Arguments:
        pixels: uint8, shape (H, W, 3), of any size.
        attention: shape (rows, columns); its greatest value is full light.

    Returns:
        uint8, shape (H, W, 3).
    """
    most = float(attention.max())
    shares = attention / most if most > 0 else np.zeros_like(attention)
    rows, columns = (
        np.arange(pixels.shape[axis]) * shares.shape[axis] // pixels.shape[axis] for axis in (0, 1)
    )
    return lit(pixels, shares[np.ix_(rows, columns)])
