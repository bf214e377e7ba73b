"""`pixtral-mlx chat`: a conversation in the terminal."""

import contextlib
import sys
from argparse import Namespace
from typing import Any

from ..errors import PixtralError, PromptError
from ..inputs.messages import open_picture
from .question import (
    generation_options,
    image_options,
    load_model,
    stream_with_status,
    write_stream,
)
from .status import Status

HELP = """\
/image FILE   add a picture or a PDF to the next question (a path or a URL; repeat for more)
/reset        forget the conversation
/help         this text
/exit         leave (or Ctrl-D)
Ctrl-C stops an answer."""


def run(arguments: Namespace) -> int:
    """Read questions line by line until the end of input."""
    options, pictures = generation_options(arguments), image_options(arguments)
    chat = Chat(load_model(arguments), arguments.system, options, pictures)
    terminal, failed = sys.stdin.isatty(), False
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives input() a history)
        print("Type a question; /image FILE adds a picture, /help lists the rest.")
    while True:
        try:
            line = input("> " if terminal else "").strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            print()
            return 130
        if line == "/exit":
            break
        try:
            chat.handle(line)
        except PixtralError as error:
            print(f"! {error}", file=sys.stderr)
            failed = True
        except KeyboardInterrupt:  # before the answer began; the conversation stays
            print("! interrupted", file=sys.stderr)
    # A person has read what went wrong; a script looks at the exit status.
    return 1 if failed and not terminal else 0


class Chat:
    """A conversation so far, and the pictures that wait for the next question."""

    def __init__(self, model: Any, system: str | None, options: dict[str, Any], pictures: Any):
        self._model, self._options, self._pictures = model, options, pictures
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
            with Status("opening the image"):
                source = rest.strip().strip("'\"")
                parts = open_picture(source, self._pictures, self._model.config.vision)
            self.waiting += parts
            images = [part["image"] for part in self.waiting if part["type"] == "image"]
            opened = f"{images[-1].width} x {images[-1].height} pixels"
            if len(parts) > 1:
                opened = f"{len(parts) // 2} pages"
            # Answers alone go to stdout.
            print(f"{opened}; {len(images)} waiting", file=sys.stderr)
        elif command == "/reset":
            self.messages, self.waiting = list(self._start), []
        elif command == "/help":
            print(HELP)
        elif command.startswith("/") and "/" not in command[1:]:
            raise PromptError(f"{command} is not a command; /help lists them")
        elif line:
            self._answer(line)

    def _answer(self, question: str) -> None:
        content = [*self.waiting, {"type": "text", "text": question}]
        messages = [*self.messages, {"role": "user", "content": content}]
        with Status("preparing the prompt") as status:
            # Already turned upright when they were opened.
            prompt = self._model.encode(messages, image_options=self._pictures)
            stream = stream_with_status(self._model, prompt, self._options, status)
            write_stream(stream, status)
        if stream.reply.text:
            self.messages = [*messages, {"role": "assistant", "content": stream.reply.text}]
            self.waiting = []
