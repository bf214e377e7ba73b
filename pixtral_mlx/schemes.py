"""How weights may be stored: bit widths, groups, modes, named mixtures, and what goes with what."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
DEFAULT_GROUP = 64
KEEP_BITS = 16
"""Asking for this many bits keeps the weights in the plan's dtype."""

FLOAT_MODES = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
"""Modes with one bit width and one group size: mode -> (bits, group). Their scale is one byte."""

MODES = ("affine", *FLOAT_MODES)
DTYPES = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}
"""Types for what is not quantized, and for scales and biases: name -> (safetensors name, bytes)."""


class Recipe(NamedTuple):
    """Two bit widths in one model: `high` where rounding hurts most, `low` elsewhere."""

    low: int
    high: int
    summary: str


RECIPES = {
    f"mixed_{low}_{high}": Recipe(
        low,
        high,
        f"{low} bits; {high} for the head, the projector, and wv and w2 of the first and last "
        "eighth of the layers and of every third layer between",
    )
    for low, high in ((2, 6), (3, 6), (4, 6))
}
"""Named mixtures. The choice of matrices is that of mlx-lm and llama.cpp (`use_more_bits`)."""


class Scheme(NamedTuple):
    """How one matrix is quantized; what `mx.quantize` takes."""

    bits: int
    group_size: int
    mode: str = "affine"

    def entry(self) -> dict[str, Any]:
        """The scheme as `config.json` spells it."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def __str__(self) -> str:
        kind = f"{self.bits} bits" if self.mode == "affine" else self.mode
        return f"{kind}, groups of {self.group_size}"


@dataclass(frozen=True)
class Options:
    """What was asked for, checked. `None` for a scheme: that part stays in `dtype`.

    Arguments:
        text, vision, projector, embedding, head: the scheme of each part.
        dtype: a key of `DTYPES`.
        recipe: a key of `RECIPES`, or None; it decides inside `text`.
    """

    text: Scheme | None
    vision: Scheme | None
    projector: Scheme | None
    embedding: Scheme | None
    head: Scheme | None
    dtype: str = "bfloat16"
    recipe: str | None = None


def check_options(
    *,
    bits: int | None = None,
    group_size: int | None = None,
    mode: str = "affine",
    vision_bits: int | None = None,
    projector_bits: int | None = None,
    embed_bits: int | None = None,
    head_bits: int | None = None,
    dtype: str = "bfloat16",
    recipe: str | None = None,
) -> Options:
    """Turn the options of a conversion into one scheme for each part.

    Arguments:
        bits: of the decoder's matrices: 2, 3, 4, 5, 6, 8, or 16 to keep them in `dtype`.
            Default: 4, or what `mode` or `recipe` says.
        group_size: 32, 64 or 128 for affine (default 64); 32 for mxfp4 and mxfp8, 16 for nvfp4.
        mode: "affine", "mxfp4", "mxfp8" or "nvfp4".
        vision_bits: of the vision encoder; default: kept in `dtype`.
        projector_bits, embed_bits, head_bits: default: as the decoder's matrices, or as `recipe`
            says. In a mode of one bit width, another width here means affine in groups of 64.
        dtype: of everything that is not quantized: "bfloat16", "float16" or "float32".
        recipe: a key of `RECIPES`; it replaces `bits`.

    Raises:
        ValueError: a value, or two together, that cannot be; the text is one line. The command
        line reports it as a usage error.
    """
    _one_of("mode", mode, MODES)
    _one_of("dtype", dtype, DTYPES)
    low = high = _text_bits(bits, mode, recipe)
    if recipe is not None:
        low, high = RECIPES[recipe].low, RECIPES[recipe].high
    _check_group(group_size, mode)

    def part(name: str, wanted: int | None, default: int) -> Scheme | None:
        if wanted is not None:
            _one_of(f"{name}-bits", wanted, (*AFFINE_BITS, KEEP_BITS))
        return _scheme(default if wanted is None else wanted, group_size, mode)

    return Options(
        text=_scheme(low, group_size, mode),
        vision=part("vision", vision_bits, KEEP_BITS),
        projector=part("projector", projector_bits, high),
        embedding=part("embed", embed_bits, low),
        head=part("head", head_bits, high),
        dtype=dtype,
        recipe=recipe,
    )


def _one_of(name: str, value: Any, allowed: Iterable[Any]) -> None:
    if isinstance(value, bool) or value not in (allowed := tuple(allowed)):
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(str, allowed))}")


def _text_bits(bits: int | None, mode: str, recipe: str | None) -> int:
    """The decoder's bit width; contradictions between the three stop here."""
    if recipe is not None:
        _one_of("recipe", recipe, RECIPES)
        if bits is not None or mode != "affine":
            raise ValueError(
                f"recipe {recipe} sets the bits itself and is affine: leave out --bits and --mode"
            )
        return RECIPES[recipe].low
    if mode == "affine":
        _one_of("bits", 4 if bits is None else bits, (*AFFINE_BITS, KEEP_BITS))
        return 4 if bits is None else bits
    native = FLOAT_MODES[mode][0]
    if bits is not None and (isinstance(bits, bool) or bits != native):
        raise ValueError(f"mode {mode} is always {native} bits, not {bits!r}: leave out --bits")
    return native


def _check_group(group_size: int | None, mode: str) -> None:
    if group_size is None:
        return
    if mode == "affine":
        _one_of("group-size", group_size, AFFINE_GROUPS)
    elif isinstance(group_size, bool) or group_size != FLOAT_MODES[mode][1]:
        raise ValueError(
            f"mode {mode} always has groups of {FLOAT_MODES[mode][1]}, not {group_size!r}: "
            "leave out --group-size"
        )


def _scheme(bits: int, group_size: int | None, mode: str) -> Scheme | None:
    if bits == KEEP_BITS:
        return None
    if mode in FLOAT_MODES:
        native, group = FLOAT_MODES[mode]
        return Scheme(bits, group, mode) if bits == native else Scheme(bits, DEFAULT_GROUP)
    return Scheme(bits, group_size or DEFAULT_GROUP)
