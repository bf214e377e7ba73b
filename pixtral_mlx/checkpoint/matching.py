"""What a model needs, matched with what a folder stores: exactly, or with names and numbers."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError
from ..model.config import PixtralConfig
from . import layouts
from .diagnosis import some
from .layouts import Source, Transform
from .safetensors_io import TensorInfo
from .scheme import AFFINE_BITS, AFFINE_GROUPS, DEFAULT_GROUP, FLOAT_MODES, MODES, Scheme

FLOATS = ("BF16", "F16", "F32")
"""Types that an unquantized tensor may have."""

FP8 = "F8_E4M3"
"""The type of Mistral's own quantized weights, with one scale a tensor."""
_SCALES = (".qscale_weight", ".weight_scale_inv")
"""How the official layout and transformers call that scale; both multiply the weight by it."""

# Computed tables that some releases of transformers saved beside the weights, and scales of
# activations, which are not rounded here.
_HARMLESS = ("inv_freq", "position_ids", ".qscale_act", ".activation_scale")


class TensorRef(NamedTuple):
    """Where one of our parameters is stored.

    Arguments:
        file: the safetensors file.
        shape, dtype: as stored (their shape; safetensors' name of the type).
        theirs: the name in the file.
        transform: how the stored array becomes ours; on rows for scales and biases too.
        start, stop: bytes of the data in the file.
        scale: of an FP8 weight, the number that it is to be multiplied by.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    theirs: str
    transform: Transform
    start: int
    stop: int
    scale: "TensorRef | None" = None

    @property
    def nbytes(self) -> int:
        """Bytes of data on disk."""
        return self.stop - self.start


def read_quantization(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `quantization` entry of `config.json`; None where weights are as they are, or FP8 with a
    scale a tensor, which their types say.

    Raises:
        CheckpointError: another tool's format; the line names it.
    """
    found = settings.get("quantization") or settings.get("quantization_config")
    if not found:
        return None
    if isinstance(found, dict) and found.get("quant_method") == "fp8":
        if found.get("weight_block_size"):
            raise CheckpointError(
                f"{folder / 'config.json'}: FP8 weights with a scale for each block of "
                f"{found['weight_block_size']} are not read; allowed: one scale a tensor"
            )
        return None
    known = isinstance(found, dict) and ("group_size" in found or "bits" in found)
    if not known or found.get("quant_method") is not None:
        method = found.get("quant_method") if isinstance(found, dict) else found
        raise CheckpointError(
            f"{folder / 'config.json'}: quantization {method!r} is not known; allowed: MLX's"
            f" ({', '.join(MODES)}) with group_size and bits, convert from the unquantized model"
        )
    return found


def match_schemes(
    folder: Path,
    quantization: dict[str, Any] | None,
    config: PixtralConfig,
    table: dict[str, Source],
    stored: Collection[str],
) -> dict[str, Scheme]:
    """{our module path: Scheme}. As in mlx-vlm, a module is quantized if its scales are stored;
    an override only says how, or that it must be (a dict), or must not be (false).

    Raises:
        CheckpointError: bits, a group or a mode that MLX does not have.
    """
    if quantization is None:
        return {}
    where = folder / "config.json"
    general = _scheme(where, "quantization", quantization)
    aliases = layouts.module_aliases(config)
    overrides = {aliases[k]: v for k, v in quantization.items() if k in aliases}
    found = {}
    for name, source in table.items():
        module = layouts.module_of(name)
        override = overrides.get(module)
        if not name.endswith(".weight") or override is False:
            continue
        if isinstance(override, dict):
            found[module] = _scheme(where, module, override)
        elif layouts.companion(source.theirs, "scales") in stored:
            found[module] = general
    return found


def _scheme(where: Path, name: str, entry: Mapping[str, Any]) -> Scheme:
    """One checked entry of the `quantization` in `config.json`; MLX's defaults fill up what is not
    there, or null: mlx-lm writes a group size of null into the overrides of mixed recipes."""
    mode = entry.get("mode") or "affine"
    if mode not in MODES:
        raise CheckpointError(f"{where}: {name} has mode {mode!r}; allowed: {', '.join(MODES)}")
    default_bits, default_group = FLOAT_MODES.get(mode, (4, DEFAULT_GROUP))
    bits, group = entry.get("bits"), entry.get("group_size")
    bits = default_bits if bits is None else bits
    group = default_group if group is None else group
    if mode == "affine":
        good = bits in AFFINE_BITS and group in AFFINE_GROUPS
        allowed = f"bits {_any_of(AFFINE_BITS)} in groups of {_any_of(AFFINE_GROUPS)}"
    else:
        good = (bits, group) == (default_bits, default_group)
        allowed = f"bits {default_bits} in groups of {default_group}"
    if not good:
        raise CheckpointError(
            f"{where}: {name} has bits {bits!r} in groups of {group!r}; {mode} allows {allowed}"
        )
    return Scheme(int(bits), int(group), mode)


def _any_of(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}"


class _Wanted(NamedTuple):
    """A tensor that must be stored: our shape of it, and the types it may have."""

    theirs: str
    transform: Transform
    shape: tuple[int, ...]
    dtypes: tuple[str, ...]


