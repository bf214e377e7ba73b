"""`pixtral-mlx live`: a small model and what asks it, as one page that needs no network."""

from argparse import Namespace
from pathlib import Path

from ..checkpoint.checkpoint import open_checkpoint
from ..checkpoint.names import shown_name
from ..errors import CheckpointError, PixtralError
from ..files import new_file, refuse_existing
from ..mini import CHECKPOINT
from ..tables import format_bytes
from . import live_page
from .settings import MINI
from .status import Status
from .wrap import say

ENDING = ".html"


def run(arguments: Namespace) -> int:
    """Write the page; its name and the sizes of the model are checked before a weight is read.

    Raises:
        PixtralError: the name is taken or is not that of a page, or a page cannot hold the model.
    """
    output, model = Path(arguments.output), arguments.model
    if output.suffix.lower() != ENDING:
        raise PixtralError(f"{output}: not the name of a page; give one that ends in {ENDING}")
    refuse_existing(output, PixtralError)
    folder = CHECKPOINT if model == MINI else Path(model)
    if not folder.is_dir():
        raise CheckpointError(f"{model}: no such folder; give mini, or the folder of a small model")
    checkpoint = open_checkpoint(folder)
    live_page.check(checkpoint)
    with Status("writing the page"):
        text = live_page.page(checkpoint, shown_name(model))
        with new_file(output, error=PixtralError) as hidden:
            hidden.write_text(text, encoding="utf-8", errors="replace")
    say(f"written: {output} ({format_bytes(len(text.encode()))}); it opens without a network")
    return 0
