"""`pixtral-mlx chat`: a conversation in the terminal."""

import contextlib
import sys
from argparse import Namespace
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from ..errors import CapacityError, PixtralError, PromptError
from ..inputs.messages import open_picture
from ..model.prompt import Prompt
from .question import (
    generation_options,
    image_options,
    load_model,
    opened,
    stream_with_status,
    write_stream,
)
from .status import Status
from .typed_names import dragged_names, typed_names
from .wrap import harmless, say

HELP = """\
/image FILE   add a picture or a PDF to the next question (paths or a URL; repeat for more);
              a file dragged into the terminal is enough
/drop [N]     take the oldest picture, or the N oldest, out of the conversation
/reset        forget the conversation (also /clear)
/help         this text
/exit         leave (also /quit, /bye or Ctrl-D)
\"\"\"           begins and ends a question of several lines
Ctrl-C stops an answer."""

_LEAVE = ("/exit", "/quit", "/bye")
_FENCE = '"""'


def run(arguments: Namespace) -> int:
    """Read questions until the end of input."""
    options, pictures = generation_options(arguments), image_options(arguments)
    if "-" in arguments.image:
        raise ValueError("stdin holds the questions: give --image a file or a URL, not -")
    terminal, failed = sys.stdin.isatty(), False
    ask = _yes if terminal else None
    first = opened(arguments.image, pictures)
    model, reasoning = load_model(arguments), arguments.show_reasoning
    chat = Chat(model, arguments.system, options, pictures, ask=ask, reasoning=reasoning)
    chat.add(first)
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives input() a history)
        say("Type a question; /image FILE adds a picture, /help lists the rest.")
    while True:
        try:
            line = _line("> " if terminal else "").strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            say()
            return 130
        if line in _LEAVE:
            break
        try:
            if line.startswith(_FENCE):
                if question := _block(line, "... " if terminal else ""):
                    chat.answer(question)
            else:
                chat.handle(line)
        except PixtralError as error:
            say(f"! {error}", file=sys.stderr)
            failed = True
        except KeyboardInterrupt:  # before the answer began; the conversation stays
            say("! interrupted", file=sys.stderr)
    # A person has read what went wrong; a script looks at the exit status.
    return 1 if failed and not terminal else 0


def _line(prompt: str) -> str:
    """One line; files that some editors write begin with a mark that is none of its letters."""
    return input(prompt).removeprefix("\ufeff")


def _block(line: str, prompt: str) -> str:
    """The lines between two fences, the second of which the end of input may stand for."""
    lines = [line.removeprefix(_FENCE)]
    with contextlib.suppress(EOFError):
        while not lines[-1].rstrip().endswith(_FENCE):
            lines.append(_line(prompt))
    return "\n".join(lines).rstrip().removesuffix(_FENCE).strip()


