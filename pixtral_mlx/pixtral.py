"""The class that users see: a vision-language model with its tokenizer, its answers, its memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from .checkpoint.adapter_files import open_adapter
from .checkpoint.checkpoint import fill, open_checkpoint, precision
from .checkpoint.identity import LoadedArrays, model_identity
from .checkpoint.names import resolve, shown_name
from .checkpoint.stamps import Unread
from .engine.batch import BATCH_SIZE
from .engine.batch_stream import BatchStream, as_requests
from .engine.capacity import room_bytes
from .engine.engine import Engine
from .engine.generate import GenerationStream
from .engine.lookup import pass_costs
from .engine.options import GenerationOptions, names_options
from .engine.prompt_cache import PromptCache
from .engine.reply import Reply
from .errors import CheckpointError, PromptError
from .inputs.image_options import ImageOptions
from .inputs.tokenizer import Tokenizer
from .inputs.tools import as_tools
from .interpret.edits import Edit, MaskPatches, as_edits, edited
from .interpret.occlusion import check_occlusion, occlusion, occlusion_map
from .model.config import PixtralConfig
from .model.prompt import Patch, Prompt
from .model.tap import NO_TAP, Tap
from .model.threads import for_any_thread
from .model.vision_language_model import VisionLanguageModel
from .quantization.rounding_error import quantized_weights


class Pixtral(VisionLanguageModel):
    """Vision encoder, projector and decoder (paper, figure 3), of random weights: see `px.load`.

    Arguments:
        config: the sizes; without `config.vision` this is a plain Mistral NeMo, and
            `vision_encoder` and `projector` are None.
        tokenizer_file: the tokenizer of the checkpoint; needed for messages only.
        tokenizer_problem: why there is no `tokenizer_file`, for the error that says so.

    Attributes:
        name: what to call it: the name of its folder, its hub id, or "pixtral-mini".
    """

    def __init__(
        self,
        config: PixtralConfig,
        tokenizer_file: Path | None = None,
        *,
        tokenizer_problem: str = "",
    ):
        with for_any_thread():
            super().__init__(config)
        self.name = type(self).__name__
        self._tokenizer_file, self._tokenizer_problem = tokenizer_file, tokenizer_problem
        self._source: Any = None  # what `px.load` loaded, its `Precision`, adapter, arrays

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of this checkpoint, read when first needed.

        Raises:
            CheckpointError: the checkpoint came without one, or it cannot be read.
        """
        if self._tokenizer_file is None:
            raise CheckpointError(
                self._tokenizer_problem
                or "this model has no tokenizer: load it from a folder that holds tekken.json"
            )
        tokenizer = Tokenizer(self._tokenizer_file, self.config.vision)
        if tokenizer.n_words > self.config.text.vocab_size:
            raise CheckpointError(
                f"{tokenizer.path}: {tokenizer.n_words:,} words, but the model has "
                f"{self.config.text.vocab_size:,}: use the tokenizer that came with the weights"
            )
        return tokenizer

    @names_options
    def encode(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        images: Sequence[Any] = (),
        *,
        image_options: ImageOptions | None = None,
        image_budget: int | None = None,
        pdf_password: str | None = None,
        raw: bool = False,
        tools: Any = (),
        tool_choice: Any = "auto",
    ) -> Prompt:
        """Turn messages into the prompt that the model receives; see `Tokenizer.encode`.

        Arguments:
            tools, tool_choice: as in `GenerationOptions`; give them to `generate` too.
            image_budget: the most tokens that each image may take; a short way to say
                `ImageOptions(image_budget=...)`, see `patch_grid`.
            pdf_password: opens PDFs that are locked; a short way too.

        Raises:
            PromptError, ImageError: what was sent cannot be used.
            CapacityError: more tokens than the context.
        """
        return self.engine.encode(
            messages,
            images,
            image_options=image_options,
            image_budget=image_budget,
            pdf_password=pdf_password,
            raw=raw,
            tools=as_tools(tools, tool_choice),
        )

    @property
    def engine(self) -> Engine:
        """This model with its tokenizer and its prompt cache, for what answers with them. (A new
        one each time, since one that the model kept would keep the model in memory.)"""
        given = (lambda: self.tokenizer, self.prompt_cache, lambda: self._pass_costs)
        return Engine(self, *given, self._unread)

    _unread = Unread({})
    _pass_costs = cached_property(lambda self: pass_costs(self.decoder))

    @cached_property
    def prompt_cache(self) -> PromptCache:
        """Keys, values and image features that earlier calls left for later ones.

        And prepared pictures of files. It keeps at most half of the memory that the weights leave
        (`prompt_cache.max_bytes` may be changed), and less where a run needs the room.
        """
        return PromptCache(room_bytes(self, 0) // 2)

    def open_prompt_cache(self, folder: str | PathLike[str]) -> None:
        """Keep conversations in a folder too, and take up what other processes left there.

        What is damaged, or of another model or version, is ignored with a note (`logging`). With a
        folder open, replace weights rather than write to them in place, which nobody notices.

        Raises:
            CheckpointError: the folder cannot be used; or the weights are not those of a folder
                that `px.load` opened, so that nobody can say later whose keys and values these are.
        """
        from .engine.prompt_folder import PromptFolder

        if self._source is None or not self._source[-1].are_those_of(self):
            raise CheckpointError(
                "the weights are not as they were loaded: open a prompt cache right after px.load"
            )
        self.prompt_cache.check(self)
        self.prompt_cache.folder = PromptFolder(folder, self, model_identity(*self._source[:-1]))

    def clear_cache(self) -> None:
        """Forget what earlier calls left, and give the memory back; files stay.
        Replaced weights are noticed; call this after writing to a weight in place."""
        self.prompt_cache.clear()
        mx.clear_cache()

    @names_options
    def logits(self, prompt: Prompt, *, edits: Sequence[Edit] = ()) -> mx.array:
        """Logits of every position of a prompt: shape (tokens, vocabulary).

        Arguments:
            edits: changes to the run, see `edits`; some change the prompt and so its length.

        Raises:
            PromptError: it is none.
        """
        if not isinstance(prompt, Prompt):
            raise PromptError(f"prompt is {type(prompt).__name__}; allowed: what encode gives")
        edits = as_edits(edits)
        prompt = edited(prompt, edits, self.config)
        return self(prompt, Tap(prompt, edits) if edits else NO_TAP)

    @names_options
    def stream(
        self,
        messages: str | Sequence[Mapping[str, Any]] | Prompt,
        *,
        images: Sequence[Any] = (),
        image_options: ImageOptions | None = None,
        image_budget: int | None = None,
        pdf_password: str | None = None,
        raw: bool = False,
        **options: Any,
    ) -> GenerationStream:
        """Answer piece by piece.

        Arguments:
            messages: as for `encode`, or a prompt that `encode` made.
            images, image_options, image_budget, pdf_password, raw: as for `encode`.
            options: the fields of `GenerationOptions` (`max_tokens`, `temperature`, ...).

        Returns:
            An iterator of `Piece`; its `reply` holds what there is so far.

        Raises:
            ValueError: an option that is out of range.
            PromptError, ImageError, CapacityError: as for `encode`, or not enough memory.
        """
        checked = GenerationOptions.of(options)
        engine = self.engine
        prompt = engine.as_prompt(
            messages,
            images,
            checked.tools,
            image_options=image_options,
            image_budget=image_budget,
            pdf_password=pdf_password,
            raw=raw,
        )
        return GenerationStream(engine, prompt, checked)

    @names_options
    def generate(
        self,
        messages: str | Sequence[Mapping[str, Any]] | Prompt,
        *,
        images: Sequence[Any] = (),
        max_tokens: int | None = 256,
        temperature: float = 0.0,
        **options: Any,
    ) -> Reply:
        """Answer; arguments and errors as for `stream`. Ctrl-C ends it early with what there is
        (`finish_reason` "interrupted"). The same request gives the same tokens at temperature 0."""
        stream = self.stream(
            messages, images=images, max_tokens=max_tokens, temperature=temperature, **options
        )
        try:
            for _ in stream:
                pass
        except KeyboardInterrupt:
            stream.interrupt()
        return stream.reply

    @names_options
    def stream_batch(
        self,
        messages: Iterable[Any],
        *,
        images: Sequence[Sequence[Any]] = (),
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> BatchStream:
        """Answer many requests, several at a time.

        Arguments:
            messages: of each request what `generate` takes: a string, chat messages, a `Prompt`; or
                a mapping with its arguments (`{"messages": ..., "images": [...], "seed": 1}`).
            images: with strings, the pictures of each request: a list of lists.
            batch_size: at most this many are answered at once; fewer where memory is short.
            options: as for `stream`, for all; there is no trace and there are no edits.

        Returns:
            An iterator of (number of the request, `Reply`) in the order in which they are finished;
            a request that fails gives its `PixtralError` in place of a reply.

        Raises:
            ValueError: an option that is out of range, or that a batch does not have.
        """
        return BatchStream(
            self.engine, as_requests(messages, images), batch_size=batch_size, **options
        )

    @names_options
    def generate_batch(
        self,
        messages: Sequence[Any],
        *,
        images: Sequence[Sequence[Any]] = (),
        batch_size: int = BATCH_SIZE,
        return_errors: bool = False,
        **options: Any,
    ) -> list[Any]:
        """Answer many requests, several at a time: the same answers as from `generate`.

        Ctrl-C ends it early with what there is.

        Arguments:
            messages, images, batch_size, options: as for `stream_batch`.
            return_errors: a request that fails has its `PixtralError` in place of a reply.

        Returns:
            A `Reply` for each request, in their order.

        Raises:
            ValueError: as for `stream_batch`.
            PixtralError: the first request that fails, without `return_errors`.
        """
        requests = [*as_requests(messages, images)]
        stream = self.stream_batch(requests, batch_size=batch_size, **options)
        return stream.replies(len(requests), return_errors=return_errors)

    @names_options
    def occlusion_map(
        self,
        messages: str | Sequence[Mapping[str, Any]] | Prompt,
        token: int,
        block: int = 1,
        *,
        images: Sequence[Any] = (),
        image: int = 0,
        tokens: Sequence[int] | None = None,
        edits: Sequence[Edit] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Drop of a generated token's log-probability when blocks of patches are hidden.

        Arguments and errors as for `occlusion.occlusion_map`; messages and images as for `encode`.

        Returns:
            Nats, float32, shape (rows, columns) of the image.
        """
        prompt = self.engine.as_prompt(messages, images)
        check_occlusion(prompt, token, image, block)
        tokens = self._answer_to(prompt, token, edits) if tokens is None else tokens
        return occlusion_map(
            self, prompt, token, tokens, block=block, image=image, edits=edits, progress=progress
        )

    @names_options
    def occlusion(
        self,
        messages: str | Sequence[Mapping[str, Any]] | Prompt,
        token: int,
        patches: Sequence[Patch],
        *,
        images: Sequence[Any] = (),
        image: int = 0,
        tokens: Sequence[int] | None = None,
        edits: Sequence[Edit] = (),
    ) -> float:
        """The same, in nats, for one set of patches that are hidden together; see `occlusion`."""
        prompt = self.engine.as_prompt(messages, images)
        check_occlusion(prompt, token, image)
        MaskPatches(patches, image).check(prompt, self.config)
        tokens = self._answer_to(prompt, token, edits) if tokens is None else tokens
        return occlusion(self, prompt, token, tokens, patches, image=image, edits=edits)

    def _answer_to(self, prompt: Prompt, token: int, edits: Sequence[Edit]) -> list[int]:
        """The greedy answer up to a token, that one included."""
        return self.generate(prompt, max_tokens=token + 1, edits=edits, reuse=False).tokens


def load(path: str | PathLike[str], dtype: Any = None, adapter_path: Any = None) -> Pixtral:
    """Load a model; its weights are read when they are first used.

    Arguments:
        path: a folder (official, HF, mlx-community or converted), a hub id "owner/name", or "mini".
        dtype: "bfloat16", "float16", "float32" or an MLX dtype: of activations, unquantized
            tensors, and scales and biases of quantized ones; quantized weights stay as they are.
            None: as stored. "auto": what suits this machine's chip (see `chips.Chip.dtype` and
            `AUTO_VISION`; not measured), as stored where it is not an Apple chip.
        adapter_path: an adapter's folder, of mlx-lm, mlx-vlm or PEFT; "mini" has "json".

    Raises:
        CheckpointError: a folder or repository cannot be used; the line says why.
        ConfigError: `params.json` or `config.json` lacks a key or has a wrong value.
    """
    kinds = precision(dtype)
    checkpoint = open_checkpoint(resolve(path))
    config, adapter = checkpoint.config, None
    if adapter_path is not None:
        adapter = open_adapter(path, adapter_path, config)
    problem = checkpoint.tokenizer_problem
    model = Pixtral(config, checkpoint.tokenizer_file, tokenizer_problem=problem)
    fill(model, checkpoint.schemes, checkpoint.arrays(dtype).items())
    model.name = shown_name(path)
    if adapter is not None:
        adapter.put_on(model, kinds)
        model.name += f"+{adapter.name}"
    model._source = (checkpoint, kinds, adapter, LoadedArrays(model))
    model._unread = Unread(checkpoint.stamps)
    return model


def quantized_copy(model: Pixtral, **options: Any) -> Pixtral:
    """The model that `convert` with these options and then `load` would give, without a folder.

    Nothing is computed here: each matrix is quantized when it is first used, as `px.load` reads
    it, and the original's weights stay in memory for as long as the original does.

    Arguments:
        model: not quantized.
        options: as for `quantization_errors`; `dtype` is the model's own unless it is given.

    Raises:
        ValueError, CheckpointError, ConfigError: as for `quantization_errors`.
    """
    with for_any_thread():
        config, schemes, weights = quantized_weights(model, **options)
        copy = Pixtral(config, model._tokenizer_file, tokenizer_problem=model._tokenizer_problem)
        fill(copy, schemes, weights)
    return copy
