"""Which Macs run which model at which width, and what a picture takes there: the tables of
README.md and docs/macs.md, by arithmetic alone.

    python benchmarks/which_mac.py

Weights come from the same plan that a conversion carries out, the KV cache from the sizes. What a
Mac lets a program use is an estimate: two thirds of its memory up to 36 GB, three quarters above;
on a Mac, `mx.device_info()["max_recommended_working_set_size"]` has the true figure. What is left
for the rest is `capacity.RESERVE_BYTES`. With --write the pages take the tables.
"""

import argparse
import re
from pathlib import Path

from pixtral_mlx.cost.chips import CHIPS, expected_usable_bytes
from pixtral_mlx.cost.cost import (
    decode_bytes,
    decoder_operations,
    encoder_operations,
    projector_operations,
    step_weight_bytes,
)
from pixtral_mlx.engine.capacity import Need
from pixtral_mlx.model.config import (
    HEIRS_VISION,
    MISTRAL_SMALL_24B,
    PIXTRAL_12B,
    PixtralConfig,
    QueryScaling,
    TextConfig,
    Yarn,
)
from pixtral_mlx.model.prompt import patch_grid
from pixtral_mlx.quantization.options import ConversionOptions
from pixtral_mlx.quantization.plan import plan_for

MACS = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128)
TEXT_TOKENS = 1000
ROOT = Path(__file__).parents[1]
README, MACS_PAGE = ROOT / "README.md", ROOT / "docs" / "macs.md"
MODELS_TABLE = re.compile(r"^\| model, at 4 bits \|.*?\n(?=\n)", re.MULTILINE | re.DOTALL)
BITS_TABLE = re.compile(r"^\| `--bits` \|.*?\n(?=\n)", re.MULTILINE | re.DOTALL)
PARTS_TABLE = re.compile(r"^\| part \|.*?\n(?=\n)", re.MULTILINE | re.DOTALL)
FLOORS_TABLE = re.compile(r"^\| chip \|.*?\n(?=\n)", re.MULTILINE | re.DOTALL)
"""Those of the two pages, up to the empty line after them."""
FLOOR_CHIPS = ("M1 Max", "M2 Max", "M3 Max", "M4 Pro", "M4 Max", "M3 Ultra")


def _ministral(dim: int, layers: int, hidden: int, tied: bool = False) -> PixtralConfig:
    text = TextConfig(
        dim=dim, n_layers=layers, head_dim=128, hidden_dim=hidden, n_heads=32, n_kv_heads=8,
        norm_eps=1e-5, rope_theta=1e6, vocab_size=131_072, max_seq_len=262_144,
        tied_embeddings=tied, yarn=Yarn(16, 16_384), llama_4_scaling=QueryScaling(0.1, 16_384),
    )  # fmt: skip
    return PixtralConfig(text, HEIRS_VISION)


MODELS = {
    "Ministral 3 3B": _ministral(3072, 26, 9216, tied=True),
    "Ministral 3 8B": _ministral(4096, 34, 14336),
    "Pixtral 12B": PIXTRAL_12B,
    "Ministral 3 14B": _ministral(5120, 40, 16384),
    "Mistral Small 3.2 24B": MISTRAL_SMALL_24B,
}
"""The published sizes of Pixtral and of those that inherited its encoder."""


def weight_bytes(config: PixtralConfig, bits: int) -> int:
    """Bytes of the weights when converted with `--bits`."""
    return plan_for(config, ConversionOptions(bits=bits)).nbytes


def picture_tokens(config: PixtralConfig) -> int:
    """Of one picture of 1024 x 1024 pixels."""
    return patch_grid(1024, 1024, config.vision).tokens


def smallest_mac(needed_bytes: float) -> str:
    """The smallest memory size that holds this much, or "none of these"."""
    fits = [f"{size} GB" for size in MACS if needed_bytes <= expected_usable_bytes(size)]
    return fits[0] if fits else "none of these"


def macs_for(config: PixtralConfig, bits: int) -> list[str]:
    """For one picture and for eight."""
    weights, image = weight_bytes(config, bits), picture_tokens(config)
    return [
        smallest_mac(Need(config, weights, TEXT_TOKENS, (image,) * images).advised)
        for images in (1, 8)
    ]


