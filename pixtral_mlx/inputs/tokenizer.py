"""Messages in, a `Prompt` out: text and image tokens as mistral-common lays them out.

mistral-common is the authority on templates; this module gives it what `messages` has checked and
opened, and reports where each image stands.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from ..errors import (
    CheckpointError,
    ConfigError,
    FormError,
    PixtralError,
    PromptError,
)
from ..model.config import VisionConfig
from ..model.prompt import ImageSpan, PatchGrid, Prompt, image_tokens
from ..model.vision_language_model import NO_VISION
from .clients import ROLES, split_request
from .file_kind import saved_instead
from .found import Found
from .image_options import ImageOptions
from .messages import open_messages
from .pixels import preprocess
from .prepared import PreparedPictures, prepared_key
from .size_limit import no_memory_for
from .stream_decoder import StreamDecoder
from .tekken import check_tekken, panics
from .tokenizer_file import import_jsonschema
from .tools import CallMarks

_NUMBER = "number"  # of a prepared picture, in the `info` of what stands for it

log = logging.getLogger(__name__)


class Tokenizer:
    """mistral-common's tokenizer of one checkpoint, with this project's image pipeline in it.

    Arguments:
        path: `tekken.json`, or a SentencePiece file named as mistral-common names it.
        vision: the vision sizes, or None for a model without eyes.

    Raises:
        CheckpointError: the file cannot be read.
        ConfigError: its image ids contradict the configuration.
    """

    def __init__(self, path: str | Path, vision: VisionConfig | None = None):
        self.path = Path(path)
        self.vision = vision
        try:
            changed = self.path.stat().st_mtime_ns
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error}): check the path") from error
        self._mistral = _load_mistral(self.path.resolve(), changed)
        self._instruct = self._mistral.instruct_tokenizer
        self._words = self._instruct.tokenizer
        self.eos_id: int = self._words.eos_id
        self.bos_id: int = self._words.bos_id
        self.n_words: int = self._words.n_words
        self._tekken = hasattr(self._words, "id_to_byte_piece")
        if vision is not None:
            self.image_ids = self._image_ids(vision)

    def _image_ids(self, vision: VisionConfig) -> tuple[int, int, int]:
        """Ids of `[IMG]`, `[IMG_BREAK]` and `[IMG_END]`, from the tokenizer, cross-checked."""
        try:
            ids = tuple(
                self._words.get_special_token(name)
                for name in ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
            )
        except ValueError as error:
            raise ConfigError(
                f"{self.path}: has no image tokens, but the model has a vision encoder: use the "
                "tokenizer that came with the weights"
            ) from error
        stated = (vision.image_token_id, vision.image_break_token_id, vision.image_end_token_id)
        if any(s is not None and s != i for s, i in zip(stated, ids, strict=True)):
            raise ConfigError(
                f"image token ids are {ids} in {self.path.name} and {stated} in the configuration: "
                "the tokenizer and the weights do not belong together"
            )
        return ids

    def encode(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        images: Sequence[Any] = (),
        *,
        options: ImageOptions | None = None,
        raw: bool = False,
        request: Mapping[str, Any] | None = None,
        check: Callable[[Sequence[int]], None] = lambda tokens: None,
        kept: PreparedPictures | None = None,
    ) -> Prompt:
        """Turn messages into a prompt.

        Arguments:
            messages: a string, or chat messages: JSON or objects of OpenAI, Mistral, Hugging Face
                or LangChain; or mistral-common's `ChatCompletionRequest`. With `"prefix": True` the
                last message is an assistant's that the answer goes on with.
            images: with a string, pictures that stand before the text; with messages, those that
                fill their parts `{"type": "image"}`.
            options: how pictures are prepared.
            raw: no chat template: `<s>`, then images and text as they stand; for base models.
            request: what else the template takes: "tools", for example.
            check: called with the tokens that each picture takes at least, before any is decoded;
                what it raises ends it all.
            kept: pictures that were prepared before, and where these are kept.

        Raises:
            PromptError: a role, a shape or an order that is not allowed.
            ImageError: a picture that cannot be used. Both say which message.
        """
        options = options or ImageOptions()
        listed, own = split_request(messages)
        request = {**own, **(request or {})}
        if raw and request:
            raise PromptError(f"raw= leaves out the template, which {', '.join(request)} needs")
        encoder = _ImageEncoder(self, kept)
        opened = open_messages(listed, images, options, self.vision, encoder.prepare, check)
        if raw:
            return _locate(self._encode_raw(opened, encoder), encoder)
        return _locate(self._encode_chat(opened, encoder, request), encoder)

    def _encode_chat(
        self, messages: list[dict], encoder: "_ImageEncoder", rest: Mapping[str, Any]
    ) -> list[int]:
        from mistral_common.exceptions import MistralCommonException
        from mistral_common.protocol.instruct.request import ChatCompletionRequest
        from pydantic import ValidationError

        # Copies, since the tokenizer is shared between models and threads: only the place of the
        # image encoder differs.
        mistral, instruct = _twin(self._mistral), _twin(self._instruct)
        mistral.instruct_tokenizer, instruct.image_encoder = instruct, encoder
        if not mistral._chat_completion_request_validator._allow_tool_call_and_content:
            messages = _calls_alone(messages)
        try:
            request = ChatCompletionRequest.model_validate({**rest, "messages": messages})
            with panics(self.path):
                return mistral.encode_chat_completion(request).tokens
        except PixtralError:
            raise
        except ValidationError as error:
            first = error.errors()[0]
            raise PromptError(f"{_place(first['loc'])}: {first['msg']}") from error
        except (MistralCommonException, ValueError, AssertionError) as error:
            where = _at_fault(mistral, request.messages, str(error))
            raise PromptError(f"{where}: {str(error).splitlines()[0]}") from error

    def _encode_raw(self, messages: list[dict], encoder: "_ImageEncoder") -> list[int]:
        tokens = [self.bos_id]
        for message in messages:
            content = message["content"]
            chunks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for chunk in chunks or ():
                if chunk["type"] == "text":
                    tokens += self._words.encode(chunk["text"], bos=False, eos=False)
                else:
                    tokens += encoder(SimpleNamespace(image=chunk["image"])).tokens
        return tokens

    def encode_answers(
        self,
        messages: Sequence[Mapping[str, Any]],
        images: Sequence[Any] = (),
        *,
        options: ImageOptions | None = None,
    ) -> list[tuple[Prompt, list[slice]]]:
        """A conversation with its answers, as a model would read the questions and write the rest.

        Arguments:
            messages: chat messages as for `encode`; the last is an assistant's.
            images, options: as for `encode`.

        Returns:
            Sequences, and where in each of them the answers stand, each with the token that ends
            it. There is one, unless the template moves what came before when a conversation goes
            on, as it does with a system prompt: then an answer has its own.

        Raises:
            PromptError: the last message is not an answer; and as for `encode`.
            ImageError: as for `encode`.
        """
        listed, request = split_request(messages)
        encoder = _ImageEncoder(self, None)
        opened = open_messages(
            listed, images, options or ImageOptions(), self.vision, encoder.prepare, lambda _: None
        )
        if opened[-1]["role"] != "assistant" or not opened[-1]["content"]:
            raise PromptError("the last message is not an answer: an assistant's text ends a row")
        found: list[tuple[Prompt, list[slice]]] = []
        for i, message in enumerate(opened):
            if message["role"] != "assistant" or not message["content"]:
                continue
            before = self._encode_chat(opened[:i], encoder, request)
            answer = {"role": "assistant", "content": message["content"], "prefix": True}
            encoder.forget()
            tokens = [*self._encode_chat([*opened[:i], answer], encoder, request), self.eos_id]
            prompt, place = _locate(tokens, encoder), slice(len(before), len(tokens))
            encoder.forget()
            if found and found[-1][0].tokens == before[: len(found[-1][0].tokens)]:
                found[-1] = (prompt, [*found[-1][1], place])
            else:
                found.append((prompt, [place]))
        return found

    def call_marks(self) -> CallMarks:
        """The control tokens of calls.

        Raises:
            FormError: the template has no tools.
        """
        from mistral_common.tokens.tokenizers.base import TokenizerVersion

        version = self._words.version
        names = ["[TOOL_CALLS]"]
        names += ["[ARGS]"] * (version > TokenizerVersion.v7)
        names += ["[CALL_ID]"] * (version == TokenizerVersion.v11)
        found = [self._control(name) for name in names]
        if None in found:
            raise FormError(
                f"{self.path}: the template of tokenizer {version.value} has no tools; allowed: "
                "v2 and later"
            )
        return CallMarks(*found)  # type: ignore[arg-type]

    def _control(self, name: str) -> int | None:
        """The id of a control token; None where the template has none."""
        try:
            return self._words.get_special_token(name)
        except ValueError:
            return None

    @cached_property
    def thinking_ids(self) -> tuple[int | None, int | None]:
        """The tokens `[THINK]` and `[/THINK]`; None where the template has none."""
        return self._control("[THINK]"), self._control("[/THINK]")

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of generated ids; control tokens and ids without a word are left out."""
        return self._words.decode([token for token in tokens if token < self.n_words])

    def label(self, token: int) -> str:
        """How one id is written, control tokens by their name: `[IMG_BREAK]`, `<s>`; one without a
        word, which fine-tunes have rows for, by its number: `<131072>`."""
        return self._words.id_to_piece(token) if token < self.n_words else f"<{token}>"

    def stream_decoder(self) -> StreamDecoder:
        """A decoder that is fed one id at a time."""
        return StreamDecoder(self)