def _yes(question: str) -> bool:
    """Whether a person wants it."""
    try:
        return input(f"{harmless(question, sys.stdout)} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


class Chat:
    """A conversation so far, and the pictures that wait for the next question.

    Arguments:
        ask: a question to the person with yes or no for an answer; None where there is nobody.
        reasoning: write what the model thinks to stderr.
    """

    def __init__(
        self,
        model: Any,
        system: str | None,
        options: dict[str, Any],
        pictures: Any,
        *,
        ask: Any = None,
        reasoning: bool = False,
    ):
        self._reasoning = reasoning
        self._model, self._options, self._pictures, self._ask = model, options, pictures, ask
        self._start = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, Any]] = list(self._start)
        self.waiting: list[dict[str, Any]] = []

    def handle(self, line: str) -> None:
        """Carry out a command, or answer a question.

        Raises:
            PixtralError: the turn is dropped, the conversation stays as it was.
        """
        command, _, rest = line.partition(" ")
        if command == "/image":
            self.add(typed_names(rest) or [""])
        elif command in ("/reset", "/clear"):
            self.messages, self.waiting = list(self._start), []
        elif command == "/drop":
            self.drop(rest.strip() or "1")
        elif command == "/help":
            say(HELP)
        elif names := dragged_names(line):
            self.add(names)
        elif command.startswith("/") and "/" not in command[1:]:
            raise PromptError(f"{command} is not a command; /help lists them")
        elif line:
            self.answer(line)

    def add(self, sources: list[Any]) -> None:
        """Pictures and PDFs for the next question, by their names or opened.

        Raises:
            PixtralError: one cannot be opened; those before it wait.
        """
        for source in sources:
            with Status("opening the picture"):
                parts = open_picture(source, self._pictures, self._model.config.vision)
            self.waiting += parts
            images = [part["image"] for part in self.waiting if part["type"] == "image"]
            opened = "{} x {} pixels".format(*images[-1].image.size)
            if len(parts) > 1:
                opened = f"{len(parts) // 2} pages"
            # Answers alone go to stdout.
            say(f"{opened}; {len(images)} waiting", file=sys.stderr)

    def drop(self, count: str) -> None:
        """Take so many of the oldest pictures out of the conversation.

        Raises:
            PromptError: not a number, or there is no picture.
        """
        held = len(list(self._places()))
        if not (count.isdecimal() and int(count)):
            raise PromptError(f"/drop {count}; allowed: a number of pictures, as in /drop 2")
        if not held:
            raise PromptError("/drop: there is no picture in this conversation")
        for _ in range(min(int(count), held)):
            parts, place = next(self._places())
            # Before the picture of a page stands its number.
            paged = place and str(parts[place - 1].get("text")).startswith("Page ")
            del parts[place - bool(paged) : place + 1]
        say(f"{min(int(count), held)} dropped, {max(0, held - int(count))} left", file=sys.stderr)

    def _places(self) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Where the pictures are, the oldest first: the parts of a message, and the place there."""
        for parts in (*(message["content"] for message in self.messages), self.waiting):
            if isinstance(parts, list):
                yield from ((parts, n) for n, part in enumerate(parts) if part["type"] == "image")

    def answer(self, question: str) -> None:
        """Ask the model, with the pictures that wait.

        Raises:
            PixtralError: the turn is dropped, the conversation stays as it was.
        """
        while True:
            content = [*self.waiting, {"type": "text", "text": question}]
            messages = [*self.messages, {"role": "user", "content": content}]
            with Status("preparing the prompt") as status:
                # The tokenizer's own, which takes what is too long, too.
                tokenizer = self._model.engine.tokenizer
                kept = self._model.prompt_cache.pictures
                prompt = tokenizer.encode(messages, options=self._pictures, kept=kept)
                if len(prompt.tokens) <= self._context:
                    self._stream(messages, prompt, status)
                    return
            self.drop(str(self._too_many(prompt)))

    @property
    def _context(self) -> int:
        return self._model.config.text.max_seq_len

    def _stream(self, messages: list[dict[str, Any]], prompt: Prompt, status: Status) -> None:
        try:
            stream = stream_with_status(self._model, prompt, self._options, status)
        except CapacityError as error:
            ways = "/drop takes out the oldest picture, " if prompt.images else ""
            raise CapacityError(f"{error}; here {ways}/reset starts over") from error
        write_stream(stream, status, reasoning=self._reasoning)
        if stream.reply.text:
            self.messages = [*messages, {"role": "assistant", "content": stream.reply.text}]
            self.waiting = []

    def _too_many(self, prompt: Prompt) -> int:
        """How many of the oldest pictures are to go, so that the rest and an answer fit.

        Raises:
            CapacityError: the person does not want that, or it would not help.
        """
        length, context = len(prompt.tokens), self._context
        said = f"the conversation has {length:,} tokens; the context holds {context:,}: "
        answer = min(self._options["max_tokens"], context // 8)
        freed = list(accumulate(span.stop - span.start for span in prompt.spans))
        if not freed or freed[-1] < length - context:
            raise CapacityError(f"{said}/reset starts over")
        enough = (n for n, tokens in enumerate(freed, 1) if tokens >= length - context + answer)
        count = next(enough, len(freed))
        oldest = "the oldest picture" if count == 1 else f"the {count} oldest pictures"
        if self._ask is not None and self._ask(f"{said}drop {oldest} and ask again?"):
            return count
        raise CapacityError(f"{said}/drop {count} takes out {oldest}, /reset starts over")
