"""`Studio`: what the conversation shows."""

import io

import numpy as np
import pytest
from PIL import Image

from pixtral_mlx_widgets import studio


@pytest.mark.parametrize("kind", ["16-bit grey", "transparent", "large"])
def test_a_small_copy_is_what_the_model_sees(kind):
    """Not what Pillow makes of it, which clips grey and shows colours that nobody sees."""
    image = {
        "16-bit grey": Image.fromarray(np.full((90, 300), 128 * 257, np.uint16)),
        "transparent": Image.new("RGBA", (300, 90), (200, 0, 0, 0)),
        "large": Image.new("L", (6000, 1800), 7),
    }[kind]
    small = studio._small(image)
    with Image.open(io.BytesIO(small["file"])) as shown:
        assert small["mime"] == "image/png"
        assert (shown.size, shown.mode) == ((160, 48), "RGB")
        level = {"16-bit grey": 128, "transparent": 255, "large": 7}[kind]
        assert shown.getextrema() == ((level, level),) * 3
