"""Folders of adapters, read and written.

One is written as mlx-lm writes it (`adapters.safetensors`, `adapter_config.json`), in the names
and the row order of MLX folders, so that mlx-lm and mlx-vlm open it on a folder that `convert`
wrote; or as PEFT writes it (`adapter_model.safetensors`). Both are read, whoever wrote them, and
everything is checked before it is used: names, shapes, ranks, numbers.

The product of the two matrices stands beside a weight, so its rows are those of the weight: where
a layout has the rows of a query or key matrix in another order (`layouts`), the columns of `b` and
the magnitudes are in that order too. `a` belongs to the inputs, which no layout moves.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from math import sqrt
from os import PathLike
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checks import number, whole
from ..errors import CheckpointError, ConfigError
from ..files import new_folder, open_file, read_file
from ..model.config import PixtralConfig
from ..model.threads import for_any_thread, shared_stream
from . import layouts
from .adapter import Adapter, LowRank, adapter_folder
from .arrays import load_arrays, save_arrays
from .diagnosis import some
from .hf_config import MOST_BYTES, read_json
from .layouts import Transform
from .matching import FLOATS
from .safetensors_io import TensorInfo, read_header

WEIGHTS, PEFT_WEIGHTS, SETTINGS = (
    "adapters.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
)
PICKLES = ("adapter_model.bin", "adapters.npz")
"""What adapters were kept in before; not read."""

_PEFT = "base_model.model."
_ENDINGS = {
    ".lora_a": "a", ".lora_b": "b", ".m": "m", ".lora_A.weight": "a", ".lora_B.weight": "b",
    ".lora_magnitude_vector": "m", ".lora_magnitude_vector.weight": "m",
}  # fmt: skip
"""How the names of tensors end, mlx-lm's and then PEFT's, and what they are."""


def open_adapter(
    model: str | PathLike[str], adapter: str | PathLike[str], config: PixtralConfig
) -> Adapter:
    """Read an adapter and check that it fits a model.

    Arguments:
        model: what `px.load` was given; "mini" knows adapters by name.
        adapter: a folder of mlx-lm, mlx-vlm or PEFT.
        config: the sizes of the model.

    Raises:
        CheckpointError: something is missing, damaged or pickled, or it belongs to another model.
        ConfigError: `adapter_config.json` cannot be read.
    """
    folder = adapter_folder(model, adapter)
    file = _weights_file(folder)
    scale = _scale(folder / SETTINGS, peft=file.name == PEFT_WEIGHTS)
    infos = read_header(file)
    places = _places(file, infos, config)
    arrays = _arrays(file)
    with for_any_thread():
        matrices = {
            module: LowRank(**{part: _ours(arrays[name], name, part, transform)
                               for part, (name, transform) in parts.items()})
            for module, parts in places.items()
        }  # fmt: skip
        finite = mx.stack([mx.all(mx.isfinite(x)) for x in _leaves(matrices)]).all().item()
    if not finite:
        raise CheckpointError(f"{file}: holds NaN or infinity: this training failed, train again")
    name = hashlib.blake2b(read_file(folder / SETTINGS, MOST_BYTES), digest_size=32)
    with open_file(file) as data:
        while block := data.read(2**20):
            name.update(block)
    return Adapter(matrices, scale, folder.name, name.hexdigest())


def write_adapter(
    folder: Path, adapter: Adapter, config: PixtralConfig, more: Mapping[str, Any] | None = None
) -> None:
    """Write a folder that mlx-lm opens on the text part and mlx-vlm on the whole.

    Arguments:
        folder: must not exist.
        more: further entries of `adapter_config.json`.

    Raises:
        CheckpointError: it exists, or cannot be written.
        CapacityError: the disk is full.
    """
    settings, tensors = mlx_files(adapter, config)
    with new_folder(folder) as hidden:
        save_arrays(hidden / WEIGHTS, tensors, {"format": "mlx"})
        _write_settings(hidden, {**(more or {}), **settings})


def write_peft(folder: Path, adapter: Adapter, config: PixtralConfig, base_model: str = "") -> None:
    """Write a folder that PEFT opens on transformers' model; arguments and errors as above.

    Arguments:
        base_model: what to call the model, for those who open it.
    """
    layout = layouts.HF_LLAVA_V5 if config.vision else layouts.HF_MISTRAL
    tensors, modules = {}, []
    ends = {"a": ".lora_A.weight", "b": ".lora_B.weight", "m": ".lora_magnitude_vector"}
    for module, part, array in _theirs(adapter, config, layout):
        modules.append(module)
        tensors[f"{_PEFT}{module}{ends[part]}"] = mx.contiguous(array.T)
    settings = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base_model or None,
        "inference_mode": True, "r": adapter.rank, "lora_alpha": adapter.scale * adapter.rank,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "modules_to_save": None,
        "use_dora": adapter.kind == "dora", "use_rslora": False,
        "target_modules": list(dict.fromkeys(modules)),
    }  # fmt: skip
    with new_folder(folder) as hidden:
        save_arrays(hidden / PEFT_WEIGHTS, tensors, {"format": "pt"})
        _write_settings(hidden, settings)


def mlx_files(
    adapter: Adapter, config: PixtralConfig
) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """What `adapter_config.json` and `adapters.safetensors` of mlx-lm hold."""
    ends = {"a": "lora_a", "b": "lora_b", "m": "m"}
    tensors, modules = {}, []
    layout = layouts.LAYOUTS[layouts.written_layout(config)]
    for module, part, array in _theirs(adapter, config, layout):
        modules.append(module)
        tensors[f"{module}.{ends[part]}"] = array
    numbers = [int(path.split(".")[2]) for path in adapter.matrices if ".layers." in path]
    settings = {
        "fine_tune_type": adapter.kind,
        "num_layers": config.text.n_layers - min(numbers, default=config.text.n_layers),
        "lora_parameters": {
            "rank": adapter.rank, "scale": adapter.scale, "dropout": 0.0,
            "keys": list(dict.fromkeys(modules)),
        },
    }  # fmt: skip
    return settings, tensors


def _write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / SETTINGS).write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")


# Reading ---------------------------------------------------------------------------------------


def _weights_file(folder: Path) -> Path:
    for name in (WEIGHTS, PEFT_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    if pickled := [name for name in PICKLES if (folder / name).is_file()]:
        raise CheckpointError(
            f"{folder / pickled[0]}: pickles can run code and are not read; save the adapter as "
            "safetensors"
        )
    raise CheckpointError(
        f"{folder}: holds no adapter; give a folder with {WEIGHTS} (or {PEFT_WEIGHTS}) and "
        f"{SETTINGS}"
    )


def _scale(file: Path, *, peft: bool) -> float:
    """What the product is multiplied by, and a refusal of whatever is not LoRA or DoRA."""
    settings = read_json(file)
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{file}: not a JSON object: fetch the file again")
    if not peft:
        kind, parameters = settings.get("fine_tune_type", "lora"), settings.get("lora_parameters")
        if kind not in ("lora", "dora"):
            raise CheckpointError(f"{file}: fine_tune_type is {kind!r}; allowed: lora or dora")
        if not isinstance(parameters, Mapping):
            raise CheckpointError(
                f"{file}: has no lora_parameters, so nobody can say how strong the adapter is; "
                "allowed: folders of mlx-lm, of mlx-vlm's newer versions, or of PEFT"
            )
        return _checked(file, number, "scale", parameters.get("scale"), 0, 1e6, above=True)
    refused = {
        "peft_type": settings.get("peft_type") != "LORA",
        "bias": settings.get("bias", "none") != "none",
        **{
            name: bool(settings.get(name))
            for name in ("modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
        },
    }
    if wrong := [name for name, is_wrong in refused.items() if is_wrong]:
        raise CheckpointError(
            f"{file}: {wrong[0]} is {settings.get(wrong[0])!r}, which is not read; allowed: LoRA "
            "or DoRA of linear layers, with one rank and nothing else trained"
        )
    rank = _checked(file, whole, "r", settings.get("r"), 1)
    alpha = _checked(file, number, "lora_alpha", settings.get("lora_alpha"), 0, 1e6, above=True)
    return alpha / (sqrt(rank) if settings.get("use_rslora") else rank)


def _checked(file: Path, check: Any, name: str, value: Any, *limits: float, **more: Any) -> Any:
    try:
        return check(name, value, *limits, **more)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}: write or fetch it again") from None


def _places(
    file: Path, infos: Mapping[str, TensorInfo], config: PixtralConfig
) -> dict[str, dict[str, tuple[str, Transform]]]:
    """{our module: {"a", "b" or "m": (name in the file, transform of its rows)}}."""
    table, shapes = _modules(config), layouts.shapes(config)
    found: dict[str, dict[str, tuple[str, Transform]]] = {}
    wrong = []
    for name, info in infos.items():
        theirs, part = _split(name)
        if theirs not in table or info.dtype not in FLOATS:
            wrong.append(name)
            continue
        module, transform = table[theirs]
        outputs, inputs = shapes[f"{module}.weight"]
        if not _fits(name, part, info.shape, inputs, outputs):
            wrong.append(f"{name} {list(info.shape)} beside a matrix {[outputs, inputs]}")
        found.setdefault(module, {})[part] = (name, transform)
    if wrong:
        raise CheckpointError(
            f"{file}: {len(wrong)} of {len(infos)} tensors do not fit this model ({some(wrong)}): "
            "the adapter belongs to another model"
        )
    _check_complete(file, found, infos)
    return found


def _check_complete(
    file: Path,
    found: Mapping[str, Mapping[str, tuple[str, Transform]]],
    infos: Mapping[str, TensorInfo],
) -> None:
    """Both matrices of one rank beside each weight, and everywhere or nowhere magnitudes."""
    kinds = {frozenset(parts) for parts in found.values()}
    whole = kinds in ({frozenset("ab")}, {frozenset("abm")})
    if not whole or sum(map(len, found.values())) != len(infos):
        raise CheckpointError(
            f"{file}: incomplete: beside each matrix an adapter has lora_a and lora_b, and for "
            "DoRA a magnitude; write or fetch it again"
        )
    ranks = {min(infos[parts[part][0]].shape) for parts in found.values() for part in "ab"}
    if len(ranks) > 1:
        raise CheckpointError(
            f"{file}: matrices of ranks {', '.join(map(str, sorted(ranks)))}; allowed: one rank"
        )


def _modules(config: PixtralConfig) -> dict[str, tuple[str, Transform]]:
    """{every name that a linear layer has in some layout: (our path, transform of its rows)}."""
    found: dict[str, tuple[str, Transform]] = {}
    ours = {name for name, shape in layouts.shapes(config).items() if len(shape) == 2}
    for name in ours - {"decoder.tok_embeddings.weight"}:
        found[layouts.module_of(name)] = (layouts.module_of(name), Transform("copy"))
    for layout in layouts.LAYOUTS.values():
        for name, source in layouts.to_ours(layout, config).items():
            theirs = layouts.module_of(source.theirs)
            for alias in (theirs, theirs.removeprefix("language_model.")):
                if layouts.module_of(name) in found:
                    found.setdefault(alias, (layouts.module_of(name), source.transform))
    return found


def _split(name: str) -> tuple[str, str]:
    """The module and the part that a name means; ("", "") if it means none."""
    for ending, part in _ENDINGS.items():
        if name.endswith(ending):
            return name.removesuffix(ending).removeprefix(_PEFT), part
    return "", ""


def _fits(name: str, part: str, shape: tuple[int, ...], inputs: int, outputs: int) -> bool:
    """Whether a tensor may stand beside a matrix; a rank is at most that of the matrix."""
    if part == "m":
        return shape == (outputs,)
    rows, columns = shape if len(shape) == 2 else (0, 0)
    if _is_peft(name):
        rows, columns = columns, rows
    width, rank = (rows, columns) if part == "a" else (columns, rows)
    return width == (inputs if part == "a" else outputs) and 0 < rank <= min(inputs, outputs)


def _is_peft(name: str) -> bool:
    return "lora_A" in name or "lora_B" in name


def _arrays(file: Path) -> dict[str, mx.array]:
    try:
        return load_arrays(file, shared_stream(mx.cpu))[0]
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); fetch it again") from error


def _ours(array: mx.array, name: str, part: str, transform: Transform) -> mx.array:
    """A tensor as `LowRank` has it."""
    if _is_peft(name):
        array = array.T
    return array if part == "a" else _rows(array, transform.to_ours)


def _theirs(
    adapter: Adapter, config: PixtralConfig, layout: layouts.Layout
) -> Iterator[tuple[str, str, mx.array]]:
    """(their module, "a", "b" or "m", array) of every part, in a layout's row order."""
    table = layouts.to_ours(layout, config)
    for path, parts in adapter.matrices.items():
        theirs, transform = table[f"{path}.weight"]
        for part, array in parts._asdict().items():
            if array is not None:
                array = array if part == "a" else _rows(array, transform.from_ours)
                yield layouts.module_of(theirs), part, mx.contiguous(array)


def _rows(array: mx.array, transform: Any) -> mx.array:
    """The columns of `b`, or magnitudes, moved as the rows of the matrix are."""
    columns = array[:, None] if array.ndim == 1 else array.T
    return transform(columns).T.reshape(array.shape)


def _leaves(matrices: Mapping[str, LowRank]) -> list[mx.array]:
    return [array for parts in matrices.values() for array in parts if array is not None]
