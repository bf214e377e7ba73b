"""Model folders in every layout, checked before they are read, opened lazily.

It knows the names, shapes and places of weights, and builds no model of them. In reading order:

`names`: what a name means: a folder, "mini", or an id on the hub
`hub`: the files of a hub repository, in the hub's own cache
`download`: one weight file of it, resumed and checked
`diagnosis`: what a folder without a model holds, and what to do about it
`folder`: which files of a folder hold the weights, and what their headers say
`safetensors_io`: the file format: headers, rows of one tensor, files written piece by piece
`stamps`: how files were when their reading began
`sums`: `SHA256SUMS` of the folders that this package writes
`arrays`: whole files, by MLX
`hf_config`: `config.json`, read and written
`layouts`: the names that tensors have in the wild, as tables
`scheme`: how weights may be stored: bits, groups, modes
`matching`: what a model needs, matched with what a folder stores
`checkpoint`: all of it together: `open_checkpoint`
`local`: the models that are on this machine
`adapter`: small matrices beside those of a model
`adapter_files`: their folders, mlx-lm's and PEFT's, read and written
`identity`: whose weights these are
"""

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .scheme import AFFINE_BITS, AFFINE_GROUPS, FLOAT_MODES, KEEP_BITS, MODES

__all__ = ["AFFINE_BITS", "AFFINE_GROUPS", "FLOAT_MODES", "KEEP_BITS", "MODES"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "scheme": "AFFINE_BITS AFFINE_GROUPS FLOAT_MODES KEEP_BITS MODES",
    },
)
