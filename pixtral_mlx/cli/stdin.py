"""What a pipe brings: `-` in place of a prompt or of a picture."""

import sys

from ..errors import PromptError

MAX_STDIN_BYTES = 200_000_000


def read_stdin() -> bytes:
    """All of stdin, up to a limit.

    Raises:
        PromptError: a terminal, or more than the limit.
    """
    if sys.stdin.isatty():
        raise PromptError("- reads from a pipe, and stdin is a terminal: pipe something into it")
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise PromptError(f"stdin holds more than {MAX_STDIN_BYTES:,} bytes: send less")
    return data


def read_stdin_text() -> str:
    """Text from a pipe, without the line end that `echo` adds.

    Raises:
        PromptError: as `read_stdin`, or it is not UTF-8.
    """
    data = read_stdin()
    try:
        return data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"stdin is not UTF-8 text (byte {data[error.start]:#04x} at {error.start:,}): convert "
            "it, or give a picture with --image -"
        ) from error
