"""Which Macs run Pixtral 12B at which width: the README's table, by arithmetic alone.

    python benchmarks/which_mac.py

Weights come from the same plan that a conversion carries out, the KV cache from the sizes. What a
Mac lets a program use is an estimate: two thirds of its memory up to 36 GB, three quarters above;
on a Mac, `mx.device_info()["max_recommended_working_set_size"]` has the true figure. A gigabyte is
left for activations, Python and the tokenizer.
"""

from pixtral_mlx.capacity import kv_bytes_per_token
from pixtral_mlx.config import PIXTRAL_12B, PIXTRAL_12B_VISION
from pixtral_mlx.image import patch_grid
from pixtral_mlx.macs import usable_bytes
from pixtral_mlx.quantize import plan_for
from pixtral_mlx.schemes import check_options

MACS = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128)
RESERVE_BYTES = 1e9
TEXT_TOKENS = 1000


def weight_bytes(bits: int) -> int:
    """Bytes of the weights when converted with `--bits`."""
    return plan_for(PIXTRAL_12B, check_options(bits=bits)).nbytes


def smallest_mac(needed_bytes: float) -> str:
    """The smallest memory size that holds this much, or "none of these"."""
    fits = [f"{size} GB" for size in MACS if needed_bytes + RESERVE_BYTES <= usable_bytes(size)]
    return fits[0] if fits else "none of these"


def main() -> None:
    """Print the table as Markdown."""
    image = patch_grid(1024, 1024, PIXTRAL_12B_VISION).tokens
    per_token = kv_bytes_per_token(PIXTRAL_12B.text)
    print("| `--bits` | weights | Mac for one 1024 x 1024 image | Mac for eight |")
    print("|---|---|---|---|")
    for bits in (3, 4, 5, 6, 8, 16):
        weights = weight_bytes(bits)
        macs = [
            smallest_mac(weights + (images * image + TEXT_TOKENS) * per_token) for images in (1, 8)
        ]
        print(f"| {bits} | {weights / 1e9:.2f} GB | {macs[0]} | {macs[1]} |")


if __name__ == "__main__":
    main()
