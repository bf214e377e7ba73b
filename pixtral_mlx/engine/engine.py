"""What answers are made with: a model, its tokenizer, and what earlier calls left."""

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

from ..checkpoint.stamps import Unread
from ..errors import PromptError
from ..inputs.image_options import ImageOptions
from ..inputs.tokenizer import Tokenizer
from ..inputs.tools import Tools
from ..model.prompt import Prompt
from ..model.vision_language_model import VisionLanguageModel
from .capacity import check_context, check_images
from .lookup import most_drafted
from .prompt_cache import PromptCache


class Engine:
    """A model with what is needed around it in order to answer.

    Arguments:
        model: the network.
        read_tokenizer: gives the tokenizer of its checkpoint, which takes a while to read: so it is
            asked when a message has to be encoded or an answer written, and not before.
        prompt_cache: keys, values and image features of earlier calls on this model.
        measure_passes: gives what passes cost on this machine, see `pass_costs`.
        weights: those on the disk, see `Unread`; None where there are none.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        read_tokenizer: Callable[[], Tokenizer],
        prompt_cache: PromptCache,
        measure_passes: Callable[[], Mapping[int, float]],
        weights: Unread | None = None,
    ):
        self.model, self.prompt_cache = model, prompt_cache
        self.weights = weights or Unread({})
        self._read_tokenizer = read_tokenizer
        self._measure_passes = measure_passes

    @property
    def pass_costs(self) -> Mapping[int, float]:
        """What a pass over 1, 2 and 4 tokens takes here, one over a single token being 1; measured
        where it was not asked before."""
        return self._measure_passes()

    @property
    def most_drafted(self) -> int:
        """How many tokens prompt lookup may draft at a time, going by `pass_costs`."""
        return most_drafted(self.pass_costs)

    @property
    def tokenizer(self) -> Tokenizer:
        """That of the checkpoint.

        Raises:
            CheckpointError: there is none, or it cannot be read.
        """
        return self._read_tokenizer()

    def encode(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        images: Sequence[Any] = (),
        *,
        image_options: ImageOptions | None = None,
        image_budget: int | None = None,
        pdf_password: str | None = None,
        raw: bool = False,
        tools: Tools | None = None,
        check: Callable[[Sequence[int]], None] = lambda tokens: None,
    ) -> Prompt:
        """Turn messages into the prompt that the model receives; see `Pixtral.encode`.

        Arguments:
            check: called with the tokens that each picture takes at least, before any is decoded;
                what it raises ends it all.
        """
        given = {"image_budget": image_budget, "pdf_password": pdf_password}
        given = {name: value for name, value in given.items() if value is not None}
        image_options = replace(image_options or ImageOptions(), **given)
        request = None if tools is None else tools.request
        context = self.model.config.text.max_seq_len

        def check_all(tokens: Sequence[int]) -> None:
            check(tokens)
            check_images(tokens, context)

        prompt = self.tokenizer.encode(
            messages, images, options=image_options, raw=raw, request=request, check=check_all,
            kept=self.prompt_cache.pictures,
        )  # fmt: skip
        check_context(prompt, context)
        return prompt

    def as_prompt(
        self,
        messages: str | Sequence[Mapping[str, Any]] | Prompt,
        images: Sequence[Any] = (),
        tools: Tools | None = None,
        **options: Any,
    ) -> Prompt:
        """Messages as `encode` takes them, or the prompt that it made of them before.

        Arguments:
            images, options: as for `encode`; nothing of them goes with a `Prompt`, which has its
                images and its form.
            tools: those of the answer; a `Prompt` has them already.

        Raises:
            PromptError: a `Prompt` together with any of them.
        """
        if not isinstance(messages, Prompt):
            return self.encode(messages, images, tools=tools, **options)
        none = images is None or (isinstance(images, Sized) and len(images) == 0)
        for name, value in {"images": None if none else images, **options}.items():
            if value is not None and value is not False:
                raise PromptError(
                    f"{name}= goes with messages, and this is a Prompt, which is encoded already: "
                    "give it to encode, which makes the prompt"
                )
        return messages
