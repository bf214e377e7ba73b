"""Pixtral 12B in MLX: run it, open it up, teach it.

>>> import pixtral_mlx as px
>>> model = px.load("path/to/pixtral-12b-4bit")
>>> print(model.generate("What is in this picture?", images=["photo.jpg"]).text)
"""

from typing import TYPE_CHECKING

from .lazy import lazily

if TYPE_CHECKING:
    from .checkpoint.folder import load_config
    from .cost.machine import Machine, machine
    from .engine.generate import GenerationStream
    from .engine.options import GenerationOptions
    from .engine.reply import GenerationStats, Piece, Reply
    from .engine.sampling import sampling_probabilities
    from .errors import (
        CapacityError,
        CheckpointError,
        ConfigError,
        FormError,
        ImageError,
        PixtralError,
        PromptError,
    )
    from .extraction.extract import extract
    from .extraction.fields import Field
    from .extraction.options import ExtractionOptions
    from .extraction.result import Extraction
    from .inputs.image import open_image
    from .inputs.image_options import ImageOptions
    from .inputs.tokenizer import Tokenizer
    from .interpret import edits
    from .interpret.compare import Comparison, Reading, compare_runs, first_difference, read_answer
    from .interpret.maps import Evidence, mean_distance, rank_correlation
    from .interpret.recorder import TraceOptions
    from .interpret.trace import Trace
    from .interpret.trace_source import open_trace
    from .model.config import PixtralConfig, TextConfig, VisionConfig
    from .model.prompt import ImageSpan, PatchGrid, Prompt, patch_grid
    from .pixtral import Pixtral, load, quantized_copy
    from .quantization.conversion import convert
    from .quantization.rounding_error import TensorError, quantization_errors
    from .worker import Worker

__version__ = "0.1.0"

__all__ = [
    "CapacityError",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "Evidence",
    "Extraction",
    "ExtractionOptions",
    "Field",
    "FormError",
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
    "extract",
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

__getattr__, __dir__ = lazily(
    __name__,
    {
        "checkpoint.folder": "load_config",
        "cost.machine": "Machine machine",
        "engine.generate": "GenerationStream",
        "engine.options": "GenerationOptions",
        "engine.reply": "GenerationStats Piece Reply",
        "engine.sampling": "sampling_probabilities",
        "errors": "CapacityError CheckpointError ConfigError FormError ImageError PixtralError "
        "PromptError",
        "extraction.extract": "extract",
        "extraction.fields": "Field",
        "extraction.options": "ExtractionOptions",
        "extraction.result": "Extraction",
        "inputs.image": "open_image",
        "inputs.image_options": "ImageOptions",
        "inputs.tokenizer": "Tokenizer",
        "interpret.compare": "Comparison Reading compare_runs first_difference read_answer",
        "interpret.edits": "",
        "interpret.maps": "Evidence mean_distance rank_correlation",
        "interpret.recorder": "TraceOptions",
        "interpret.trace": "Trace",
        "interpret.trace_source": "open_trace",
        "model.config": "PixtralConfig TextConfig VisionConfig",
        "model.prompt": "ImageSpan PatchGrid Prompt patch_grid",
        "pixtral": "Pixtral load quantized_copy",
        "quantization.conversion": "convert",
        "quantization.rounding_error": "TensorError quantization_errors",
        "worker": "Worker",
    },
)
