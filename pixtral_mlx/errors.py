"""What can go wrong, as one small tree::

    PixtralError              anything a user can mend; its text is one line
    ├── ConfigError           params.json or config.json: a key or a value
    ├── CheckpointError       a folder, a weight file, a tensor, a hub repository
    ├── ImageError            a picture that cannot be opened, or must not be
    ├── PromptError           messages in a shape or a role that is not allowed
    ├── FormError             a form of answers that nobody could promise
    └── CapacityError         more memory, disk or context than there is

Every message says what was seen, what is allowed and what to do.
"""


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
    """The base of every error that this package raises on purpose."""


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
