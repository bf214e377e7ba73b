"""Pixtral 12B in MLX: run it, open it up, teach it.

>>> import pixtral_mlx as px
>>> model = px.load("path/to/pixtral-12b-4bit")
>>> print(model.generate("What is in this picture?", images=["photo.jpg"]).text)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import edits
    from .checkpoint import load
    from .compare import Comparison, Reading, compare_runs, first_difference, read_answer
    from .config import PixtralConfig, TextConfig, VisionConfig
    from .conversion import convert
    from .errors import (
        CapacityError,
        CheckpointError,
        ConfigError,
        ImageError,
        PixtralError,
        PromptError,
    )
    from .folder import load_config
    from .generate import GenerationStream
    from .image import PatchGrid, open_image, patch_grid
    from .image_options import ImageOptions
    from .maps import Evidence, mean_distance, rank_correlation
    from .model import Pixtral
    from .options import GenerationOptions
    from .prompt import ImageSpan, Prompt
    from .quantization_error import TensorError, quantization_errors, quantized_copy
    from .recorder import TraceOptions
    from .reply import GenerationStats, Piece, Reply
    from .sampling import sampling_probabilities
    from .this_machine import Machine, machine
    from .tokenizer import Tokenizer
    from .trace import Trace
    from .trace_file import open_trace
    from .worker import Worker

__version__ = "0.1.0"

# Names are looked up when first used: `import pixtral_mlx` and `--help` load nothing heavy.
_HOMES = {
    "checkpoint": ("load",),
    "compare": ("Comparison", "Reading", "compare_runs", "first_difference", "read_answer"),
    "config": ("PixtralConfig", "TextConfig", "VisionConfig"),
    "conversion": ("convert",),
    "errors": (
        "CapacityError",
        "CheckpointError",
        "ConfigError",
        "ImageError",
        "PixtralError",
        "PromptError",
    ),
    "folder": ("load_config",),
    "generate": ("GenerationStream",),
    "image": ("PatchGrid", "open_image", "patch_grid"),
    "image_options": ("ImageOptions",),
    "maps": ("Evidence", "mean_distance", "rank_correlation"),
    "model": ("Pixtral",),
    "options": ("GenerationOptions",),
    "prompt": ("ImageSpan", "Prompt"),
    "quantization_error": ("TensorError", "quantization_errors", "quantized_copy"),
    "recorder": ("TraceOptions",),
    "reply": ("GenerationStats", "Piece", "Reply"),
    "sampling": ("sampling_probabilities",),
    "this_machine": ("Machine", "machine"),
    "tokenizer": ("Tokenizer",),
    "trace": ("Trace",),
    "trace_file": ("open_trace",),
    "worker": ("Worker",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CapacityError",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "Evidence",
    "GenerationOptions",
    "GenerationStats",
    "GenerationStream",
    "ImageError",
    "ImageOptions",
    "ImageSpan",
    "Machine",
    "PatchGrid",
    "Piece",
    "Pixtral",
    "PixtralConfig",
    "PixtralError",
    "Prompt",
    "PromptError",
    "Reading",
    "Reply",
    "TensorError",
    "TextConfig",
    "Tokenizer",
    "Trace",
    "TraceOptions",
    "VisionConfig",
    "Worker",
    "compare_runs",
    "convert",
    "edits",
    "first_difference",
    "load",
    "load_config",
    "machine",
    "mean_distance",
    "open_image",
    "open_trace",
    "patch_grid",
    "quantization_errors",
    "quantized_copy",
    "rank_correlation",
    "read_answer",
    "sampling_probabilities",
]


def __getattr__(name: str) -> Any:
    if name == "edits":
        return importlib.import_module(".edits", __name__)
    if name in _HOME_OF:
        return getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
