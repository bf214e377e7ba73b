"""The whole network (paper, figure 3): see the images, merge, decode.

It knows token ids and pixels and nothing else: no tokenizer, no cache, no request.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import PromptError
from .config import PixtralConfig
from .decoder import Decoder
from .projector import Projector
from .prompt import Prompt
from .tap import NO_TAP, Tap
from .vision import VisionEncoder

NO_VISION = "this model has no vision encoder: send text only"


class VisionLanguageModel(nn.Module):
    """Vision encoder, projector and decoder.

    Arguments:
        config: the sizes; without `config.vision` this is a plain Mistral NeMo, and
            `vision_encoder` and `projector` are None.

    The weights are random; `px.load` fills them.
    """

    def __init__(self, config: PixtralConfig):
        super().__init__()
        self.config = config
        self.vision_encoder = VisionEncoder(config.vision) if config.vision else None
        self.projector = Projector(config.vision, config.text) if config.vision else None
        self.decoder = Decoder(config.text)

    def __call__(self, prompt: Prompt, tap: Tap = NO_TAP) -> mx.array:
        """Logits of every position of a prompt: shape (tokens, vocabulary).

        Arguments:
            tap: looks inside, see `tap`.

        Raises:
            PromptError: as for `embed`.
        """
        tokens = mx.array(prompt.tokens)[None]
        embeddings = self.embed(prompt, tap)[None] if prompt.images else None
        return self.decoder(tokens, input_embeddings=embeddings, tap=tap)[0]

    def embed(self, prompt: Prompt, tap: Tap = NO_TAP) -> mx.array:
        """Embeddings of a prompt, image features merged in.

        Returns:
            Shape (L, D).

        Raises:
            PromptError: the prompt holds images and the model has no vision encoder, or the
                number of `[IMG]` is not the number of features.
        """
        if not prompt.images:
            return self.decoder.embed(mx.array(prompt.tokens))
        return self.merge(prompt, self.features(prompt, tap))

    def features(self, prompt: Prompt, tap: Tap = NO_TAP) -> mx.array:
        """What the images of a prompt give to the decoder: encoder, then projector.

        Returns:
            Shape (N, D), all images one after the other.

        Raises:
            PromptError: the model has no vision encoder.
        """
        if self.vision_encoder is None or self.projector is None:
            raise PromptError(NO_VISION)
        grids = [self.vision_encoder.grid(image) for image in prompt.images]
        features = self.projector(self.vision_encoder(prompt.images, tap), grids)
        return tap.at("projector")("", features)

    def merge(self, prompt: Prompt, features: mx.array) -> mx.array:
        """Embeddings of the tokens, with `features` (N, D) in the places of `[IMG]`.

        Only `[IMG]` takes a feature; `[IMG_BREAK]` and `[IMG_END]` keep their ordinary
        embeddings (mistral-inference, `transformer.py: embed_vision_language_features`).

        Returns:
            Shape (L, D).

        Raises:
            PromptError: the number of `[IMG]` is not the number of features.
        """
        tokens = np.array(prompt.tokens)
        embeddings = self.decoder.embed(mx.array(tokens))
        image_token = self.config.vision.image_token_id if self.config.vision else None
        places = np.flatnonzero(tokens == image_token)
        if len(places) != features.shape[0]:
            raise PromptError(
                f"the prompt has {len(places)} image tokens for {features.shape[0]} features: "
                "build prompts with model.encode"
            )
        embeddings[mx.array(places)] = features.astype(embeddings.dtype)
        return embeddings
