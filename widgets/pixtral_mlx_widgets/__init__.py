"""Jupyter widgets that show a Pixtral model while it runs.

>>> import pixtral_mlx_widgets as w
>>> session = w.Session("mini")
>>> session.ask("How many rows are there?", images=["scene.png"])
>>> w.PatchGrid(session)

All widgets are views of one `Session`. They need the extra: `pip install ".[lab]"` in a clone.
"""

try:
    import anywidget  # noqa: F401
    import ipywidgets  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"No module named {error.name!r}, and the widgets need it: in your clone of pixtral-mlx, "
        'run pip install ".[lab]"',
        name=error.name,
    ) from None

from .ablation import Ablation
from .answer_lens import AnswerLens
from .mask_view import MaskView
from .memory_view import MemoryView
from .patch_grid import PatchGrid
from .quantization_view import QuantizationView
from .rope_explorer import RopeExplorer
from .sequence_strip import SequenceStrip
from .session import Session
from .studio import Studio
from .vision_attention import VisionAttention

__all__ = [
    "Ablation",
    "AnswerLens",
    "MaskView",
    "MemoryView",
    "PatchGrid",
    "QuantizationView",
    "RopeExplorer",
    "SequenceStrip",
    "Session",
    "Studio",
    "VisionAttention",
]
