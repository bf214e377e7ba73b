"""Where a token looked, as JSON for other programs."""

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from ..inputs.pixels import picture_file
from ..interpret.maps import find_evidence

if TYPE_CHECKING:
    from ..interpret.trace import Trace
    from ..model.prompt import Prompt

KINDS = ("boxes", "maps", "pictures")


class Looks:
    """Where the tokens of an answer looked.

    Arguments:
        kind: "boxes"; "maps" for the whole maps too; "pictures" for the pictures besides.
        prompt: whose pictures they are.
    """

    def __init__(self, kind: str, prompt: "Prompt"):
        self._kind, self._prompt = kind, prompt
        self._places = [span.patch_positions() for span in prompt.spans]

    def pictures(self) -> list[dict[str, Any]] | None:
        """The pictures as the model sees them, pages of documents too, in the order in which it
        reads them, each {"url": data URL, "grid": [rows, columns], "merge": side of the square of
        patches that a cell of the grid is}; None unless they are asked for."""
        if self._kind != "pictures":
            return None
        files = (picture_file(image) for image in self._prompt.images)
        return [
            {
                "url": f"data:{each['mime']};base64,{base64.b64encode(each['file']).decode()}",
                "grid": list(grid),
                "merge": self._prompt.merge,
            }
            for each, grid in zip(files, self._prompt.grids, strict=True)
        ]

    def of(self, trace: "Trace", token: int) -> dict[str, Any]:
        """Of the picture that a token looked at most; only on the model's thread.

        Returns:
            image: its number, from 0 on. share: how much of the token's attention was on it. box:
            left, top, right and bottom of the evidence, as shares of the picture's width and
            height. score: how much of its attention on the picture fell into the box. grid: rows
            and columns, of patches or of the squares that the model makes of them. map: with "maps"
            and "pictures", rows x columns bytes in base64, row by row, 255 where it looked most.
        """
        layers = [trace.token_attention(token, layer) for layer in trace.text_layers]
        row = np.stack(layers).mean(axis=0, dtype=np.float32)  # once for all pictures
        shares = [row[places].sum() for places in self._places]
        image = int(np.argmax(shares))
        rows, columns = self._prompt.grids[image]
        seen = row[self._places[image]].reshape(rows, columns)
        found = find_evidence(seen)
        (top, bottom), (left, right) = found.rows, found.columns
        box = (left / columns, top / rows, right / columns, bottom / rows)
        look = {
            "image": image,
            "share": round(float(seen.sum()), 4),
            "box": [round(side, 4) for side in box],
            "score": round(found.score, 4),
            "grid": [rows, columns],
        }
        if self._kind != "boxes":
            scaled = seen / max(float(seen.max()), 1e-12) * 255
            look["map"] = base64.b64encode(scaled.round().astype(np.uint8).tobytes()).decode()
        return look
