"""Does mlx-vlm open what `convert` writes, and does it compute the same?

    python benchmarks/peer_opens.py MODEL_FOLDER --peer PYTHON_WITH_MLX_VLM

Three checks, one line each: mlx-vlm loads the folder; its logits equal ours from the same pixels
and tokens in full float32; `python -m mlx_vlm.generate` answers about a picture. Exit status 1 if
one fails. Without `--peer` this Python is asked; both need mlx, ours also pixtral-mlx.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# It claims the same logits in both processes; MLX multiplies in TF32 by default on some GPUs.
os.environ["MLX_ENABLE_TF32"] = "0"

import numpy as np

TOLERANCE = 2e-3


def main() -> int:
    """Run the three checks; 0 if all hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("model", help="a folder that `pixtral-mlx convert` wrote")
    parser.add_argument("--peer", default=sys.executable, help="a Python that has mlx-vlm")
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--answers", help=argparse.SUPPRESS)  # the part that runs in the peer
    arguments = parser.parse_args()
    if arguments.answers:
        return compare_inside_peer(arguments.model, arguments.answers)
    with tempfile.TemporaryDirectory() as folder:
        picture, answers = Path(folder, "picture.png"), Path(folder, "answers.npz")
        draw(picture)
        our_answers(arguments.model, picture, answers)
        logits = subprocess.run(
            [arguments.peer, __file__, arguments.model, "--answers", str(answers)], check=False
        )
        command = [arguments.peer, "-m", "mlx_vlm.generate", "--model", arguments.model]
        command += ["--image", str(picture), "--prompt", "What is this?", "--temperature", "0"]
        command += ["--max-tokens", str(arguments.max_tokens)]
        spoken = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"python -m mlx_vlm.generate: exit status {spoken.returncode}", flush=True)
    if spoken.returncode:
        print(spoken.stderr[-2000:], file=sys.stderr)
    return int(bool(logits.returncode or spoken.returncode))


def draw(path: Path) -> None:
    """A picture that is neither square nor uniform, 6 x 4 patches."""
    from PIL import Image

    rows, columns = np.mgrid[0:64, 0:96]
    colours = np.stack([rows * 4, columns * 2, (rows * columns) % 256], axis=-1)
    Image.fromarray(colours.astype(np.uint8)).save(path)


def our_answers(model_folder: str, picture: Path, answers: Path) -> None:
    """Save tokens, pixels and our float32 logits."""
    import pixtral_mlx as px

    model = px.load(model_folder, dtype="float32")
    prompt = model.encode("What is this?", images=[str(picture)])
    logits = np.array(model.logits(prompt))
    np.savez(answers, tokens=prompt.tokens, pixels=prompt.images[0], logits=logits)


def compare_inside_peer(model_folder: str, answers: str) -> int:
    """In mlx-vlm's Python: its logits and its chat template's tokens against ours."""
    import mlx.core as mx
    import mlx_vlm

    model, processor = mlx_vlm.load(model_folder)
    print(f"mlx-vlm {mlx_vlm.__version__} opens {model_folder}")
    model.set_dtype(mx.float32)
    ours = np.load(answers)
    tokens, pixels = mx.array(ours["tokens"])[None], mx.array(ours["pixels"])[None]
    sizes = mx.array([pixels.shape[2:]])
    theirs = np.array(model(tokens, pixels, None, image_sizes=sizes).logits[0])
    worst = float(np.abs(theirs - ours["logits"]).max())
    scale = float(np.abs(ours["logits"]).max())
    equal = worst <= TOLERANCE
    print(f"logits of {tokens.size} tokens: largest difference {worst:.1e} of {scale:.1f}")
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False
    )
    theirs, grid = processor.tokenizer(text).input_ids, image_ids(model_folder)
    same = [token for token in theirs if token not in grid] == [
        token for token in ours["tokens"].tolist() if token not in grid
    ]
    print(f"tokens of the chat template: {'as mistral-common' if same else 'DIFFERENT'}")
    return int(not (equal and same))


def image_ids(model_folder: str) -> set[int]:
    """The ids of the image grid: a template writes one, the prompt holds many."""
    settings = json.loads(Path(model_folder, "config.json").read_text())
    names = {"image_token_index": 10, "image_break_token_id": 12, "image_end_token_id": 13}
    return {settings.get(name, usual) for name, usual in names.items()}


if __name__ == "__main__":
    sys.exit(main())
