"""The paper (Pixtral 12B, arXiv 2410.07073): token ids and pixels in, logits out.

It knows no tokenizer, no messages, no prompt cache, no edits and no files. Where to find what the
paper describes:

| section of the paper                     | here |
|------------------------------------------|---|
| 2, table 1: the sizes                    | `config`: `PIXTRAL_12B` |
| 2.1 Multimodal decoder: Mistral NeMo     | `decoder`: `Decoder`, `DecoderBlock`, `Attention` |
| 2.2 Vision encoder: PixtralViT           | `vision`: `VisionEncoder`, `VisionBlock` |
| 2.2 Break tokens after each row          | `prompt`: `image_tokens` |
| 2.2 Gating in FFN                        | `feed_forward`: `FeedForward` |
| 2.2 Sequence packing: block-diagonal     | `attention`: `attend_within` |
| 2.2 RoPE-2D                              | `rope`: `Rope2D` |
| 2.3 The two-layer network between them   | `projector`: `Projector` |
| 2.3 RoPE-1D, for words and patches alike | `rope`: `Rope1D` |
| 2.3, figure 3: the complete architecture | `vision_language_model`: `VisionLanguageModel` |

In reading order:

`config`: the sizes of a model, by the names of `params.json`
`prompt`: what a model is given: token ids, pixels, and where each image stands
`rope`: the rotary positions of words and of patches
`attention`: in bounded memory, and between images none
`feed_forward`: SwiGLU, which both transformers share
`vision`: the vision encoder
`projector`: from the width of the encoder to that of the decoder
`decoder`: the language model
`vision_language_model`: see the images, merge, decode
`kv_cache`: in what form keys and values are kept: all that knows how mlx-lm lays them out
`tap`: where a forward pass can be watched and changed
`device`: whether MLX computes on a GPU, for the few computations that ask
`threads`: what MLX ties to a thread, and how a model is tied to none
"""

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .config import PIXTRAL_12B, PIXTRAL_12B_VISION
    from .prompt import image_tokens
    from .rope import Rope2D

__all__ = ["PIXTRAL_12B", "PIXTRAL_12B_VISION", "Rope2D", "image_tokens"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "config": "PIXTRAL_12B PIXTRAL_12B_VISION",
        "prompt": "image_tokens",
        "rope": "Rope2D",
    },
)
