"""pixtral-mini: a Pixtral small enough to travel with the package, and the world it was taught.

`scene` makes pictures with questions and answers; `python -m pixtral_mlx.mini train` trains,
`python -m pixtral_mlx.mini evaluate` measures; the trained checkpoint lies in `CHECKPOINT`.
"""

from ..checkpoint.names import MINI
from .scenes import Question, Scene, scene

CHECKPOINT = MINI
"""Folder of the trained model, in the official layout."""

__all__ = ["CHECKPOINT", "Question", "Scene", "scene"]
