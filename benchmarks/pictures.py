"""From a file to a prompt: photos beside mistral-common and mlx-vlm, and pages of PDFs.

    python benchmarks/pictures.py --peer-python PYTHON_WITH_MLX_VLM [--before CHECKOUT]

A JPEG of 12 megapixels and one of 1024 x 768, noise on soft colours; a PDF of 8 pages of text and
one of 8 scans at 200 dots an inch, which only this project reads. Each side is a process of its
own; they take turns and get each file with another comment in it, so that nobody has seen it
before; "again" is the same file once more, as the next question of a conversation sends it. The
clock runs from the name of the file to tokens and pixels: `model.encode` here,
`encode_chat_completion` of mistral-common, `apply_chat_template` and `prepare_inputs` of mlx-vlm.
`--before` adds another checkout of this project.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import Answering

QUESTION = "What is this?"
PAGES = 8
TINY = {"dim": 64, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "head_dim": 64, "hidden_dim": 64}
TINY_VISION = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 64,
}  # fmt: skip


def main() -> None:
    """Measure in turn and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--peer-python", metavar="PYTHON", help="a Python that has mlx-vlm 0.7")
    parser.add_argument("--before", metavar="CHECKOUT", help="another version, to compare with")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # side, folder: a child
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(*arguments.serve)
    with tempfile.TemporaryDirectory(prefix="pictures-") as place:
        write_model(Path(place))
        sides = started(arguments, place)
        files = {
            "JPEG, 4032 x 3024": photo(4032, 3024),
            "JPEG, 1024 x 768": photo(1024, 768),
            "text page": text_pdf(),
            "scanned page": scan_pdf(),
        }
        for name, data in files.items():
            pages = PAGES if "page" in name else None
            asked = {n: side for n, side in sides.items() if pages is None or "pixtral" in n}
            rounds = arguments.rounds if pages is None else -(-arguments.rounds // 3)
            runs, again = measured(Path(place), data, asked, rounds)
            report(name, runs, pages)
            report(f"{name}, again", again, pages)
        for side in sides.values():
            side.end()


def started(arguments: argparse.Namespace, place: str) -> dict[str, Answering]:
    """All sides, each with its version printed."""
    own = str(Path(__file__).resolve().parent.parent)
    sides = {"pixtral-mlx": (sys.executable, own)}
    if arguments.before:
        sides["pixtral-mlx before"] = (sys.executable, str(Path(arguments.before).resolve()))
    sides["mistral-common"] = (sys.executable, "")
    if arguments.peer_python:
        sides["mlx-vlm"] = (arguments.peer_python, "")
    return {
        name: Answering([python, __file__, "--serve", name, place], {"PYTHONPATH": path})
        for name, (python, path) in sides.items()
    }


def measured(
    place: Path, data: bytes, sides: dict[str, Answering], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each side, of new files and of the same again; the first round only warms up."""
    runs: dict[str, list[float]] = {name: [] for name in sides}
    again: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        order = list(sides) if number % 2 else list(reversed(sides))
        for name in order:
            file = place / f"{number} {name}{'.pdf' if data.startswith(b'%PDF') else '.jpg'}"
            file.write_bytes(with_comment(data, file.stem))
            seconds = [float(sides[name].ask(str(file))) for _ in range(2)]
            file.unlink()
            if number:
                runs[name].append(seconds[0])
                again[name].append(seconds[1])
    return runs, again


def report(what: str, runs: dict[str, list[float]], pages: int | None) -> None:
    """One line each."""
    for name, seconds in runs.items():
        middle = statistics.median(seconds)
        if pages:
            said = f"{pages / middle:.1f} pages per second"
            said += f" ({pages / max(seconds):.1f} to {pages / min(seconds):.1f})"
        else:
            low, high = min(seconds), max(seconds)
            said = f"{middle * 1e3:.1f} ms ({low * 1e3:.1f} to {high * 1e3:.1f})"
        print(f"| {what} | {name} | {said} |", flush=True)


def write_model(place: Path) -> None:
    """Folders of tiny random models with Pixtral 12B's tokenizer and sizes of pictures, as Mistral
    and as Hugging Face lay them out."""
    from random_checkpoint import smaller, write_checkpoint

    import pixtral_mlx as px

    write_checkpoint(place / "official", smaller(TINY, TINY_VISION))
    px.convert(place / "official", place / "hf", bits=16)


def photo(width: int, height: int) -> bytes:
    """A JPEG that is neither smooth nor noise alone."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    soft = random.integers(0, 256, (height // 32, width // 32, 3), np.uint8)
    soft = Image.fromarray(soft).resize((width, height), Image.Resampling.BICUBIC)
    noise = random.integers(-6, 7, (height, width, 1), np.int16)
    found = np.clip(np.asarray(soft) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(found).save(file, "JPEG", quality=90)
    return file.getvalue()


def scan_pdf() -> bytes:
    """Pages of A4, each a picture."""
    from PIL import Image

    page = Image.open(io.BytesIO(photo(1654, 2339)))
    file = io.BytesIO()
    page.save(file, "PDF", save_all=True, append_images=[page] * (PAGES - 1), resolution=200)
    return file.getvalue()


def text_pdf() -> bytes:
    """Pages of 55 lines of Helvetica, written by hand."""
    sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
    from pdfs import joined, stream

    words = Path(__file__).with_name("prose.txt").read_text().split()
    objects = [b"<</Type/Catalog/Pages 2 0 R>>"]
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(PAGES))
    objects.append(f"<</Type/Pages/Count {PAGES}/Kids[{kids}]>>".encode())
    objects.append(b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>")
    for n in range(PAGES):
        lines = [" ".join(words[(n * 97 + 13 * k + i) % len(words)] for i in range(13))
                 for k in range(55)]  # fmt: skip
        text = "".join(f"({''.join(c for c in line if c.isalnum() or c == ' ')})'\n"
                       for line in lines)  # fmt: skip
        drawn = f"BT /F 10 Tf 50 800 Td 13.5 TL {text}ET".encode("latin-1", "replace")
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents {5 + 2 * n} 0 R"
            "/Resources<</Font<</F 3 0 R>>>>>>".encode()
        )
        objects.append(stream(b"", drawn))
    return joined(objects)


def with_comment(data: bytes, text: str) -> bytes:
    """The same file with something in it that nobody looks at."""
    if data.startswith(b"%PDF"):
        return data + f"\n%{text}\n%%EOF".encode()
    said = text.encode()
    return data[:2] + b"\xff\xfe" + (len(said) + 2).to_bytes(2, "big") + said + data[2:]


def serve(name: str, place: str) -> None:
    """In a child: prepare each file that is named, and answer with the seconds."""
    makers = {"mistral-common": mistral_common, "mlx-vlm": vlm}
    version, prepare = makers.get(name, ours)(Path(place))
    print(f"{name}: {version}", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        prepare(line.strip())
        print(json.dumps(time.perf_counter() - start), flush=True)


def ours(place: Path) -> tuple[str, Callable[[str], Any]]:
    """This project, of whichever checkout."""
    import pixtral_mlx

    model = pixtral_mlx.load(place / "official")
    model.encode(QUESTION)
    version = f"{pixtral_mlx.__version__} in {Path(pixtral_mlx.__file__).parent.parent}"
    return version, lambda file: model.encode(QUESTION, images=[file])


def mistral_common(place: Path) -> tuple[str, Callable[[str], Any]]:
    """The reference, with OpenCV."""
    from importlib.metadata import version

    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    tokenizer = MistralTokenizer.from_file(str(place / "official" / "tekken.json"))

    def prepare(file: str) -> Any:
        parts = [
            {"type": "image_url", "image_url": f"file://{file}"},
            {"type": "text", "text": QUESTION},
        ]
        request = {"messages": [{"role": "user", "content": parts}]}
        return tokenizer.encode_chat_completion(ChatCompletionRequest.model_validate(request))

    return version("mistral-common"), prepare


def vlm(place: Path) -> tuple[str, Callable[[str], Any]]:
    """mlx-vlm, as its `generate` begins."""
    from importlib.metadata import version

    import mlx.core as mx
    import mlx_vlm
    from mlx_vlm.prompt_utils import apply_chat_template
    from mlx_vlm.utils import prepare_inputs

    model, processor = mlx_vlm.load(str(place / "hf"), lazy=True)

    def prepare(file: str) -> Any:
        text = apply_chat_template(processor, model.config, QUESTION, num_images=1)
        inputs = prepare_inputs(processor, images=[file], prompts=text)
        mx.eval([value for value in inputs.values() if isinstance(value, mx.array)])
        return inputs

    return version("mlx-vlm"), prepare


if __name__ == "__main__":
    main()
