"""`pixtral-mlx fuse`: an adapter added to the weights of its model."""

from argparse import Namespace
from pathlib import Path
from shlex import quote

from ..files import expanded, refuse_existing
from ..tables import format_bytes
from .question import find_model
from .settings import chosen_model, remember_folder
from .status import Status
from .wrap import say


def run(arguments: Namespace) -> int:
    """Write the model with its adapter, or with `--peft` the adapter alone."""
    if not arguments.dst:
        raise ValueError("DST is empty: give the name of a new folder")
    refuse_existing(Path(arguments.dst))
    choice = chosen_model(arguments)
    folder = find_model(choice)
    if arguments.peft:
        from ..checkpoint.adapter_files import open_adapter, write_peft
        from ..checkpoint.folder import load_config

        config = load_config(folder)
        adapter = open_adapter(folder, arguments.adapter_path, config)
        write_peft(expanded(arguments.dst), adapter, config, choice.model)
        say(f"{arguments.dst}: {len(adapter.matrices)} matrices of rank {adapter.rank}, for PEFT")
        return 0
    from ..tuning.fuse import fuse

    with Status("writing"):
        fused = fuse(
            folder, arguments.adapter_path, arguments.dst, bits=arguments.bits,
            dequantize=arguments.dequantize,
        )  # fmt: skip
    remember_folder(Path(fused.folder))
    plan = fused.plan
    say(
        f"{fused.folder}: {plan.parameters:,} weights in {format_bytes(plan.nbytes)}, "
        f"{plan.bits_per_weight:.2f} bits per weight\n"
        f"Ask it: pixtral-mlx generate -m {quote(arguments.dst)} photo.jpg 'What is this?'"
    )
    return 0
