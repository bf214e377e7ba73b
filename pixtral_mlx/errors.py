"""What can go wrong, as one small tree::

    PixtralError              anything a user can mend; its text is one line
    ├── ConfigError           params.json or config.json: a key or a value
    ├── CheckpointError       a folder, a weight file, a tensor, a hub repository
    ├── ImageError            a picture that cannot be opened, or must not be
    ├── PromptError           messages in a shape or a role that is not allowed
    ├── FormError             a form of answers that nobody could promise
    └── CapacityError         more memory, disk or context than there is

Every message says what was seen, what is allowed and what to do. What was seen comes from files and
people: it is made one line here, whatever it is.
"""

import re

MOST_LETTERS = 500
"""Of a message; what is longer loses its middle. Its start says where, its end what to do."""
_END_LETTERS = 150


def one_line(text: str) -> str:
    """Without line ends, and without what would steer a terminal (names come from anywhere)."""
    text = re.sub(
        r"\s+", lambda blanks: " " if blanks[0].strip(" ") else blanks[0], shortened(text)
    )
    return "".join(letter if letter.isprintable() else "?" for letter in text.strip())


def shortened(text: str) -> str:
    """At most `MOST_LETTERS` of a text, its start and its end."""
    if len(text) <= MOST_LETTERS:
        return text
    return f"{text[: MOST_LETTERS - _END_LETTERS - 5]} ... {text[-_END_LETTERS:]}"


def how_to_install(extra: str) -> str:
    """The command that installs an extra, as README gives it."""
    return f'in your clone of pixtral-mlx, run pip install ".[{extra}]"'


def explain_missing(error: ModuleNotFoundError) -> str:
    """What to do about a package that is not there; "" if it is none of ours."""
    if (error.name or "").partition(".")[0] != "mlx":
        return ""
    return (
        f"No module named {error.name!r}: on Linux MLX comes with an extra; "
        f'{how_to_install("cpu")}, or ".[cuda13]" with an NVIDIA GPU'
    )


class PixtralError(Exception):
    """The base of every error that this package raises on purpose.

    Arguments:
        text: made one printable line of at most `MOST_LETTERS`.
    """

    def __init__(self, text: str = ""):
        super().__init__(one_line(text))


class ConfigError(PixtralError):
    """A configuration file lacks a key, or holds a value that no Pixtral can have."""


class CheckpointError(PixtralError):
    """A checkpoint is missing, incomplete, corrupt or in a layout that is not known."""


class ImageError(PixtralError):
    """A picture cannot be read, is not a picture, or is larger than is safe to decode."""


class PromptError(PixtralError):
    """The messages are not a conversation that the model's template can express."""


class FormError(PixtralError):
    """A schema, pattern, grammar or tool that cannot be read, or whose rules cannot be enforced."""


class CapacityError(PixtralError):
    """The request needs more memory, disk space or context than there is."""
