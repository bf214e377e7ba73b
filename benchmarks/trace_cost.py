"""What looking inside costs: bytes kept and time per row at Pixtral 12B's widths, and generation.

    python benchmarks/trace_cost.py [--before CHECKOUT]

Rows are computed from random queries and keys of the real shapes: 1024 wide, 16 heads, 4096
patches in the encoder; 32 query heads over 8 KV heads, 4160 tokens in the decoder. Generation runs
on a small random model, with the trace off and on, interleaved; with `--before`, also by the code
of another checkout, to show that a trace that is off costs nothing.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

import pixtral_mlx as px

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 7
TOKENS = 200

GENERATE = """
import sys, time
import numpy as np
import pixtral_mlx as px
model = px.load(sys.argv[1], dtype="float32")
image = np.random.RandomState(0).randint(0, 256, (96, 128, 3), dtype=np.uint8)
prompt = model.encode("What is this?", [image])
options = {"trace": True} if sys.argv[3] == "on" else {}
options |= {"max_tokens": int(sys.argv[2]), "logit_bias": {model.tokenizer.eos_id: -1e9}}
if "reuse" in px.GenerationOptions.__dataclass_fields__:
    options["reuse"] = False
model.generate(prompt, **options)
times = []
for _ in range(5):
    start = time.perf_counter()
    model.generate(prompt, **options)
    times.append(time.perf_counter() - start)
print(sorted(times)[2])
"""


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--before", metavar="CHECKOUT", help="another version, to compare with")
    arguments = parser.parse_args()
    print(f"float32 products in {px.machine().float32_products}")
    for dtype in (mx.float32, mx.bfloat16):
        rows(dtype)
    generation(arguments.before)


def rows(dtype: mx.Dtype) -> None:
    """Bytes and milliseconds of rows at real width."""
    from pixtral_mlx.interpret.recorder import Recorder, TraceOptions
    from pixtral_mlx.interpret.trace import Trace
    from pixtral_mlx.model.config import PIXTRAL_12B, PIXTRAL_12B_VISION
    from pixtral_mlx.model.prompt import ImageSpan, PatchGrid, Prompt

    grid, eyes, text = PatchGrid(64, 64), PIXTRAL_12B_VISION, PIXTRAL_12B.text
    prompt = Prompt([10] * (grid.tokens + 2), [], [grid], [ImageSpan(1, grid)])
    recorder = Recorder(0, TraceOptions())
    shape = (1, eyes.num_attention_heads, grid.patches, eyes.head_dim)
    recorder("vision.0.queries", mx.random.normal(shape).astype(dtype), 0)
    recorder("vision.0.keys", mx.random.normal(shape).astype(dtype), 0)
    recorder.join()
    vision_bytes = recorder.nbytes * eyes.num_hidden_layers
    recorder(
        "text.0.queries", mx.random.normal((1, text.n_heads, 1, text.head_dim)).astype(dtype), 0
    )
    keys = mx.random.normal((text.n_kv_heads, grid.tokens + 2, text.head_dim)).astype(dtype)
    mx.eval(keys, *recorder.vision.values(), *recorder.text["text.0.queries"])
    trace = Trace(
        PIXTRAL_12B,
        prompt,
        [0],
        [0.0],
        ["x"],
        [grid.patches],
        _recorded=recorder,
        _keys=lambda layer: keys,
    )
    per_token = text.n_layers * (text.n_heads * text.head_dim + text.dim) * dtype.size
    print(f"{dtype}".replace("mlx.core.", "") + ":")
    print(f"  kept, 24 layers of 4096 patches: {vision_bytes / 1e6:.0f} MB")
    print(f"  kept for each generated token, 40 layers: {per_token / 1e6:.2f} MB")
    for name, look in {
        "one head of one patch": lambda: trace.vision_attention(0, (3, 4), 5),
        "mean of 16 heads of one patch": lambda: trace.vision_attention(0, (3, 4)),
        "one head of one token": lambda: trace.token_attention(0, 0, 3),
        "mean of 32 heads of one token": lambda: trace.token_attention(0, 0),
    }.items():
        print(f"  {name}: {1000 * median_seconds(look):.2f} ms")


def median_seconds(call: Callable[[], object]) -> float:
    """Of 31 calls, after one to warm up."""
    call()
    times = []
    for _ in range(31):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def generation(before: str | None) -> None:
    """Seconds for one answer: this code with the trace off and on, and the code before."""
    sys.path.insert(0, str(ROOT / "tests"))
    import checkpoints

    variants = {"off": (ROOT, "off"), "on": (ROOT, "on")}
    if before:
        variants = {"before": (Path(before), "off"), **variants}
    times: dict[str, list[float]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as place:
        folder = checkpoints.make_official(Path(place) / "model")
        for _ in range(ROUNDS):
            for name, (tree, trace) in variants.items():
                words = [sys.executable, "-c", GENERATE, str(folder), str(TOKENS), trace]
                done = subprocess.run(
                    words,
                    cwd=tree,
                    env=_environment(tree),
                    capture_output=True,
                    text=True,
                    check=True,
                )
                times[name].append(float(done.stdout))
    print(f"{TOKENS} tokens on a small random model, median of {ROUNDS} processes:")
    for name, values in times.items():
        spread = (max(values) - min(values)) / statistics.median(values)
        print(f"  {name}: {statistics.median(values):.3f} s (spread {spread:.0%})")


def _environment(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree)}


if __name__ == "__main__":
    main()