def match_tensors(
    folder: Path,
    config: PixtralConfig,
    table: dict[str, Source],
    schemes: dict[str, Scheme],
    stored: Mapping[str, tuple[Path, TensorInfo]],
) -> dict[str, TensorRef]:
    """Match what the model needs with what is stored, exactly.

    Raises:
        CheckpointError: tensors are missing, unknown, or of another shape or type.
    """
    wanted = _wanted(folder, config, table, schemes)
    scales = {want.theirs: _scale_name(want.theirs, stored) for want in wanted.values()}
    names = [*scales, *filter(None, scales.values())]
    missing = [name for name in names if name not in stored]
    known = set(names)
    extra = [n for n in stored if n not in known and not n.endswith(_HARMLESS)]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(names)} tensors missing ({some(missing)})")
    if extra:
        problems.append(f"{_count(extra)} not in a model of this configuration ({some(extra)})")
    refs, wrong = {}, []
    for name, want in wanted.items():
        if want.theirs in stored:
            file, info = stored[want.theirs]
            transform = _fitting(want, info)
            if transform is None:
                wrong.append(_misfit(want, info))
            else:
                place = (want.theirs, transform, info.start, info.stop)
                scale = _scale(scales[want.theirs], stored) if info.dtype == FP8 else None
                refs[name] = TensorRef(file, info.shape, info.dtype, *place, scale)
    if wrong:
        problems.append(f"{_count(wrong)} of another shape or type ({some(wrong)})")
    if problems:
        raise CheckpointError(
            f"{folder}: {'; '.join(problems)}; the weights and the configuration do not belong"
            " together, or the download is incomplete"
        )
    return refs


def _scale_name(theirs: str, stored: Mapping[str, tuple[Path, TensorInfo]]) -> str:
    """The name of the scale of a weight, if it is stored in FP8; else ""."""
    if theirs not in stored or stored[theirs][1].dtype != FP8:
        return ""
    names = [layouts.module_of(theirs) + ending for ending in _SCALES]
    return next((name for name in names if name in stored), names[0])


def _scale(name: str, stored: Mapping[str, tuple[Path, TensorInfo]]) -> TensorRef | None:
    """Where that scale is; None, which the caller reports, if it is nowhere."""
    if name not in stored:
        return None
    file, info = stored[name]
    if info.dtype not in FLOATS or info.shape not in ((), (1,)):
        raise CheckpointError(
            f"{file}: {name}: {info.dtype} {list(info.shape)}, not one number; FP8 weights with"
            " more than one scale a tensor are not read"
        )
    return TensorRef(file, info.shape, info.dtype, name, Transform("copy"), info.start, info.stop)


def _count(items: list[str]) -> str:
    return f"{len(items)} tensor{'s' if len(items) > 1 else ''}"


def _wanted(
    folder: Path, config: PixtralConfig, table: dict[str, Source], schemes: dict[str, Scheme]
) -> dict[str, _Wanted]:
    """{our parameter name: _Wanted}, with scales and biases for quantized modules."""
    found = {}
    for name, shape in layouts.shapes(config).items():
        theirs, transform = table[name]
        scheme = schemes.get(layouts.module_of(name)) if name.endswith(".weight") else None
        if scheme is None:
            matrix = len(shape) == 2 and name.endswith(".weight")
            found[name] = _Wanted(theirs, transform, shape, (*FLOATS, FP8) if matrix else FLOATS)
            continue
        if len(shape) != 2 or shape[1] % scheme.group_size:
            raise CheckpointError(
                f"{folder}: {theirs} of shape {shape} cannot be quantized in groups of"
                f" {scheme.group_size}; correct the quantization in config.json"
            )
        groups = (shape[0], shape[1] // scheme.group_size)
        packed = (shape[0], shape[1] * scheme.bits // 32)
        affine = scheme.mode == "affine"
        parts = {"weight": (packed, ("U32",)), "scales": (groups, FLOATS if affine else ("U8",))}
        if affine:
            parts["biases"] = (groups, FLOATS)
        for part, (part_shape, dtypes) in parts.items():
            stored_as = layouts.companion(theirs, part)
            want = _Wanted(stored_as, transform, part_shape, dtypes)
            found[layouts.companion(name, part)] = want
    return found


def _fitting(want: _Wanted, info: TensorInfo) -> Transform | None:
    """The transform for what is stored: the table's, or for a convolution that some tool wrote in
    the other order, the other one; None if nothing fits."""
    if info.dtype not in want.dtypes:
        return None
    choices = [want.transform]
    if len(want.shape) == 4:
        choices += [Transform("conv"), Transform("copy")]
    fitting = (choice for choice in choices if choice.stored_shape(want.shape) == info.shape)
    return next(fitting, None)


def _misfit(want: _Wanted, info: TensorInfo) -> str:
    allowed = " or ".join(kind for kind in want.dtypes if kind != FP8)
    shape = want.transform.stored_shape(want.shape)
    return f"{want.theirs}: {info.dtype} {list(info.shape)}, not {allowed} {list(shape)}"
