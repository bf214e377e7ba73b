"""The words and flags that several commands share.

What a flag is made from is imported when a command's name has been read, so that `--help` of the
program answers at once.
"""

import mimetypes
import os
from argparse import Namespace
from typing import Any

from .usage import Parser, file_name

TYPES = ("bfloat16", "float16", "float32", "auto")


ASKED = (
    "a folder, a hub id, or mini (default: $PIXTRAL_MLX_MODEL, else what `pixtral-mlx models "
    "default` set, else mini)"
)


def add_model_name(parser: Any, text: str = ASKED) -> None:
    """`--model`; which one is asked without it is `settings`' to know."""
    parser.add_argument("-m", "--model", type=file_name, metavar="MODEL", help=text)


def add_adapter_path(parser: Any) -> None:
    """`--adapter-path`."""
    text = "compute with the adapter (LoRA) in this folder; mini comes with one, json"
    parser.add_argument("--adapter-path", type=file_name, metavar="DIR", help=text)


def add_dtype(parser: Any) -> None:
    """`--dtype`, of the activations."""
    parser.add_argument(
        "--dtype",
        choices=TYPES,
        metavar="TYPE",
        help="compute in bfloat16, float16, float32, or auto, which goes by the chip (default: as "
        "stored)",
    )


def add_model(parser: Any, *options: str) -> None:
    """`--model`, `--adapter-path`, `--dtype`, `--force`, and more options of a generation."""
    from ..engine.options import GenerationOptions
    from .flags import add_options

    add_model_name(parser)
    add_adapter_path(parser)
    add_dtype(parser)
    add_options(parser, GenerationOptions, "force", *options)


def add_sampling(parser: Any, max_tokens: int) -> None:
    """How the next token is chosen, and what a long prompt may take."""
    from ..engine.options import GenerationOptions
    from .flags import add_options

    add_options(
        parser.add_argument_group("sampling"), GenerationOptions,
        "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
        "repetition_context_size", "presence_penalty", "presence_context_size",
        "frequency_penalty", "frequency_context_size", "logit_bias", "seed", "stop",
        defaults={"max_tokens": max_tokens},
    )  # fmt: skip
    add_options(
        parser.add_argument_group("memory"), GenerationOptions,
        "prefill_step_size", "kv_bits", "kv_group_size", "quantized_kv_start",
    )  # fmt: skip


def add_conversation(parser: Any) -> None:
    """`--prompt-cache` and `--show-reasoning`: what somebody who reads one answer may want."""
    text = "keep conversations in this folder, and continue those already there"
    parser.add_argument("--prompt-cache", type=file_name, metavar="DIR", help=text)
    text = "show on stderr what a model that thinks before it answers thinks"
    parser.add_argument("--show-reasoning", action="store_true", help=text)


def add_image_options(parser: Any) -> None:
    """How pictures are prepared."""
    from ..inputs.image_options import ImageOptions
    from .flags import add_options

    group = parser.add_argument_group("images")
    add_options(group, ImageOptions)
    add_pdf_password(group)


def add_pdf_password(parser: Any) -> None:
    """`--pdf-password-file`."""
    text = "a file whose first line is the password of the PDFs"
    parser.add_argument("--pdf-password-file", type=file_name, metavar="FILE", help=text)


def add_images(parser: Any, text: str) -> None:
    """`--image`, one or several at a time."""
    text += "; x.pdf#page=2-5 picks pages; takes several, and may be repeated"
    parser.add_argument(
        "-i", "--image", type=file_name, nargs="+", action="extend", default=[], metavar="FILE",
        help=text,
    )  # fmt: skip


def add_prompt(parser: Any, *, required: bool) -> None:
    """`--prompt`."""
    text = "the question; - reads it from stdin"
    parser.add_argument("-p", "--prompt", required=required, metavar="TEXT", help=text)


def add_form(parser: Any) -> None:
    """The form that the answer keeps."""
    add = parser.add_mutually_exclusive_group().add_argument
    add(
        "--schema",
        type=file_name,
        metavar="JSON",
        help="answer in JSON that conforms to the JSON schema in this file",
    )
    add(
        "--regex",
        metavar="PATTERN",
        help="answer with text that matches this pattern as a whole, such as 'yes|no'",
    )


def add_template(parser: Any) -> None:
    """What stands around the question."""
    add = parser.add_argument
    add("--system", metavar="TEXT", help="system prompt")
    add(
        "--prefill", metavar="TEXT", help="begin the answer with TEXT; only what follows is printed"
    )
    add("--raw", action="store_true", help="no chat template: plain completion, for base models")


def add_question(parser: Any) -> None:
    """Pictures and a question, as words or by their flags; `sort_words` tells which is which."""
    parser.add_argument(
        "words", nargs="*", metavar="WORDS",
        help='pictures first, the question last: photo.jpg "What is this?"',
    )  # fmt: skip
    add_images(parser, "the same by name: a picture or PDF as a path, a URL, or - (stdin)")
    add_prompt(parser, required=False)
    add_template(parser)


def sort_words(parser: Parser, given: Namespace) -> None:
    """Make `--image` and `--prompt` of `photo.jpg "What is this?"`: all but the last word are
    pictures. A mistake ends with one line."""
    example = f"{parser.prog} photo.jpg 'What is this?'"
    if given.words and (given.image or given.prompt is not None):
        parser.error(
            "give pictures and question either as words or with --image and --prompt, not both: "
            f"{example}"
        )
    if given.words:
        *images, given.prompt = given.words
        if _is_file(given.prompt) or (_is_picture(given.prompt) and " " not in given.prompt):
            parser.error(f"{given.prompt} is a picture: put your question after it, in quotes")
        for name in images:
            if not (name == "-" or ":" in name or _is_picture(name) or _is_file(name)):
                parser.error(
                    f"{name!r} is not a picture: pictures come first, then one question in quotes, "
                    f"as in {example}"
                )
        given.image = [file_name(name) for name in images]
    if given.prompt is None:
        parser.error(f"there is no question: {example}")


def words_are_pictures(parser: Parser, given: Namespace) -> None:
    """`photo.jpg` is short for `--image photo.jpg`."""
    given.image = [*given.words, *given.image]


def _is_picture(name: str) -> bool:
    """Whether a word ends like the name of a picture or a PDF."""
    kind = mimetypes.guess_type(name.partition("#")[0])[0] or ""
    return kind.startswith("image/") or kind == "application/pdf"


def _is_file(name: str) -> bool:
    return os.path.isfile(file_name(name.partition("#")[0]))
