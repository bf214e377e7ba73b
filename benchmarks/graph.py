"""Python's own share of a decode step: how long its graph takes to build, beside mlx-lm's.

    python benchmarks/graph.py [--layers 40] [--steps 40] [--runs 5]

On a GPU the graph of the next step is built while this one is computed, and a small model on a fast
chip waits for Python. A decoder of Pixtral 12B's depth, 64 wide so that nothing else counts, and
mlx-lm's `llama.Model` of the same sizes each build the step of one token behind a context of 256;
what they built is computed off the clock. They take turns step by step; the clock counts this
process's own seconds; the median step of each run is compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

import pixtral_mlx as px
from pixtral_mlx.model.config import TextConfig
from pixtral_mlx.model.decoder import Decoder

CONTEXT, WIDTH, HEADS, KV_HEADS, WORDS = 256, 64, 4, 1, 256


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--steps", type=int, default=40, help="of each in a run (40)")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    ours, theirs = stepper(our_decoder(arguments.layers)), stepper(llama_of(arguments.layers))
    ratios = []
    for number in range(1, arguments.runs + 1):
        times: tuple[list[float], list[float]] = ([], [])
        for step in range(arguments.steps):
            order = (0, 1) if step % 2 else (1, 0)
            for which in order:
                times[which].append((ours, theirs)[which]())
        mine, llamas = (statistics.median(each) for each in times)
        ratios.append(mine / llamas)
        print(
            f"run {number}: {1000 * mine:.2f} ms beside {1000 * llamas:.2f} ms: {ratios[-1]:.2f}",
            flush=True,
        )
    print(
        f"MLX {mx.__version__}, float32 products in {px.machine().float32_products}, "
        f"{arguments.layers} layers of width {WIDTH}: building a decode step "
        f"takes {statistics.median(ratios):.2f} of mlx-lm's time (median of {arguments.runs} runs)"
    )


def our_decoder(layers: int) -> Decoder:
    """Pixtral's."""
    return Decoder(TextConfig(
        dim=WIDTH, n_layers=layers, head_dim=WIDTH // HEADS, hidden_dim=2 * WIDTH, n_heads=HEADS,
        n_kv_heads=KV_HEADS, norm_eps=1e-5, rope_theta=1e6, vocab_size=WORDS,
    ))  # fmt: skip


def llama_of(layers: int, words: int = WORDS) -> llama.Model:
    """mlx-lm's, of the same sizes."""
    return llama.Model(llama.ModelArgs(
        model_type="llama", hidden_size=WIDTH, num_hidden_layers=layers,
        intermediate_size=2 * WIDTH, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
        rms_norm_eps=1e-5, vocab_size=words, head_dim=WIDTH // HEADS, rope_theta=1e6,
        tie_word_embeddings=False,
    ))  # fmt: skip


def stepper(model: Any) -> Callable[[], float]:
    """Builds one step each time it is called, and gives the seconds that it took."""
    cache = make_prompt_cache(model)
    mx.eval(model.parameters(), model(mx.zeros((1, CONTEXT), mx.int32), cache=cache))
    token = mx.array([[1]])

    def step() -> float:
        start = time.process_time()
        logits = model(token, cache=cache)
        seconds = time.process_time() - start
        mx.eval(logits)
        trim_prompt_cache(cache, 1)
        return seconds

    step()
    return step


if __name__ == "__main__":
    main()
