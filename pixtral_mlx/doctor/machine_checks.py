"""What `pixtral-mlx doctor` looks at on this machine, each a small function that gives a record."""

import importlib
import platform
import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..cost.cost import decode_bytes, step_weight_bytes
from ..cost.machine import GPU_JOB_SECONDS, copy_speed, machine, machine_bandwidth
from ..cost.pace import FEWEST_TOKENS, STEP_SECONDS
from ..engine.capacity import Need, usable_bytes
from ..errors import how_to_install
from ..model.config import PIXTRAL_12B, PIXTRAL_12B_VISION
from ..model.device import on_gpu
from ..model.prompt import patch_grid
from ..quantization.options import ConversionOptions
from ..quantization.plan import plan_for
from ..tables import format_bytes, format_memory
from .check import FAIL, OK, SKIPPED, WARN, Check, attempt
from .kernels import CHUNK, LONG, Case

PACKAGES = (
    "pixtral-mlx", "mlx", "mlx-lm", "mistral-common", "huggingface_hub", "numpy", "pillow",
    "transformers",
)  # fmt: skip
LAB = ("jupyterlab", "anywidget", "ipywidgets")
WIDTHS = (3, 4, 5, 6, 8, 16)
OLDEST_MACOS = 14


def check_machine() -> Check:
    """Chip, memory, system, and whether MLX computes on the GPU of a Mac."""
    found, mac = machine(), platform.mac_ver()[0]
    text = (
        f"{found.chip} ({found.device}), {found.cores} cores, "
        f"{format_memory(found.memory_bytes)}, {found.system} {found.architecture}, "
        f"Python {found.python}"
    )
    advice = ""
    if mac and int(mac.split(".")[0]) < OLDEST_MACOS:
        advice = f"MLX needs macOS {OLDEST_MACOS} or newer"
    elif mac and found.architecture != "arm64":
        advice = "use a Python for Apple silicon: this one runs under Rosetta or on an Intel Mac"
    elif mac and found.device != "GPU":
        advice = "MLX finds no GPU: a virtual machine? Everything takes far longer"
    return Check("machine", WARN if advice else OK, text, advice, found.facts())


def check_versions() -> Check:
    """Of the packages that an answer depends on."""
    found = {name: _version(name) for name in PACKAGES}
    missing = [name for name, number in found.items() if number is None]
    text = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    if missing:
        return Check("versions", FAIL, text, f"install {', '.join(missing)}", {"versions": found})
    return Check("versions", OK, text, "", {"versions": found})


def check_memory() -> Check:
    """Which widths of the 12B fit, with one picture of 1024 x 1024 and 1,000 tokens of text."""
    usable, image = usable_bytes(), patch_grid(1024, 1024, PIXTRAL_12B_VISION).tokens
    weights = {bits: plan_for(PIXTRAL_12B, ConversionOptions(bits=bits)).nbytes for bits in WIDTHS}
    needs = {bits: Need(PIXTRAL_12B, size, 1000, (image,)) for bits, size in weights.items()}
    fitting = [bits for bits, need in needs.items() if need.advised <= usable]
    facts = {
        "usable_bytes": usable,
        "needed_bytes": {str(bits): need.advised for bits, need in needs.items()},
    }
    whose = "Metal allows" if on_gpu() else "MLX may use"
    allowed = format_memory(usable, machine().memory_bytes)
    if not fitting:
        text = f"{whose} {allowed}: too little for any width of the 12B"
        return Check("memory", WARN, text, "it takes a machine with more memory", facts)
    widths = ", ".join(map(str, fitting))
    text = f"{whose} {allowed}: room for the 12B in {widths} bits and one full picture"
    return Check("memory", OK, text, "", facts)


def check_precision() -> Check:
    """How exactly float32 matrices are multiplied."""
    found = machine()
    text = f"float32 products in {found.float32_products} (error {found.float32_error:.1e})"
    facts = {"float32_products": found.float32_products, "float32_error": found.float32_error}
    if found.float32_products == "float32":
        return Check("precision", OK, text, "", facts)
    advice = "MLX_ENABLE_TF32=0 before Python starts makes them exact, and slower"
    return Check("precision", WARN, text, advice, facts)


def check_bandwidth() -> Check:
    """Of the memory, and the tokens a second that it allows the 12B in 4 bits."""
    known, copied = machine_bandwidth(), copy_speed()
    step = decode_bytes(_step_bytes(4), PIXTRAL_12B.text, LONG)
    bound = known.gigabytes_per_second * 1e9 / step
    facts = {
        "gigabytes_per_second": known.gigabytes_per_second,
        "kind": known.kind,
        "copied_gigabytes_per_second": copied,
        "decode_step_bytes": step,
        "bound_tokens_per_second": bound,
    }
    published = f"{known.gigabytes_per_second:.4g} GB/s published, " * (known.kind == "published")
    text = (
        f"{published}{copied:.4g} GB/s measured by copying; it bounds the 12B in 4 bits to "
        f"{bound:.1f} tokens/s at {LONG:,} tokens of context"
    )
    return Check("bandwidth", OK, text, "", facts)


