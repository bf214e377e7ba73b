"""How pictures are prepared."""

from dataclasses import dataclass, field
from typing import Literal

from ..checks import check_fields, option, shown
from .sources import ANYWHERE, Sources

FEWEST_TOKENS = 2  # of an image: one patch and the end token


@dataclass(frozen=True)
class ImageOptions:
    """How pictures are prepared, by name.

    Arguments:
        resize: official is cubic without antialiasing, as in training; antialiased is Pillow's
            bicubic, smoother where a scan shrinks a lot.
        orient: turn pictures upright by their EXIF orientation (the reference does not). Phones
            rely on it. HEIC states it elsewhere than in EXIF, and is always upright.
        grey16: 16-bit grey: scale it to 8 bits, or clip it as the reference does. Clipping turns
            most of such a picture white. Scaling goes by the depth that the file states.
        image_budget: most tokens that a picture may take; None: as many as the model allows. See
            `patch_grid`.
        pdf_password: opens PDFs that are locked; it is never shown or written.
        sources: where pictures may come from, see `inputs.Sources`.

    Raises:
        ValueError: a value that is not allowed.
    """

    resize: Literal["official", "antialiased"] = option(
        "official",
        help="official is cubic without antialiasing, as in training; antialiased is "
        "Pillow's bicubic, smoother where a scan shrinks a lot",
        kind=str,
        choices=("official", "antialiased"),
    )
    orient: bool = option(
        True,
        help="turn pictures upright by their EXIF orientation (the reference does not)",
        kind=bool,
    )
    grey16: Literal["scale", "clip"] = option(
        "scale",
        help="16-bit grey: scale it to 8 bits, or clip it as the reference does",
        kind=str,
        choices=("scale", "clip"),
    )
    image_budget: int | None = option(
        None,
        help="most tokens that a picture may take; None: as many as the model allows",
        kind=int,
        range=(FEWEST_TOKENS, None),
        unit="TOKENS",
    )

    # No option of a command, where others could read it in the list of processes.
    pdf_password: str | None = field(default=None, repr=False)
    sources: Sources = ANYWHERE

    def __post_init__(self):
        check_fields(self)
        if not isinstance(self.sources, Sources):
            raise ValueError(f"sources must be a Sources, got {shown(self.sources)}")
        if not isinstance(self.pdf_password, str | None):
            kind = type(self.pdf_password).__name__  # and not what it says
            raise ValueError(f"pdf_password must be a string or None, got {kind}")
