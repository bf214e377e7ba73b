"""What a token costs the main thread, beside mlx-lm: one answer, and a batch of eight.

    python benchmarks/sampling.py [--layers 10] [--tokens 100] [--rounds 5]

On a GPU the main thread builds the next step while this one is computed, and a small model on a
fast chip waits for it. A random decoder, 64 wide so that nothing else counts, with as many
operations as a GPU gets kernels (`kernels.py`), writes with each kind of sampling; mlx-lm's
`stream_generate` and `BatchGenerator` write as many tokens with its `llama.Model` of the same
sizes, the same sampler and the same penalties. Both give each token's text and log-probability;
those of mlx-lm's batch are read as its server reads them. They take turns, step by step, and each
begins once in a round; counted are the seconds of the main thread alone, a token or a step of the
batch; medians.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
from graph import llama_of
from kernels import one_kernel_each
from mlx_lm.generate import BatchGenerator, stream_generate
from mlx_lm.sample_utils import make_logits_processors, make_sampler
from mlx_lm.tokenizer_utils import TokenizerWrapper, load

import pixtral_mlx as px
from pixtral_mlx.engine.batch import Batch
from pixtral_mlx.engine.generate import GenerationStream
from pixtral_mlx.model.config import PixtralConfig, TextConfig
from pixtral_mlx.quantization.hf_tokenizer import write_hf_tokenizer
from pixtral_mlx.random_model import random_model

PROMPT, ROWS, END = 40, 8, object()
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "greedy": ({}, {}),
    "temperature": ({"temperature": 0.7}, {}),
    "temperature, top-p, top-k, penalty": (
        {"temperature": 0.7, "top_p": 0.9, "top_k": 50},
        {"repetition_penalty": 1.1},
    ),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=100, help="of an answer (100)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    one_kernel_each()
    model = our_model(arguments.layers)
    llama = llama_of(arguments.layers, model.config.text.vocab_size)
    mx.eval(llama.parameters())
    words = their_tokenizer(model)
    print(
        f"MLX {mx.__version__}, float32 products in {px.machine().float32_products}, "
        f"{arguments.layers} layers; milliseconds of the main thread"
    )
    print("| | sampling | pixtral-mlx | mlx-lm | ratio | in the rounds |")
    print("|---|---|---|---|---|---|")
    for what, ours, theirs in (
        ("a token", our_answer, their_answer),
        (f"a step of {ROWS}", our_batch, their_batch),
    ):
        for name, (draws, penalties) in KINDS.items():
            ways: list[Callable[[], Iterator[Any]]] = [
                lambda: ours(model, arguments.tokens, {**draws, **penalties}),  # noqa: B023
                lambda: theirs(llama, model, words, arguments.tokens, draws, penalties),  # noqa: B023
            ]
            ratios, all_times = [], []
            for number in range(arguments.rounds + 1):
                # Whoever begins is some hundredths slower, so that both do.
                orders = median_steps(ways), median_steps(ways[::-1])[::-1]
                times = [statistics.mean(pair) for pair in zip(*orders, strict=True)]
                if number:  # the first compiles
                    ratios.append(times[0] / times[1])
                    all_times.append(times)
            mine, other = map(statistics.median, zip(*all_times, strict=True))
            print(
                f"| {what} | {name} | {mine:.2f} ms | {other:.2f} ms | "
                f"{statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |",
                flush=True,
            )


def median_steps(ways: list[Callable[[], Iterator[Any]]]) -> list[float]:
    """Milliseconds of this thread for a step of each, which take turns step by step."""
    runs = [way() for way in ways]
    found: list[list[float]] = [[] for _ in runs]
    while True:
        for run, times in zip(runs, found, strict=True):
            before = time.thread_time()
            if next(run, END) is END:
                return [1000 * statistics.median(times[1:]) for times in found]
            times.append(time.thread_time() - before)


def our_model(layers: int) -> px.Pixtral:
    """Random weights."""
    text = TextConfig(
        dim=64, n_layers=layers, head_dim=16, hidden_dim=128, n_heads=4, n_kv_heads=1,
        norm_eps=1e-5, rope_theta=1e6, vocab_size=131_072,
    )  # fmt: skip
    return random_model(PixtralConfig(text, None), bits=16, dtype="float32")


def prompt_tokens(number: int = 0) -> list[int]:
    """Nothing that means anything."""
    return [1, *range(200 + number, 199 + number + PROMPT)]


def endless(model: px.Pixtral) -> dict[str, Any]:
    """The end token is never drawn."""
    return {"logit_bias": {model.tokenizer.eos_id: -1e9}}


def their_tokenizer(model: px.Pixtral) -> TokenizerWrapper:
    """The same words in mlx-lm's form."""
    with tempfile.TemporaryDirectory() as place:
        write_hf_tokenizer(Path(shutil.copy(model.tokenizer.path, place)))
        return load(Path(place))


def our_answer(model: px.Pixtral, tokens: int, options: dict[str, Any]) -> Iterator[Any]:
    """Pieces of one answer."""
    given = px.GenerationOptions(max_tokens=tokens, reuse=False, **endless(model), **options)
    return GenerationStream(model.engine, px.Prompt(prompt_tokens()), given)


def their_answer(
    llama: Any, model: px.Pixtral, words: TokenizerWrapper, tokens: int, draws: dict[str, Any],
    penalties: dict[str, Any],
) -> Iterator[Any]:  # fmt: skip
    """What mlx-lm calls responses."""
    return stream_generate(
        llama, words, prompt_tokens(), max_tokens=tokens, sampler=make_sampler(**theirs_of(draws)),
        logits_processors=make_logits_processors(**endless(model), **penalties),
    )  # fmt: skip


def theirs_of(draws: dict[str, Any]) -> dict[str, Any]:
    """mlx-lm's names."""
    return {"temp" if name == "temperature" else name: value for name, value in draws.items()}


def our_batch(model: px.Pixtral, tokens: int, options: dict[str, Any]) -> Iterator[Any]:
    """Steps in which every answer gets a token."""
    batch = Batch(model.engine, batch_size=ROWS)
    for number in range(ROWS):
        prompt = px.Prompt(prompt_tokens(number))
        batch.add({
            "messages": prompt, "max_tokens": tokens, "reuse": False, **endless(model), **options
        })  # fmt: skip
    while batch.busy:
        if len(batch.step()) == ROWS:
            yield


def their_batch(
    llama: Any, model: px.Pixtral, words: TokenizerWrapper, tokens: int, draws: dict[str, Any],
    penalties: dict[str, Any],
) -> Iterator[Any]:  # fmt: skip
    """The same, with text and log-probability as `mlx_lm.server` reads them."""
    sampler = make_sampler(**theirs_of(draws))
    processors = make_logits_processors(**endless(model), **penalties)
    generator = BatchGenerator(llama, completion_batch_size=ROWS, prefill_batch_size=ROWS)
    uids = generator.insert(
        [prompt_tokens(number) for number in range(ROWS)],
        max_tokens=[tokens] * ROWS, samplers=[sampler] * ROWS,
        logits_processors=[processors] * ROWS,
    )  # fmt: skip
    readers = dict(zip(uids, [words.detokenizer for _ in uids], strict=True))  # a copy each
    left = ROWS
    while left:
        responses = generator.next_generated()
        for response in responses:
            reader = readers[response.uid]
            reader.add_token(response.token)
            _ = reader.last_segment, response.logprobs[response.token].item()
        left -= sum(response.finish_reason is not None for response in responses)
        if len(responses) == ROWS:
            yield
    generator.close()


if __name__ == "__main__":
    main()
