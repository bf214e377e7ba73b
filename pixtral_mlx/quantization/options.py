"""What can be asked of a conversion, and the scheme that follows for each part of the model."""

from dataclasses import dataclass

from ..checkpoint.scheme import (
    AFFINE_BITS,
    AFFINE_GROUPS,
    DEFAULT_GROUP,
    DTYPES,
    FLOAT_MODES,
    KEEP_BITS,
    MODES,
    RECIPES,
    Scheme,
)
from ..checks import check_fields, one_of, option

BITS = (*AFFINE_BITS, KEEP_BITS)


@dataclass(frozen=True)
class ConversionOptions:
    """Which weights get how many bits; 16 bits keep a part in `dtype`.

    Arguments:
        bits: bits of the decoder's matrices; 16 keeps `dtype`; None: 4, or what `mode` or `recipe`
            says.
        group_size: weights that share a scale; None: 64 for affine, 32 for mxfp4 and mxfp8, 16 for
            nvfp4. The last three have no other.
        mode: how numbers are stored; all but affine have one width and one group size.
        vision_bits: bits of the vision encoder; None: not quantized.
        projector_bits: bits of the projector; None: like the decoder's, or as the recipe says. In a
            mode of one width, another width here means affine in groups of 64; so with the next
            two.
        embed_bits: bits of the token embedding; None: like the decoder's, or as the recipe says.
        head_bits: bits of the output matrix; None: like the decoder's, or as the recipe says.
        dtype: type of scales, biases and whatever is not quantized.
        recipe: a mixture of two widths, instead of `bits`. See `schemes.RECIPES`.

    Raises:
        ValueError: a value, or two together, that cannot be; the text is one line. The command
        line reports it as a usage error.
    """

    bits: int | None = option(
        None,
        help="bits of the decoder's matrices; 16 keeps `dtype`; None: 4, or what `mode` or "
        "`recipe` says",
        kind=int,
        choices=BITS,
    )
    group_size: int | None = option(
        None,
        help="weights that share a scale; None: 64 for affine, 32 for mxfp4 and mxfp8, 16 for "
        "nvfp4",
        kind=int,
        choices=(16, *AFFINE_GROUPS),
    )
    mode: str = option(
        "affine",
        help="how numbers are stored; all but affine have one width and one group size",
        kind=str,
        choices=MODES,
    )
    vision_bits: int | None = option(
        None,
        help="bits of the vision encoder; None: not quantized",
        kind=int,
        choices=BITS,
    )
    projector_bits: int | None = option(
        None,
        help="bits of the projector; None: like the decoder's, or as the recipe says",
        kind=int,
        choices=BITS,
    )
    embed_bits: int | None = option(
        None,
        help="bits of the token embedding; None: like the decoder's, or as the recipe says",
        kind=int,
        choices=BITS,
    )
    head_bits: int | None = option(
        None,
        help="bits of the output matrix; None: like the decoder's, or as the recipe says",
        kind=int,
        choices=BITS,
    )
    dtype: str = option(
        "bfloat16",
        help="type of scales, biases and whatever is not quantized",
        kind=str,
        choices=tuple(DTYPES),
    )
    recipe: str | None = option(
        None,
        help="a mixture of two widths, instead of `bits`",
        kind=str,
        choices=tuple(RECIPES),
        unit="NAME",
    )

    def __post_init__(self):
        check_fields(self)
        if self.recipe is not None and (self.bits is not None or self.mode != "affine"):
            raise ValueError(
                f"recipe {self.recipe} sets the bits itself and is affine: leave out --bits and "
                "--mode"
            )
        if self.mode == "affine":
            one_of("group_size", self.group_size, (*AFFINE_GROUPS, None))
            return
        bits, group = FLOAT_MODES[self.mode]
        if self.bits not in (bits, None):
            raise ValueError(
                f"mode {self.mode} is always {bits} bits, not {self.bits}: leave out --bits"
            )
        if self.group_size not in (group, None):
            raise ValueError(
                f"mode {self.mode} always has groups of {group}, not {self.group_size}: leave out "
                "--group-size"
            )

    @property
    def text(self) -> Scheme | None:
        """Of the decoder's matrices; None stays in `dtype`, here and below. `recipe` decides
        inside."""
        return self._scheme(None, self._width(high=False))

    @property
    def vision(self) -> Scheme | None:
        """Of the vision encoder's."""
        return self._scheme(self.vision_bits, KEEP_BITS)

    @property
    def projector(self) -> Scheme | None:
        """Of the projector's."""
        return self._scheme(self.projector_bits, self._width(high=True))

    @property
    def embedding(self) -> Scheme | None:
        """Of the token embedding."""
        return self._scheme(self.embed_bits, self._width(high=False))

    @property
    def head(self) -> Scheme | None:
        """Of the output matrix."""
        return self._scheme(self.head_bits, self._width(high=True))

    def _width(self, *, high: bool) -> int:
        """The usual one; with a recipe its high or its low one."""
        if self.recipe is not None:
            return RECIPES[self.recipe].high if high else RECIPES[self.recipe].low
        return self.bits or FLOAT_MODES.get(self.mode, (4, 0))[0]

    def _scheme(self, asked: int | None, usual: int) -> Scheme | None:
        bits = usual if asked is None else asked
        if bits == KEEP_BITS:
            return None
        if self.mode in FLOAT_MODES:
            native, group = FLOAT_MODES[self.mode]
            own = Scheme(bits, group, self.mode)
            return own if bits == native else Scheme(bits, DEFAULT_GROUP)
        return Scheme(bits, self.group_size or DEFAULT_GROUP)
