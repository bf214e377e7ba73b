"""The command line: `pixtral-mlx COMMAND ...`.

Parsing only, so that `--help` answers at once: what a command does is imported when it runs, and
the options that its flags are made from are when its name has been read.
A mistake ends with one line on stderr and status 2 (usage) or 1, never a traceback.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import PixtralError, explain_missing, one_line
from ..files import remove_unfinished
from .arguments import (
    add_conversation,
    add_dtype,
    add_form,
    add_image_options,
    add_images,
    add_model,
    add_model_name,
    add_pdf_password,
    add_prompt,
    add_question,
    add_sampling,
    add_template,
    sort_words,
    words_are_pictures,
)
from .documents import add_extract
from .measuring import add_bench, add_doctor
from .streams import (
    acknowledging,
    drop_output,
    end_tidily,
    leave,
    prepare_notes,
    prepare_streams,
)
from .training import add_fuse, add_tune
from .usage import Parser, file_name
from .wrap import fitted, say


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Arguments:
        argv: the words after `pixtral-mlx`; those of the process if None.

    Returns:
        The exit status: 0, 1 (it went wrong), 2 (usage) or 130 (Ctrl-C). After Ctrl-C a process
        that runs its own words ends here.
    """
    try:
        status = _run(argv)
    except KeyboardInterrupt:  # while its words were read, or once more while it ended
        say("pixtral-mlx: interrupted", file=sys.stderr)
        status = 130
    finally:  # SIGTERM is on its way out
        if argv is None:
            remove_unfinished()
    if argv is None:
        leave(status)
    return status


def _run(argv: Sequence[str] | None) -> int:
    prepare_streams()
    arguments = build_parser().parse_args(argv)
    prepare_notes()
    end_tidily()
    try:
        module, function = arguments.run.split(":")
        with acknowledging(arguments.command):
            status = getattr(importlib.import_module(module, __package__), function)(arguments)
        sys.stdout.flush()  # a full disk or a reader that left is noticed here, not at exit
        return status
    except PixtralError as error:
        return _fail(arguments.command, error, 1)
    except KeyboardInterrupt:
        return _fail(arguments.command, "interrupted", 130)
    except BrokenPipeError:
        drop_output()  # the reader of our output went away (`| head`), on purpose
        return 1
    except ModuleNotFoundError as error:
        return _fail(arguments.command, explain_missing(error) or error, 1)
    except Exception as error:
        if os.environ.get("PIXTRAL_MLX_DEBUG"):
            raise
        if isinstance(error, ValueError):
            return _fail(arguments.command, error, 2)
        if isinstance(error, OSError):
            drop_output()
            place = f"{error.filename}: " if error.filename else ""
            return _fail(arguments.command, f"{place}{error.strerror or error}", 1)
        from ..model.device import remedy  # brings MLX along

        advice = remedy(str(error)) or "PIXTRAL_MLX_DEBUG=1 shows where"
        return _fail(arguments.command, f"{type(error).__name__}: {error} ({advice})", 1)


def _fail(command: str, error: object, status: int) -> int:
    say(fitted(f"pixtral-mlx {command}: {one_line(str(error))}", sys.stderr), file=sys.stderr)
    return status