def models_table() -> str:
    """The table of models as Markdown, each line with its end."""
    lines = ["| model, at 4 bits | weights | tokens of a 1024 x 1024 picture | Mac | for eight |"]
    lines.append("|---|---|---|---|---|")
    for name, config in MODELS.items():
        one, eight = macs_for(config, 4)
        weights = f"{weight_bytes(config, 4) / 1e9:.2f} GB"
        lines.append(f"| {name} | {weights} | {picture_tokens(config):,} | {one} | {eight} |")
    return "".join(f"{line}\n" for line in lines)


def bits_table() -> str:
    """The table of widths of Pixtral 12B as Markdown, each line with its end."""
    lines = ["| `--bits` | weights | Mac for one 1024 x 1024 picture | Mac for eight |"]
    lines.append("|---|---|---|---|")
    for bits in (3, 4, 5, 6, 8, 16):
        one, eight = macs_for(PIXTRAL_12B, bits)
        lines.append(
            f"| {bits} | {weight_bytes(PIXTRAL_12B, bits) / 1e9:.2f} GB | {one} | {eight} |"
        )
    return "".join(f"{line}\n" for line in lines)


def picture_operations(config: PixtralConfig) -> dict[str, float]:
    """Of one picture of 1024 x 1024 pixels until the first word, by part."""
    text, vision = config.text, config.vision
    grid = patch_grid(1024, 1024, vision)
    whole = decoder_operations(text, grid.tokens)
    # Twice as many tokens take twice the matrices and four times the attention.
    attention = decoder_operations(text, 2 * grid.tokens) / 2 - whole
    return {
        "decoder, matrices": whole - attention,
        "decoder, attention": attention,
        "vision encoder": encoder_operations(vision, grid.rows * grid.columns),
        "projector": projector_operations(vision, text, grid.rows * grid.columns),
    }


def parts_table() -> str:
    """What a picture takes by part as Markdown, each line with its end."""
    parts = picture_operations(PIXTRAL_12B)
    total = sum(parts.values())
    lines = ["| part | operations | share |", "|---|---|---|"]
    for name, operations in [*parts.items(), ("all", total)]:
        lines.append(f"| {name} | {operations / 1e12:.1f} x 10^12 | {operations / total:.1%} |")
    return "".join(f"{line}\n" for line in lines)


def floors_table() -> str:
    """What no program can undercut on a chip as Markdown, each line with its end."""
    total, step = sum(picture_operations(PIXTRAL_12B).values()), step_bytes(PIXTRAL_12B)
    lines = [
        "| chip | first word about such a picture, at least | words at 4 bits, at most |",
        "|---|---|---|",
    ]
    for name in FLOOR_CHIPS:
        chip = CHIPS[name]
        seconds = total / chip.operations_per_second
        rate = chip.gigabytes_per_second * 1e9 / step
        lines.append(f"| {name} | {seconds:.1f} s | {rate:.0f} tokens/s |")
    return "".join(f"{line}\n" for line in lines)


def step_bytes(config: PixtralConfig) -> int:
    """That a decode step at 4 bits reads behind one picture."""
    plan = plan_for(config, ConversionOptions(bits=4))
    sizes = {tensor.name: tensor.nbytes for tensor in plan.tensors}
    return decode_bytes(step_weight_bytes(sizes), config.text, picture_tokens(config))


TABLES = (
    (README, MODELS_TABLE, models_table),
    (MACS_PAGE, BITS_TABLE, bits_table),
    (MACS_PAGE, PARTS_TABLE, parts_table),
    (MACS_PAGE, FLOORS_TABLE, floors_table),
)
"""(page, where its table is, what it says)."""


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--write", action="store_true", help="into README.md and docs/macs.md")
    if parser.parse_args().write:
        for page, place, table in TABLES:
            page.write_text(place.sub(table(), page.read_text()))
    print(*(table() for _, _, table in TABLES), sep="\n", end="")


if __name__ == "__main__":
    main()
