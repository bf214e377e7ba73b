"""Which weights get how many bits, and the folder that results.

It reads and writes folders, and never runs a model. In reading order:

`options`: what can be asked of a conversion
`plan`: which matrix gets how many bits, decided before a weight is read
`rounding`: a slice of rows, rounded, and how far off it comes back
`conversion`: a checkpoint in any layout in, a folder out, a slice at a time
`folder_files`: the small files of that folder
`hf_tokenizer`: of these, what transformers and mlx-vlm read
`rounding_error`: how far off quantized weights are, matrix by matrix
"""

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .options import ConversionOptions
    from .plan import plan_for
    from .rounding_error import together

__all__ = ["ConversionOptions", "plan_for", "together"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "options": "ConversionOptions",
        "plan": "plan_for",
        "rounding_error": "together",
    },
)
