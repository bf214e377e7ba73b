"""Answers in a form on the scaled model: what a step costs, and what is saved by what is forced.

    python benchmarks/forms.py FOLDER [--steps 48] [--rounds 5]

FOLDER is what `benchmarks/random_checkpoint.py FOLDER --scaled` wrote: 131,072 words.

1. Seconds a step of a free answer and of one held to a JSON string that does not end, which
   forbids few tokens and forces none, one after the other in every round. Masks are made while the
   step runs; what is left of their cost is in the difference: choosing within the mask, and its
   share of the probability. The process's own seconds, on all cores, stand beside.
2. An invoice of three lines: tokens, and how many of them were forced and so cost no pass of their
   own. A pass over several tokens reads the weights once, which is what counts on a GPU; on a CPU
   it takes as long as so many passes over one.

mlx-vlm's answers in a JSON schema need Metal, so there is nothing to compare with on a CPU.
"""

import argparse
import statistics
import sys
import time
from typing import Any

import mlx.core as mx

import pixtral_mlx as px

CLOCKS = {"seconds a step": time.perf_counter, "of the process": time.process_time}
QUESTION = "Read the invoice."
TEXT = {"type": "string", "minLength": 4_000}
LINE = {
    "type": "object",
    "properties": {
        "description": {"type": "string", "maxLength": 24},
        "quantity": {"type": "integer", "minimum": 1, "maximum": 99},
        "unit_price": {"type": "number", "minimum": 0, "maximum": 999, "multipleOf": 0.01},
        "taxable": {"type": "boolean"},
    },
    "required": ["description", "quantity", "unit_price", "taxable"],
}
INVOICE = {
    "type": "object",
    "properties": {
        "invoice_number": {"type": "string", "pattern": "^INV-[0-9]{6}$"},
        "invoice_date": {"type": "string", "format": "date"},
        "currency": {"enum": ["EUR", "USD", "GBP", "CHF"]},
        "vendor": {"type": "string", "maxLength": 24},
        "line_items": {"type": "array", "items": LINE, "minItems": 3, "maxItems": 3},
        "total_amount": {"type": "number", "minimum": 0, "maximum": 9999, "multipleOf": 0.01},
    },
    "required": [
        *("invoice_number", "invoice_date", "currency", "vendor", "line_items", "total_amount"),
    ],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(
        f"pixtral-mlx {px.__version__}, MLX {mx.__version__}, {mx.default_device()}, float32 "
        f"products in {px.machine().float32_products}",
        flush=True,
    )
    model = px.load(arguments.folder, dtype="float32")
    found = {clock: steps(model, arguments.steps, arguments.rounds, clock) for clock in CLOCKS}
    for clock, (free, held) in found.items():
        costs = [b / a - 1 for a, b in zip(free, held, strict=True)]
        print(
            f"{clock:20} free {statistics.median(free) * 1e3:.2f} ms, in a form "
            f"{statistics.median(held) * 1e3:.2f} ms; more in each round: "
            f"{', '.join(f'{cost:+.1%}' for cost in costs)}; median {statistics.median(costs):+.1%}"
        )
    report_invoice(model, statistics.median(found["of the process"][0]))


def steps(
    model: px.Pixtral, count: int, rounds: int, clock: str
) -> tuple[list[float], list[float]]:
    """Seconds a step of each round: free, and in a form. A first round warms up."""
    kinds: list[dict[str, Any]] = [{}, {"response_format": TEXT}]
    found: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for seconds, form in zip(found, kinds, strict=True):
            stream = model.stream(
                QUESTION, temperature=1.0, seed=number, max_tokens=count,
                logit_bias={model.tokenizer.eos_id: -1e6}, **form,
            )  # fmt: skip
            next(stream)
            began = CLOCKS[clock]()
            for _ in stream:
                pass
            took, stats = CLOCKS[clock]() - began, stream.reply.stats
            if stats.generated_tokens < count:
                sys.exit(f"an answer ended after {stats.generated_tokens} tokens")
            if number:
                seconds.append(took / (count - stats.forced_tokens - 1))
    return found[0], found[1]


def report_invoice(model: px.Pixtral, free: float) -> None:
    """The second measurement; `free` is the process's own seconds for a free step."""
    for seed in range(3):
        stream = model.stream(
            QUESTION, temperature=1.0, seed=seed, max_tokens=600, response_format=INVOICE
        )
        next(stream)
        began = time.process_time()
        for _ in stream:
            pass
        took, stats = time.process_time() - began, stream.reply.stats
        alone = (stats.generated_tokens - 1) * free
        print(
            f"invoice {seed}: {stream.reply.finish_reason}, {stats.generated_tokens} tokens, "
            f"{stats.forced_tokens} of them forced, so "
            f"{1 - stats.forced_tokens / stats.generated_tokens:.0%} of the passes; the process's "
            f"seconds {took:.2f}, for as many free ones {alone:.2f}"
        )


if __name__ == "__main__":
    main()
