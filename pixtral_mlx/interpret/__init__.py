"""Looking inside a run, and changing what is inside.

It works on a `VisionLanguageModel` and a `Prompt`, and does not know how answers are written. In
reading order:

`edits`: small named changes to a run
`recorder`: what a run keeps for looking inside
`trace`: any row of any attention map, exactly, when it is asked for
`trace_source`: where a trace comes from: an answer, or a file
`trace_file`: a trace in a file
`maps`: reading maps: where the peak stands, how alike two are
`occlusion`: what happens to a word when a part of the picture is hidden
`compare`: how far two runs part
`activations`: how large activations become, and what float16 cannot hold
`words`: which tokens are a word
`fonts`: which font of this system has a letter
`letters`: text in every script, drawn with it
`light`: a picture lit where attention is
`picture`: words, images and maps, drawn with Pillow
"""

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .maps import block_means
    from .words import words_of

__all__ = ["block_means", "words_of"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "maps": "block_means",
        "words": "words_of",
    },
)
