"""A step of training on one picture of 4,160 tokens: seconds and memory, beside mlx-vlm's trainer.

    python benchmarks/tuning.py [--folder SCALED] [--peer PYTHON] [--steps 2]

The scaled model of `random_checkpoint.py --scaled` in float32, one row, rank 8 beside every linear
layer of the decoder, each layer computed twice (gradient checkpointing) and, for ours, also not.
Every side is a process of its own. The first step encodes the picture, the others are reported;
memory is the most that the process has held. mlx-vlm's step is its `vlm_sft_loss`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIDE, RANK, SCALE = 1024, 8, 4.0


def row(folder: Path, place: Path) -> None:
    """The row as both sides read it: ids, where the answer is, pixels."""
    import numpy as np

    import pixtral_mlx as px
    from pixtral_mlx.inputs import gradient

    messages = [
        {"role": "user", "content": [
            {"type": "image", "image": gradient(SIDE, SIDE)},
            {"type": "text", "text": "What is in this picture?"},
        ]},
        {"role": "assistant", "content": "Colours that turn into one another, from left to right."},
    ]  # fmt: skip
    ((prompt, (answer,)),) = px.load(folder).tokenizer.encode_answers(messages)
    np.savez(place, tokens=prompt.tokens, start=answer.start, pixels=prompt.images[0])


def ours(folder: str, file: str, again: bool, steps: int) -> dict[str, Any]:
    """Seconds of each step, and what `estimate` expects."""
    import mlx.core as mx
    import mlx.nn as nn
    import numpy as np

    import pixtral_mlx as px
    from pixtral_mlx.model.prompt import ImageSpan, PatchGrid
    from pixtral_mlx.tuning.batches import make_batch
    from pixtral_mlx.tuning.dataset import Example, Picture
    from pixtral_mlx.tuning.estimate import training_bytes, weights_bytes
    from pixtral_mlx.tuning.loss import batch_loss
    from pixtral_mlx.tuning.low_rank import put_low_rank
    from pixtral_mlx.tuning.options import TuningOptions
    from pixtral_mlx.tuning.pictures import EncodedPictures

    held = np.load(file)
    model = px.load(folder, "float32")
    tokens, start = held["tokens"].astype(np.int32), int(held["start"])
    span = ImageSpan(int(np.flatnonzero(tokens == 10)[0]), PatchGrid(SIDE // 16, SIDE // 16))
    answer = slice(start, len(tokens))
    example = Example("row", tokens, (answer,), (Picture("a", span),), 0)
    put_low_rank(model, TuningOptions(rank=RANK, scale=SCALE))
    expected = weights_bytes(model) + training_bytes(
        model, 1, len(tokens), answer.stop - answer.start, again=again
    )
    gradient = nn.value_and_grad(model, lambda b: batch_loss(model, b, again))
    with tempfile.TemporaryDirectory() as name:
        pictures = EncodedPictures(model.vision_encoder, Path(name), 1e9, lambda _: held["pixels"])
        seconds = []
        for _ in range(steps + 1):
            began = time.perf_counter()
            pictures.add("a", held["pixels"])
            mx.eval(gradient(make_batch([example], pictures, 10)))
            seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "expected_bytes": expected}


def theirs(folder: str, file: str, again: bool, steps: int) -> dict[str, Any]:
    """The same of mlx-vlm."""
    import mlx.core as mx
    import mlx.nn as nn
    import numpy as np
    from mlx_vlm.trainer.common.utils import enable_gradient_checkpointing
    from mlx_vlm.trainer.peft import get_peft_model
    from mlx_vlm.trainer.vlm.sft.runtime import vlm_sft_loss
    from mlx_vlm.utils import load_model

    held = np.load(file)
    model = load_model(Path(folder))
    model = model[0] if isinstance(model, tuple) else model
    get_peft_model(model, rank=RANK, alpha=RANK * SCALE, dropout=0.0, verbose=False)
    if again:
        enable_gradient_checkpointing(model.language_model.model.layers)
    ids = mx.array(held["tokens"])[None]
    completion = (mx.arange(ids.shape[1]) >= int(held["start"])).astype(mx.int32)[None]
    batch = {
        "input_ids": ids, "attention_mask": mx.ones_like(ids), "completion_mask": completion,
        "pixel_values": mx.array(held["pixels"])[None],
    }  # fmt: skip

    def loss(batch: Any) -> Any:
        return vlm_sft_loss(model, batch, train_on_completions=True)[0]

    gradient = nn.value_and_grad(model, loss)
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        mx.eval(gradient(batch))
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds}


def side(python: str, name: str, *words: Any) -> dict[str, Any]:
    """What a process of its own measures."""
    command = [python, __file__, "--side", name, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--folder", type=Path, help="of the scaled model, else it is made")
    parser.add_argument("--peer", help="a Python with mlx-vlm")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        name, folder, file, again, steps = arguments.side
        found = {"ours": ours, "theirs": theirs}[name](folder, file, again == "True", int(steps))
        unit = 1 if sys.platform == "darwin" else 1024
        found["peak_bytes"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(found))
        return
    import pixtral_mlx as px

    print(f"pixtral-mlx {px.__version__}, float32 products in {px.machine().float32_products}")
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name, "scaled")
        if arguments.folder is None:
            script = Path(__file__).with_name("random_checkpoint.py")
            subprocess.run([sys.executable, script, folder, "--scaled"], check=True)
        file = Path(name, "row.npz")
        row(folder, file)
        runs = [("ours", sys.executable, folder, True), ("ours", sys.executable, folder, False)]
        if arguments.peer:
            plain = px.convert(folder, Path(name, "mlx"), bits=16, dtype="float32").folder
            runs.append(("theirs", arguments.peer, plain, True))
        for which, python, where, again in runs:
            found = side(python, which, where, file, again, arguments.steps)
            first, *others = found["seconds"]
            print(
                f"{which}, {'layers computed twice' if again else 'everything kept'}: "
                f"{min(others):.1f} s per step, {first:.1f} s the first, "
                f"{found['peak_bytes'] / 1e9:.2f} GB at most"
                + (f" ({found['expected_bytes'] / 1e9:.2f} expected)" if which == "ours" else ""),
                flush=True,
            )


if __name__ == "__main__":
    main()
