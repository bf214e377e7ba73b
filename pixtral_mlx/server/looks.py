"""Where a token looked, as JSON for other programs."""

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from ..interpret.maps import find_evidence

if TYPE_CHECKING:
    from ..interpret.trace import Trace
    from ..model.prompt import Prompt

KINDS = ("boxes", "maps")


class Looks:
    """Where the tokens of an answer looked.

    Arguments:
        kind: "boxes", or "maps" for the whole maps too.
        prompt: whose pictures they are.
    """

    def __init__(self, kind: str, prompt: "Prompt"):
        self._kind, self._grids = kind, prompt.grids

    def of(self, trace: "Trace", token: int) -> dict[str, Any]:
        """Of the picture that a token looked at most; only on the model's thread.

        Returns:
            image: its number, from 0 on. share: how much of the token's attention was on it. box:
            left, top, right and bottom of the evidence, as shares of the picture's width and
            height. score: how much of its attention on the picture fell into the box. grid: rows
            and columns of patches. map: with "maps", rows x columns bytes in base64, row by row,
            255 where it looked most.
        """
        maps = [trace.image_attention(token, image=i) for i in range(len(self._grids))]
        image = int(np.argmax([each.sum() for each in maps]))
        found, (rows, columns) = find_evidence(maps[image]), self._grids[image]
        (top, bottom), (left, right) = found.rows, found.columns
        box = (left / columns, top / rows, right / columns, bottom / rows)
        look = {
            "image": image,
            "share": round(float(maps[image].sum()), 4),
            "box": [round(side, 4) for side in box],
            "score": round(found.score, 4),
            "grid": [rows, columns],
        }
        if self._kind == "maps":
            scaled = maps[image] / max(float(maps[image].max()), 1e-12) * 255
            look["map"] = base64.b64encode(scaled.round().astype(np.uint8).tobytes()).decode()
        return look
