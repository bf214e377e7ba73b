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
from ..errors import PixtralError
from .streams import acknowledging, drop_output, end_tidily, prepare_notes, prepare_streams
from .usage import Parser, file_name, one_line

TYPES = ("bfloat16", "float16", "float32", "auto")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Arguments:
        argv: the words after `pixtral-mlx`; those of the process if None.

    Returns:
        The exit status: 0, 1 (it went wrong), 2 (usage) or 130 (Ctrl-C).
    """
    prepare_streams()
    arguments = build_parser().parse_args(argv)
    prepare_notes()
    end_tidily()
    try:
        module, function = arguments.run.split(":")
        with acknowledging():
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
    print(f"pixtral-mlx {command}: {one_line(str(error))}", file=sys.stderr)
    return status


def build_parser() -> Parser:
    """The parser of every command."""
    parser = Parser(
        prog="pixtral-mlx",
        description="Pixtral in MLX: images and text in, text out, on this machine.",
    )
    parser.add_argument("--version", action="version", version=f"pixtral-mlx {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_convert(commands)
    _add_generate(commands)
    _add_batch(commands)
    _add_explain(commands)
    _add_lab(commands)
    _add_chat(commands)
    _add_inspect(commands)
    _add_bench(commands)
    _add_doctor(commands)
    return parser


def _add_demo(commands) -> None:
    demo = commands.add_parser("demo", help="the main job in small: convert, look, answer")
    demo.add_argument(
        "--keep", type=file_name, metavar="DIR", help="keep the converted model in this new folder"
    )
    where = (
        "a new file for the picture of where the model looked (default: demo.png, demo-2.png ...)"
    )
    demo.add_argument("-o", "--output", type=file_name, metavar="PNG", help=where)
    demo.set_defaults(run=".demo:run")


def _add_convert(commands) -> None:
    commands.add_parser(
        "convert",
        help="official, HF or MLX folder in, quantized MLX folder out",
        description="Convert a checkpoint, tensor by tensor; peak memory stays near one slice.",
        fill=_fill_convert,
    )


def _fill_convert(convert) -> None:
    from ..quantization.options import ConversionOptions
    from .flags import add_options

    convert.add_argument("src", type=file_name, metavar="SRC", help="a folder or a hub id")
    convert.add_argument(
        "dst", type=file_name, metavar="DST", help="a folder that does not exist yet"
    )
    add_options(convert, ConversionOptions)
    convert.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")
    convert.set_defaults(run=".convert:run")


def _add_model(parser, *options: str) -> None:
    from ..engine.options import GenerationOptions
    from .flags import add_options

    parser.add_argument(
        "--model",
        type=file_name,
        default="mini",
        metavar="M",
        help="folder, hub id, or mini (default)",
    )
    parser.add_argument(
        "--dtype",
        choices=TYPES,
        metavar="TYPE",
        help="activations: bfloat16, float16, float32, or auto, by the chip (default: as stored)",
    )
    add_options(parser, GenerationOptions, "force", *options)


def _add_sampling(parser, max_tokens: int) -> None:
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


def _add_prompt_cache(parser) -> None:
    text = "keep conversations in this folder, and go on from those that are there"
    parser.add_argument("--prompt-cache", type=file_name, metavar="DIR", help=text)


def _add_image_options(parser) -> None:
    from ..inputs.image_options import ImageOptions
    from .flags import add_options

    add_options(parser.add_argument_group("images"), ImageOptions)


def _add_images(parser, text: str) -> None:
    text += "; x.pdf#page=2-5 chooses pages; several, or repeatable"
    parser.add_argument(
        "--image", type=file_name, nargs="+", action="extend", default=[], metavar="A", help=text
    )


def _add_template(parser) -> None:
    add = parser.add_argument
    add("--system", metavar="TEXT", help="system prompt")
    add("--prefill", metavar="TEXT", help="how the answer begins; what follows it is printed")
    add("--raw", action="store_true", help="no chat template: plain completion, for base models")


def _add_question(parser) -> None:
    _add_images(parser, "image or PDF: path, URL or - (stdin)")
    add = parser.add_argument
    add("--prompt", required=True, metavar="TEXT", help="what to ask; - reads it from stdin")
    _add_template(parser)


def _add_generate(commands) -> None:
    commands.add_parser("generate", help="answer one question about images", fill=_fill_generate)


def _fill_generate(generate) -> None:
    _add_model(generate, "prompt_lookup_num_tokens")
    _add_question(generate)
    add = generate.add_argument
    add("--stats", action="store_true", help="tokens, seconds and memory, on stderr")
    add("--json", action="store_true", help="one JSON object instead of text")
    _add_prompt_cache(generate)
    _add_sampling(generate, 256)
    _add_image_options(generate)
    generate.set_defaults(run=".generate:run")


def _add_batch(commands) -> None:
    commands.add_parser(
        "batch",
        help="one question about many files, a row each",
        description="Answer one question about each file. Run it again after a kill: it goes on.",
        fill=_fill_batch,
    )


def _fill_batch(batch) -> None:
    _add_model(batch)
    add = batch.add_argument
    files = "images and PDFs, or folders of them (without their subfolders); x.pdf#page=2-5"
    add("files", type=file_name, nargs="+", metavar="FOLDER|FILES", help=files)
    add("--prompt", required=True, metavar="TEXT", help="what to ask; - reads it from stdin")
    rows = "a row is added for each file; JSONL, or CSV if it ends in .csv; - is stdout"
    add("-o", "--output", type=file_name, required=True, metavar="FILE", help=rows)
    add("--per-page", action="store_true", help="a row for each page of a PDF, not for each PDF")
    add("--overwrite", action="store_true", help="forget the rows that are in the file")
    add("--batch-size", type=int, default=8, metavar="N", help="answers written at once (8)")
    _add_template(batch)
    _add_sampling(batch, 256)
    _add_image_options(batch)
    batch.set_defaults(run=".batch:run", default_of=batch.get_default)


def _add_explain(commands) -> None:
    commands.add_parser(
        "explain", help="answer, and draw for every word where the model looked", fill=_fill_explain
    )


def _fill_explain(explain) -> None:
    _add_model(explain)
    _add_question(explain)
    add = explain.add_argument
    where = "a new file: .png is a picture, .html a page on which every word can be clicked"
    add("-o", "--output", type=file_name, required=True, metavar="FILE", help=where)
    add(
        "--save",
        type=file_name,
        metavar="FILE",
        help="keep the trace too, in a new .safetensors file",
    )
    hide = "on the page: hide what each word looked at most, and measure; a run for every token"
    add("--knock-out", action="store_true", help=hide)
    _add_sampling(explain, 64)
    _add_image_options(explain)
    explain.set_defaults(run=".explain:run")


def _add_lab(commands) -> None:
    lab = commands.add_parser("lab", help="open JupyterLab on the notebooks of the course")
    lab.add_argument(
        "arguments", nargs="*", metavar="ARGUMENT",
        help="for JupyterLab, after --, for example: -- --no-browser",
    )  # fmt: skip
    lab.set_defaults(run=".lab:run")


def _add_chat(commands) -> None:
    commands.add_parser(
        "chat", help="a conversation; /image FILE adds a picture or a PDF", fill=_fill_chat
    )


def _fill_chat(chat) -> None:
    _add_model(chat, "prompt_lookup_num_tokens")
    _add_images(chat, "image or PDF for the first question: path or URL")
    chat.add_argument("--system", metavar="TEXT", help="system prompt")
    _add_prompt_cache(chat)
    _add_sampling(chat, 1024)
    _add_image_options(chat)
    chat.set_defaults(run=".chat:run")


def _add_inspect(commands) -> None:
    commands.add_parser(
        "inspect", help="what is in a model, or what an image or a PDF becomes", fill=_fill_inspect
    )


def _fill_inspect(inspect) -> None:
    from ..inputs.image_options import ImageOptions
    from .flags import add_options

    check = (
        "read every weight, look for NaN, and show one picture: the largest activation per layer"
    )
    add = inspect.add_argument
    add(
        "what",
        type=file_name,
        metavar="M|IMAGE",
        help="a model folder, a hub id or mini; or an image or PDF: file, URL or -",
    )
    add(
        "-o",
        "--output",
        type=file_name,
        metavar="PNG",
        help="of an image: draw its patch grid into a new file",
    )
    add_options(inspect, ImageOptions, "image_budget")
    add("--check", action="store_true", help=check)
    add("--json", action="store_true", help="one JSON object instead of a table")
    inspect.set_defaults(run=".inspect:run")


def _add_bench(commands) -> None:
    commands.add_parser(
        "bench",
        help="tokens/s, GB/s, time to first token, peak memory",
        description="Measure a model on this machine; prints Markdown, medians of the runs.",
        fill=_fill_bench,
    )


def _fill_bench(bench) -> None:
    _add_model(bench)
    add = bench.add_argument
    random = (
        "instead of --model: random weights in 4 bits, this share of Pixtral 12B's layers (1: all)"
    )
    add("--random", type=float, metavar="SHARE", help=random)
    sizes = "of the pictures (default 512 768 1024); 512 is 512x512"
    add("--image-size", nargs="+", default=["512", "768", "1024"], metavar="WxH", help=sizes)
    add("--prompt-tokens", type=int, default=256, metavar="N", help="of the text prompt (256)")
    add("--max-tokens", type=int, default=32, metavar="N", help="decoded a run (32)")
    add("--runs", type=int, default=3, metavar="N", help="the median is reported (3)")
    bandwidth = "of the memory, if you know it (default: as published, or measured by copying)"
    add("--bandwidth", type=float, metavar="GB/S", help=bandwidth)
    where = "JSON instead of the table, or beside it into a new FILE"
    add("--json", type=file_name, nargs="?", const="-", metavar="FILE", help=where)
    bench.set_defaults(run=".bench:run")


def _add_doctor(commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="is this machine ready for the 12B, and does it compute right: a page to paste",
        description="Look at this machine, without weights in at most three minutes.",
    )
    add = doctor.add_argument
    model = "look at this model too: published answers of the 12B, speed, memory"
    add("--model", type=file_name, metavar="M", help=model)
    add(
        "--pictures",
        type=file_name,
        metavar="DIR",
        help="with the pictures of those answers (default: fetched)",
    )
    add("--dtype", choices=TYPES, metavar="TYPE", help="activations (default: as stored)")
    add("--force", action="store_true", help="go on where memory would not suffice")
    where = "JSON instead of the page, or beside it into a new FILE"
    add("--json", type=file_name, nargs="?", const="-", metavar="FILE", help=where)
    doctor.set_defaults(run=".doctor:run")
