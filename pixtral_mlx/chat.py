"""`pixtral-mlx chat`: a conversation in the terminal."""

import contextlib
import sys
from argparse import Namespace
from typing import Any

from .commands import (
    generation_options,
    image_options,
    load_model,
    prefill_bar,
    write_stream,
)
from .errors import PixtralError
from .image import open_image

HELP = """\
/image FILE   add a picture to the next question (a path or a URL; repeat for more)
/reset        forget the conversation
/help         this text
/exit         leave (or Ctrl-D)
Ctrl-C stops an answer."""


def run(arguments: Namespace) -> int:
    """Read questions line by line until the end of input."""
    options, pictures = generation_options(arguments), image_options(arguments)
    chat = Chat(load_model(arguments), arguments.system, options, pictures)
    terminal = sys.stdin.isatty()
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives input() a history)
        print("Type a question; /image FILE adds a picture, /help lists the rest.")
    while True:
        try:
            line = input("> " if terminal else "").strip()
        except EOFError:
            return 0
        except KeyboardInterrupt:
            print()
            return 130
        if line == "/exit":
            return 0
        try:
            chat.handle(line)
        except PixtralError as error:
            print(f"! {error}", file=sys.stderr)


class Chat:
    """A conversation so far, and the pictures that wait for the next question."""

    def __init__(self, model: Any, system: str | None, options: dict[str, Any], pictures: Any):
        self._model, self._options, self._pictures = model, options, pictures
        self._start = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, Any]] = list(self._start)
        self.waiting: list[Any] = []

    def handle(self, line: str) -> None:
        """Carry out a command, or answer a question.

        Raises:
            PixtralError: the turn is dropped, the conversation stays as it was.
        """
        command, _, rest = line.partition(" ")
        if command == "/image":
            image = open_image(rest.strip().strip("'\""), self._pictures)
            self.waiting.append(image)
            print(f"{image.width} x {image.height} pixels; {len(self.waiting)} waiting")
        elif command == "/reset":
            self.messages, self.waiting = list(self._start), []
        elif command == "/help":
            print(HELP)
        elif command.startswith("/") and "/" not in command[1:]:
            print(f"! {command} is not a command; /help lists them", file=sys.stderr)
        elif line:
            self._answer(line)

    def _answer(self, question: str) -> None:
        content: list[dict[str, Any]] = [{"type": "image", "image": i} for i in self.waiting]
        content.append({"type": "text", "text": question})
        messages = [*self.messages, {"role": "user", "content": content}]
        # Already turned upright when they were opened.
        prompt = self._model.encode(messages, image_options=self._pictures)
        with prefill_bar() as progress:
            stream = self._model.stream(prompt, progress=progress, **self._options)
            write_stream(stream)
        if stream.reply.text:
            self.messages = [*messages, {"role": "assistant", "content": stream.reply.text}]
            self.waiting = []