def build_parser() -> Parser:
    """The parser of every command."""
    parser = Parser(
        prog="pixtral-mlx",
        description="Ask Pixtral about pictures and documents, on your own machine.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"pixtral-mlx {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_convert(commands)
    _add_generate(commands)
    _add_batch(commands)
    add_extract(commands)
    _add_explain(commands)
    _add_lab(commands)
    _add_live(commands)
    _add_chat(commands)
    _add_serve(commands)
    _add_models(commands)
    _add_inspect(commands)
    add_tune(commands)
    add_fuse(commands)
    add_bench(commands)
    add_doctor(commands)
    return parser


def _add_demo(commands) -> None:
    demo = commands.add_parser(
        "demo", help="try it without a download: convert pixtral-mini, ask it, draw where it looked"
    )
    demo.add_argument(
        "--keep", type=file_name, metavar="DIR", help="keep the converted model in this new folder"
    )
    where = "a new file for the picture of where it looked (default: demo.png, demo-2.png ...)"
    demo.add_argument("-o", "--output", type=file_name, metavar="PNG", help=where)
    demo.set_defaults(run=".demo:run")


def _add_convert(commands) -> None:
    commands.add_parser(
        "convert",
        help="quantize a checkpoint into a new MLX folder",
        description="Quantize a checkpoint (official, HF or MLX layout) into a new MLX folder, a "
        "slice at a time, so that memory does not grow with the model.",
        fill=_fill_convert,
    )


def _fill_convert(convert) -> None:
    from ..quantization.options import ConversionOptions
    from .flags import add_options

    convert.add_argument("src", type=file_name, metavar="SRC", help="a folder or a hub id")
    convert.add_argument("dst", type=file_name, metavar="DST", help="the new folder")
    add_options(convert, ConversionOptions)
    convert.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    convert.set_defaults(run=".convert:run")


def _add_generate(commands) -> None:
    commands.add_parser(
        "generate",
        help="answer one question about pictures and PDFs",
        description="Answer one question: pixtral-mlx generate photo.jpg 'What is this?'",
        usage="%(prog)s [OPTIONS] [FILE ...] QUESTION",
        fill=_fill_generate,
        words="words",
        finish=sort_words,
    )


def _fill_generate(generate) -> None:
    add_model(generate, "prompt_lookup_num_tokens")
    add_question(generate)
    add = generate.add_argument
    add("--stats", action="store_true", help="print tokens, seconds and memory to stderr")
    add("--json", action="store_true", help="print one JSON object instead of text")
    add_form(generate)
    add_conversation(generate)
    add_sampling(generate, 256)
    add_image_options(generate)
    generate.set_defaults(run=".generate:run")


def _add_batch(commands) -> None:
    commands.add_parser(
        "batch",
        help="ask one question about many files, a row for each",
        description="Ask one question about each file. If it is interrupted, run it again: it "
        "continues where it stopped.",
        usage="%(prog)s [OPTIONS] -p QUESTION -o OUTPUT FOLDER|FILE [FOLDER|FILE ...]",
        fill=_fill_batch,
        words="files",
    )


def _fill_batch(batch) -> None:
    add_model(batch)
    add = batch.add_argument
    files = "pictures and PDFs, or folders of them (not their subfolders); x.pdf#page=2-5"
    add("files", type=file_name, nargs="+", metavar="FOLDER|FILE", help=files)
    add_prompt(batch, required=True)
    rows = "where a row is added for each file: JSON lines, or CSV if it ends in .csv; - is stdout"
    add("-o", "--output", type=file_name, required=True, metavar="FILE", help=rows)
    add("--per-page", action="store_true", help="a row for each page of a PDF or TIFF")
    add("--overwrite", action="store_true", help="discard the rows already in the file")
    size = "answers written at the same time (default 8)"
    add("--batch-size", type=int, default=8, metavar="N", help=size)
    add_form(batch)
    add_template(batch)
    add_sampling(batch, 256)
    add_image_options(batch)
    batch.set_defaults(run=".batch:run", default_of=batch.get_default)


def _add_explain(commands) -> None:
    commands.add_parser(
        "explain",
        help="answer, and draw where the model looked for each word",
        usage="%(prog)s [OPTIONS] -o OUTPUT FILE [FILE ...] QUESTION",
        fill=_fill_explain,
        words="words",
        finish=sort_words,
    )


def _fill_explain(explain) -> None:
    add_model(explain)
    add_question(explain)
    add = explain.add_argument
    where = "a new file: .png for a picture, .html for a page on which each word can be clicked"
    add("-o", "--output", type=file_name, required=True, metavar="FILE", help=where)
    trace = "also save the trace, in a new .safetensors file"
    add("--save", type=file_name, metavar="FILE", help=trace)
    hide = "for a page: hide the patches that mattered most and measure the effect, a run per token"
    add("--knock-out", action="store_true", help=hide)
    add_sampling(explain, 64)
    add_image_options(explain)
    explain.set_defaults(run=".explain:run")


def _add_lab(commands) -> None:
    lab = commands.add_parser("lab", help="open the course in JupyterLab")
    instead = "print the address instead of opening a browser"
    lab.add_argument("--no-browser", action="store_true", help=instead)
    lab.add_argument(
        "arguments", nargs="*", metavar="ARGUMENT",
        help="for JupyterLab, after --, for example: -- --port 9000",
    )  # fmt: skip
    lab.set_defaults(run=".lab:run")


def _add_live(commands) -> None:
    text = "write a page in which a small model runs, for any browser, without a network"
    live = commands.add_parser("live", help=text)
    add = live.add_argument
    where = "the new page, which ends in .html"
    add("-o", "--output", type=file_name, required=True, metavar="HTML", help=where)
    which = "a model of at most 8 MB, trained, tuned or converted (default: mini)"
    add("-m", "--model", type=file_name, default="mini", metavar="FOLDER", help=which)
    live.set_defaults(run=".live:run")


def _add_chat(commands) -> None:
    commands.add_parser(
        "chat",
        help="hold a conversation; /image FILE adds a picture or a PDF",
        usage="%(prog)s [OPTIONS] [FILE ...]",
        fill=_fill_chat,
        words="words",
        finish=words_are_pictures,
    )


def _fill_chat(chat) -> None:
    add_model(chat, "prompt_lookup_num_tokens")
    first = "pictures and PDFs for the first question, as paths or URLs"
    chat.add_argument("words", nargs="*", type=file_name, metavar="FILE", help=first)
    add_images(chat, "the same by name")
    chat.add_argument("--system", metavar="TEXT", help="system prompt")
    add_conversation(chat)
    add_sampling(chat, 1024)
    add_image_options(chat)
    chat.set_defaults(run=".chat:run")


def _add_serve(commands) -> None:
    commands.add_parser(
        "serve",
        help="answer other programs over HTTP, and people on a page",
        description="Serve the API of OpenAI and Mistral, and a page for people at the address "
        "itself. Each option is an environment variable too: PIXTRAL_MLX_PORT is --port.",
        fill=_fill_serve,
    )


def _fill_serve(serve) -> None:
    from ..server.options import ServerOptions, from_environment
    from .flags import add_options

    add_model_name(serve)
    add_dtype(serve)
    try:
        environment = from_environment(os.environ)
    except ValueError as error:
        serve.error(str(error))
    shown = {name: value for name, value in environment.items() if name != "api_key"}
    add_options(serve, ServerOptions, defaults=shown)
    serve.set_defaults(run=".serve:run", environment=environment)


def _add_models(commands) -> None:
    models = commands.add_parser(
        "models",
        help="list the models on this machine, or choose the default one",
        description="List the models on this machine: converted ones, those in the hub's cache and "
        "LM Studio's. `pixtral-mlx models default MODEL` makes one the default of every command.",
    )
    models.add_argument(
        "action", nargs="?", choices=["default"], metavar="default", help="show or set the default"
    )
    models.add_argument(
        "model", nargs="?", type=file_name, metavar="MODEL", help="a folder, a hub id, or mini"
    )
    models.add_argument("--json", action="store_true", help="print JSON instead of a table")
    models.set_defaults(run=".models:run")


def _add_inspect(commands) -> None:
    commands.add_parser(
        "inspect", help="show what a model holds, or what becomes of a picture", fill=_fill_inspect
    )


def _fill_inspect(inspect) -> None:
    from ..inputs.image_options import ImageOptions
    from .flags import add_options

    check = "for a model: read every weight, look for NaN, and measure activations on one picture"
    add = inspect.add_argument
    what = "a model folder, a hub id or mini; or a picture or PDF: a path, a URL, or - (stdin)"
    add("what", type=file_name, metavar="MODEL|FILE", help=what)
    grid = "for a picture: draw its patch grid into a new file"
    add("-o", "--output", type=file_name, metavar="PNG", help=grid)
    add_options(inspect, ImageOptions, "image_budget")
    add_pdf_password(inspect)
    add("--check", action="store_true", help=check)
    add("--json", action="store_true", help="print one JSON object instead of a table")
    inspect.set_defaults(run=".inspect:run")
