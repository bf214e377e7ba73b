"""Time to first token of a follow-up against a fresh run, at 4160 image tokens.

    python benchmarks/follow_up.py [--rounds 3]

A random model of Pixtral's shape, scaled (decoder 1024 wide, 6 layers; encoder 512 wide, 4 layers;
float32), looks at one 1024 x 1024 picture: 64 x 64 patches, 4160 tokens. Fresh runs and follow-ups
take turns. The clock runs from the call to the first token (`reply.stats.prompt_seconds`); the time
to prepare the pixels is the same for all and printed beside.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import mlx.core as mx
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TEXT = {
    "dim": 1024, "n_layers": 6, "n_heads": 16, "n_kv_heads": 4, "head_dim": 64,
    "hidden_dim": 2816, "max_seq_len": 8192,
}  # fmt: skip
VISION = {
    "hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 4,
    "intermediate_size": 1536, "image_size": 1024,
}  # fmt: skip
ANSWER = 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    import checkpoints

    import pixtral_mlx as px

    picture = np.random.RandomState(0).randint(0, 256, (1024, 1024, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as place:
        folder = checkpoints.make_official(Path(place, "model"), text=TEXT, vision=VISION)
        model = px.load(folder)
        print(
            f"pixtral-mlx {px.__version__}, MLX {mx.__version__}, {mx.default_device()}, "
            f"float32 products in {px.machine().float32_products}"
        )
        start = time.perf_counter()
        first = model.encode("What is this?", [picture])
        pixels_seconds = time.perf_counter() - start
        other = model.encode("How many are there, and where?", [picture])
        print(f"prompt of {len(first.tokens)} tokens; pixels prepared in {pixels_seconds:.2f} s")
        model.generate("Hello", max_tokens=2, reuse=False)  # reads weights, compiles
        kinds = ("fresh", "other question", "next turn", "from a folder")
        runs = {kind: [] for kind in kinds}
        for number in range(arguments.rounds):
            kept = Path(place, f"kept-{number}")
            for kind, reply in round_of(px, model, folder, kept, first, other):
                runs[kind].append(reply.stats)
    report(runs)


def round_of(px, model, folder, kept, first, other):
    """Yield one fresh run and its follow-ups, as (kind, reply)."""
    model.clear_cache()
    model.open_prompt_cache(kept)
    fresh = model.generate(first, max_tokens=ANSWER)
    yield "fresh", fresh
    yield "other question", model.generate(other, max_tokens=ANSWER)
    question = model.encode("And what else?").tokens[1:]
    turn = first.tokens + fresh.tokens + [model.tokenizer.eos_id, *question]
    turn = px.Prompt(turn, first.images, first.grids, first.spans)
    yield "next turn", model.generate(turn, max_tokens=ANSWER)
    model.prompt_cache.folder = None
    model.clear_cache()
    another = px.load(folder)  # nothing in memory, as in another process
    another.generate("Hello", max_tokens=2, reuse=False)
    another.open_prompt_cache(kept)
    yield "from a folder", another.generate(other, max_tokens=ANSWER)


def report(runs: dict) -> None:
    """Print medians."""
    fresh = statistics.median(stats.prompt_seconds for stats in runs["fresh"])
    for kind, found in runs.items():
        seconds = [stats.prompt_seconds for stats in found]
        median, stats = statistics.median(seconds), found[0]
        print(
            f"{kind}: {stats.prompt_tokens} tokens, {stats.cached_tokens} of them known; first "
            f"token after {median:.3f} s ({min(seconds):.3f} to {max(seconds):.3f}), "
            f"{100 * median / fresh:.1f} % of fresh; vision {stats.vision_seconds:.2f} s"
        )


if __name__ == "__main__":
    main()
