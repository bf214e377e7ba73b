"""Which Macs run Pixtral 12B at which width: the README's table, by arithmetic alone.

    python benchmarks/which_mac.py

Weights come from the same plan that a conversion carries out, the KV cache from the sizes. What a
Mac lets a program use is an estimate: two thirds of its memory up to 36 GB, three quarters above;
on a Mac, `mx.device_info()["max_recommended_working_set_size"]` has the true figure. What is left
for the rest is `capacity.RESERVE_BYTES`. With --write README.md takes the table.
"""

import argparse
import re
from pathlib import Path

from pixtral_mlx.cost.chips import expected_usable_bytes
from pixtral_mlx.engine.capacity import Need
from pixtral_mlx.model.config import PIXTRAL_12B, PIXTRAL_12B_VISION
from pixtral_mlx.model.prompt import patch_grid
from pixtral_mlx.quantization.options import ConversionOptions
from pixtral_mlx.quantization.plan import plan_for

MACS = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128)
TEXT_TOKENS = 1000
README = Path(__file__).parents[1] / "README.md"
TABLE = re.compile(r"^\| `--bits` \|.*?\n(?=\n)", re.MULTILINE | re.DOTALL)
"""That of README.md, up to the empty line after it."""


def weight_bytes(bits: int) -> int:
    """Bytes of the weights when converted with `--bits`."""
    return plan_for(PIXTRAL_12B, ConversionOptions(bits=bits)).nbytes


def smallest_mac(needed_bytes: float) -> str:
    """The smallest memory size that holds this much, or "none of these"."""
    fits = [f"{size} GB" for size in MACS if needed_bytes <= expected_usable_bytes(size)]
    return fits[0] if fits else "none of these"


def table() -> str:
    """The table as Markdown, each line with its end."""
    image = patch_grid(1024, 1024, PIXTRAL_12B_VISION).tokens
    lines = ["| `--bits` | weights | Mac for one 1024 x 1024 picture | Mac for eight |"]
    lines.append("|---|---|---|---|")
    for bits in (3, 4, 5, 6, 8, 16):
        weights = weight_bytes(bits)
        macs = [
            smallest_mac(Need(PIXTRAL_12B, weights, TEXT_TOKENS, (image,) * images).advised)
            for images in (1, 8)
        ]
        lines.append(f"| {bits} | {weights / 1e9:.2f} GB | {macs[0]} | {macs[1]} |")
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--write", action="store_true", help="into README.md")
    if parser.parse_args().write:
        README.write_text(TABLE.sub(table(), README.read_text()))
    print(table(), end="")


if __name__ == "__main__":
    main()