def check_steps(found: Iterable[Check]) -> Check:
    """One prompt step through all layers against the time after which macOS ends a GPU job.

    Arguments:
        found: with those of the layers among them.
    """
    case = str(Case("text", mx.bfloat16, CHUNK, LONG - CHUNK))
    layers = [layer for check in found for layer in check.facts.get("layers", ())]
    measured = next((layer["seconds"] for layer in layers if layer["name"] == case), None)
    if measured is None:
        what = (
            "the layer was not measured" if on_gpu() else "no GPU, so no job that macOS might end"
        )
        return Check("prompt steps", SKIPPED, what)
    seconds = PIXTRAL_12B.text.n_layers * measured
    size = CHUNK
    while seconds * size / CHUNK > STEP_SECONDS and size >= 2 * FEWEST_TOKENS:
        size //= 2
    text = (
        f"a step of {CHUNK} tokens takes {seconds:.2f} s ({PIXTRAL_12B.text.n_layers} times one "
        f"layer); macOS may end a GPU job after {GPU_JOB_SECONDS:g} s, and sooner with the display "
        "on"
    )
    facts = {
        "layer_seconds": measured,
        "step_seconds": seconds,
        "limit_seconds": GPU_JOB_SECONDS,
        "prefill_step_size": size,
    }
    if size == CHUNK:
        return Check("prompt steps", OK, text, "", facts)
    return Check("prompt steps", WARN, text, f"--prefill-step-size {size}", facts)


def check_tools() -> Iterator[Check]:
    """What pictures and notebooks need beside the model: fonts, a browser, JupyterLab, readers."""
    yield from attempt("fonts", _check_fonts)
    yield from attempt("browser", _check_browser)
    yield from attempt("JupyterLab", _check_lab)
    yield from attempt("files", _check_files)


def _check_fonts() -> Check:
    from PIL import ImageFont, features

    if not features.check("freetype2"):
        text = "Pillow has no FreeType: words in pictures are tiny"
        return Check("fonts", WARN, text, "install Pillow from its wheel")
    font: Any = ImageFont.load_default(18)  # what `picture` draws with
    name = " ".join(font.getname())
    number = features.version("freetype2")
    return Check("fonts", OK, f"{name}, which Pillow brings, FreeType {number}", "", {"font": name})


def _check_browser() -> Check:
    """As the widgets look for one, who are looked up by name: they stand above this package."""
    try:
        page = importlib.import_module("pixtral_mlx_widgets.page")
    except ImportError as error:
        return Check("browser", SKIPPED, f"the widgets cannot be imported: no {error.name}")
    found = page.find_browser()
    if found is None:
        text = "none found: pictures of widgets come from a notebook only"
        return Check("browser", WARN, text, "install Chrome, or name one in PIXTRAL_BROWSER")
    name = Path(found).name
    return Check("browser", OK, f"{name} draws pictures of widgets", "", {"browser": name})


def _check_lab() -> Check:
    found = {name: _version(name) for name in LAB}
    text = ", ".join(f"{name} {number or 'missing'}" for name, number in found.items())
    if all(found.values()):
        return Check("JupyterLab", OK, text, "", {"versions": found})
    advice = f"for the course and the widgets: {how_to_install('lab')}"
    return Check("JupyterLab", WARN, text, advice, {"versions": found})


def _check_files() -> Check:
    readers = {"HEIC": "pillow_heif", "PDF": "pypdfium2"}  # each an extra of its name
    found = {kind: _version(name) for kind, name in readers.items()}
    text = ", ".join(
        f"{kind} by {readers[kind]} {number}" if number else f"no {kind}"
        for kind, number in found.items()
    )
    missing = ",".join(kind.lower() for kind in readers if not found[kind])
    advice = f"to read them: {how_to_install(missing)}" if missing else ""
    return Check("files", WARN if missing else OK, text, advice, {"readers": found})


def check_disk(needed: int) -> Check:
    """Room where the hub's files would lie.

    Arguments:
        needed: bytes of a download and of what a conversion keeps.
    """
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE).expanduser()
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    text = f"{format_bytes(free)} free for the hub's cache; the 12B takes {format_bytes(needed)}"
    facts = {"free_bytes": free, "needed_bytes": needed}
    if free >= needed:
        return Check("disk", OK, text, "", facts)
    advice = "free some space, or set HF_HOME to another disk; what is there already counts"
    return Check("disk", WARN, text, advice, facts)


def download_bytes(bits: int = 4) -> int:
    """What the official 12B takes, and its conversion beside it."""
    return sum(plan_for(PIXTRAL_12B, ConversionOptions(bits=each)).nbytes for each in (16, bits))


def check_mini() -> Check:
    """The whole way from pixels to words, on the model that travels with the package."""
    from ..mini.demo_scene import demo_scene
    from ..pixtral import load

    model, (_, questions) = load("mini"), demo_scene()
    wrong = [
        question.kind
        for question in questions
        if model.generate(question.text, images=question.images).text != question.answer
    ]
    text = f"pixtral-mini answers {len(questions) - len(wrong)} of {len(questions)} questions right"
    facts = {"asked": [question.kind for question in questions], "wrong": wrong}
    if wrong:
        return Check("mini", FAIL, text, f"wrong: {', '.join(wrong)}; report it", facts)
    return Check("mini", OK, text, "", facts)


def _step_bytes(bits: int) -> int:
    """Of weights, a decode step of the 12B converted with `--bits`."""
    plan = plan_for(PIXTRAL_12B, ConversionOptions(bits=bits))
    return step_weight_bytes({tensor.name: tensor.nbytes for tensor in plan.tensors})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
