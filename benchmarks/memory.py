"""Peak memory of one large image, from pixels to the first token, beside mlx-vlm's Pixtral.

    python benchmarks/memory.py --peer-python PYTHON_WITH_MLX_VLM

One image of 64 x 64 patches, 4160 tokens, through a vision encoder of Pixtral's real width (1024,
16 heads, FFN 4096), the projector and a scaled decoder (dim 1024, 16 heads, 4 KV heads of 64, FFN
2816), in float32. The weights are random, each side's its own: sizes decide about memory, not
values (`many_images.py` compares the values). Each side is a process of its own, they take turns,
and each does what its own `generate` does: embeddings, then the prompt in steps. Peaks are MLX's,
above weights and pixels. Without `--peer-python` only this project is measured.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

PATCHES, TEXT_TOKENS, WORDS = 64, 20, 1000
DIM, HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 1024, 16, 4, 64, 2816
IMAGE, BREAK, END = 10, 12, 13
NAMES = ("pixtral-mlx", "pixtral-mlx, 8-bit KV", "pixtral-mlx, 4-bit KV", "mlx-vlm")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--peer-python", metavar="PYTHON", help="a Python that has mlx-vlm 0.7")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vision-layers", type=int, default=4)
    parser.add_argument("--text-layers", type=int, default=4)
    parser.add_argument("--step", type=int, default=512, help="prompt tokens a step, for both")
    parser.add_argument("--serve", choices=NAMES, help=argparse.SUPPRESS)  # a child
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments)
    names = NAMES if arguments.peer_python else NAMES[:-1]
    runs: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            runs[name].append(measure(name, arguments))
    head = (
        f"{arguments.vision_layers} vision and {arguments.text_layers} decoder layers, "
        f"{arguments.step} tokens a step, medians of {arguments.rounds}"
    )
    print("; ".join([head, *dict.fromkeys(run["version"] for n in names for run in runs[n])]))
    print("| | encoder and projector | prompt | KV cache | seconds |\n|---|---|---|---|---|")
    for name, found in runs.items():
        images, prompt, kept, seconds = (
            statistics.median(run[key] for run in found)
            for key in ("embed_peak", "prompt_peak", "cache", "seconds")
        )
        sizes = " | ".join(f"{size / 1e6:,.0f} MB" for size in (images, prompt, kept))
        print(f"| {name} | {sizes} | {seconds:.1f} |")


def measure(name: str, arguments: argparse.Namespace) -> dict:
    """Run one side once, in a process of its own."""
    python = arguments.peer_python if name == "mlx-vlm" else sys.executable
    words = [python, __file__, "--serve", name, "--step", str(arguments.step)]
    words += ["--vision-layers", str(arguments.vision_layers)]
    words += ["--text-layers", str(arguments.text_layers)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def serve(arguments: argparse.Namespace) -> None:
    """In a child: embed the image and read the prompt; answer with time and memory."""
    import mlx.core as mx

    build = peer if arguments.serve == "mlx-vlm" else ours
    model, embed, read, cache, version = build(arguments)
    pixels = mx.random.normal((3, PATCHES * 16, PATCHES * 16))
    image = ([IMAGE] * PATCHES + [BREAK]) * PATCHES
    tokens = [1, 3, *image[:-1], END, *range(100, 100 + TEXT_TOKENS)]
    mx.eval(model.parameters(), pixels)
    peaks, start = [], time.perf_counter()
    embeddings = None
    for step in ("embed", "prompt"):
        mx.clear_cache()
        mx.reset_peak_memory()
        if step == "embed":
            before = mx.get_active_memory()
            embeddings = embed(tokens, pixels)
            mx.eval(embeddings)
        else:
            in_steps(mx, read, tokens, embeddings, cache, arguments.step)
        peaks.append(mx.get_peak_memory() - before)
    print(
        json.dumps(
            {
                "embed_peak": peaks[0], "prompt_peak": peaks[1],
                "cache": sum(layer.nbytes for layer in cache),
                "seconds": time.perf_counter() - start,
                "version": f"{version}, MLX {mx.__version__}, {mx.default_device()}",
            }
        )
    )  # fmt: skip


def in_steps(mx, read, tokens, embeddings, cache, step: int) -> None:
    """Read the prompt as both programs' `generate_step` does; the last position's logits."""
    ids, end = mx.array(tokens)[None], len(tokens) - 1
    for start in range(0, end, step):
        part = slice(start, min(start + step, end))
        read(ids[:, part], embeddings[:, part])
        mx.eval([layer.state for layer in cache])
        mx.clear_cache()
    mx.eval(read(ids[:, end:], embeddings[:, end:]))


def ours(arguments: argparse.Namespace):
    """This project's model."""
    from dataclasses import replace

    import pixtral_mlx as px
    from pixtral_mlx.model.config import PIXTRAL_12B_VISION
    from pixtral_mlx.model.kv_cache import KVFormat

    precision = px.machine().float32_products
    version = f"pixtral-mlx {px.__version__}, float32 products in {precision}"
    text = px.TextConfig(
        dim=DIM, n_layers=arguments.text_layers, head_dim=HEAD_DIM, hidden_dim=HIDDEN,
        n_heads=HEADS, n_kv_heads=KV_HEADS, norm_eps=1e-5, rope_theta=1e9, vocab_size=WORDS,
    )  # fmt: skip
    vision = replace(PIXTRAL_12B_VISION, num_hidden_layers=arguments.vision_layers)
    model = px.Pixtral(px.PixtralConfig(text, vision))
    bits = {NAMES[1]: 8, NAMES[2]: 4}.get(arguments.serve)
    cache = KVFormat(bits).of(text).new_cache(model.decoder)

    def embed(tokens, pixels):
        return model.embed(px.Prompt(tokens, [pixels]))[None]

    def read(ids, embeddings):
        return model.decoder(ids, cache, embeddings)

    return model, embed, read, cache, version


def peer(arguments: argparse.Namespace):
    """mlx-vlm's model, called as its `generate_step` calls it."""
    from importlib.metadata import version

    from mlx_vlm.models.cache import KVCache
    from mlx_vlm.models.pixtral.config import ModelConfig, TextConfig, VisionConfig
    from mlx_vlm.models.pixtral.pixtral import Model

    text = TextConfig(
        hidden_size=DIM, head_dim=HEAD_DIM, num_hidden_layers=arguments.text_layers,
        intermediate_size=HIDDEN, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
        vocab_size=WORDS,
    )  # fmt: skip
    vision = VisionConfig(
        num_hidden_layers=arguments.vision_layers, image_size=PATCHES * 16, patch_size=16
    )
    model = Model(ModelConfig(text, vision, image_token_index=IMAGE))
    cache = [KVCache() for _ in model.language_model.layers]

    def embed(tokens, pixels):
        import mlx.core as mx

        return model.get_input_embeddings(mx.array(tokens)[None], pixels[None]).inputs_embeds

    def read(ids, embeddings):
        return model.language_model(ids, inputs_embeds=embeddings, cache=cache).logits

    return model, embed, read, cache, f"mlx-vlm {version('mlx-vlm')}"


if __name__ == "__main__":
    main()