class _ImageEncoder:
    """Stands where mistral-common's image encoder stands: same tokens, our pixels.

    Pictures are prepared before, when they are opened; mistral-common gets something small in
    their place.
    """

    def __init__(self, tokenizer: Tokenizer, kept: PreparedPictures | None):
        self._tokenizer = tokenizer
        self._kept = PreparedPictures(lambda: 0) if kept is None else kept
        self._prepared: list[tuple[np.ndarray, PatchGrid]] = []
        self.images: list[np.ndarray] = []
        self.grids: list[PatchGrid] = []

    def prepare(self, picture: Found, options: ImageOptions) -> Image.Image:
        """The numbers of a picture are computed, and it may go; what is given stands for it."""
        vision = self._tokenizer.vision
        if vision is None:
            raise PromptError(NO_VISION)
        pixels = self._pixels(picture, options, vision)
        rows, columns = (side // vision.token_size for side in pixels.shape[1:])
        stand_in = Image.new("1", (1, 1))
        stand_in.info[_NUMBER] = len(self._prepared)
        self._prepared.append((pixels, PatchGrid(rows, columns)))
        return stand_in

    def _pixels(self, picture: Found, options: ImageOptions, vision: VisionConfig) -> np.ndarray:
        """Float32, shape (3, H, W); not to be written to, since later prompts may have them too."""
        key = prepared_key(picture.content, options, vision)
        pixels = self._kept.find(key)
        if pixels is None:
            try:
                pixels = preprocess(picture.open(), vision, options)
            except MemoryError as error:
                raise no_memory_for("a picture") from error
            pixels.flags.writeable = False
            if picture.content is not None:
                self._kept.keep(key, pixels)
        return pixels

    def forget(self) -> None:
        """What was encoded; what was prepared stays."""
        self.images, self.grids = [], []

    def __call__(self, chunk: Any) -> SimpleNamespace:
        pixels, grid = self._prepared[chunk.image.info[_NUMBER]]
        self.images.append(pixels)
        self.grids.append(grid)
        return SimpleNamespace(tokens=image_tokens(grid, self._tokenizer.image_ids), image=pixels)


@lru_cache(maxsize=4)
def _load_mistral(path: Path, changed: int) -> Any:
    """mistral-common's tokenizer; the 12B's takes 2 s to build, so a few are kept, each until its
    file has another modification time (`changed`)."""
    import_jsonschema()
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    if path.suffix == ".json":
        check_tekken(path)
    try:
        with panics(path):
            return MistralTokenizer.from_file(str(path))
    except CheckpointError:
        raise
    except Exception as error:  # a broken file raises nearly anything in there
        if what := saved_instead(path):
            raise CheckpointError(f"{path}: {what}") from error
        raise CheckpointError(
            f"{path}: not a tokenizer that mistral-common can read "
            f"({str(error) or type(error).__name__}): fetch it again"
        ) from error


def _twin(thing: Any) -> Any:
    """A shallow copy. `copy.copy` would have mistral-common read its file again: half a second."""
    twin = object.__new__(type(thing))
    twin.__dict__.update(vars(thing))
    return twin


def _locate(tokens: list[int], encoder: _ImageEncoder) -> Prompt:
    """Find where the images stand: each starts at the next `[IMG]` after the one before."""
    spans: list[ImageSpan] = []
    position = 0
    for grid in encoder.grids:
        start = tokens.index(encoder._tokenizer.image_ids[0], position)
        spans.append(ImageSpan(start, grid))
        position = spans[-1].stop
    vision = encoder._tokenizer.vision
    merge = 1 if vision is None else vision.spatial_merge_size
    return Prompt(tokens, encoder.images, encoder.grids, spans, merge)


def _calls_alone(messages: Sequence[dict]) -> list[dict]:
    """Without the words that an assistant said beside its calls of tools: the templates before v5,
    Pixtral 12B's v3 among them, have no place for both, and the results need their calls."""
    both = [i for i, m in enumerate(messages) if m.get("tool_calls") and m["content"]]
    for i in both:
        log.warning("messages[%d]: text beside tool_calls: left out, the template has no place", i)
    return [{**m, "content": None} if i in both else m for i, m in enumerate(messages)]


def _at_fault(mistral: Any, messages: Sequence[Any], said: str) -> str:
    """Which message mistral-common refuses: the one with which it begins to say so.

    If there is none, it is the last, with which a conversation must not end.
    """
    from mistral_common.exceptions import MistralCommonException
    from mistral_common.protocol.instruct.validator import ValidationMode

    validator = type(mistral._chat_completion_request_validator)(ValidationMode.agnostic)
    for count in range(1, len(messages)):
        try:
            validator.validate_messages(list(messages[:count]))
        except (MistralCommonException, ValueError, AssertionError) as error:
            if str(error) == said:
                return f"messages[{count - 1}]"
    return f"messages[{len(messages) - 1}]"


def _place(where: tuple[Any, ...]) -> str:
    """`messages[2].content` from pydantic's ("messages", 2, "user", "content")."""
    steps = [step for i, step in enumerate(where) if i != 2 or step not in ROLES]
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)[1:]
