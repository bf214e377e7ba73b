"""Prompt lookup: how much is accepted on JSON and tables, what a check costs, and pixtral-mini.

    python benchmarks/lookup.py [--rounds 9]

1. Texts of a known kind (JSON, a table, prose) in the tokens of the small Tekken v3 that
   mistral-common ships. The text itself stands for what the model would write: each draft is
   accepted as far as it agrees with the text. That is exact for a model that writes this text, and
   says nothing about whether a model does.
2. The gain of each text at what others measured of passes on Metal, see `PUBLISHED`.
3. Seconds of a pass over several tokens against a pass over one, on a random decoder 1024 wide
   with 8 layers, after 256 tokens of context. From both follows what lookup gains there: tokens
   over the cost of passes. On a CPU the clock counts this process's own seconds.
4. pixtral-mini's own answers to "describe" questions, once and as the second turn of a conversation
   whose first turn is the same.
"""

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

import pixtral_mlx as px
from pixtral_mlx.engine.lookup import MOST_DRAFTED, Drafter, most_drafted
from pixtral_mlx.model.config import TextConfig
from pixtral_mlx.model.decoder import Decoder

ROOT = Path(__file__).resolve().parent.parent
PROSE = Path(__file__).with_name("prose.txt")
LENGTHS = (2, 4, 8)
PUBLISHED = {
    "M5 Max": {1: 76.4, 3: 85.0, 5: 108.2, 8: 167.9},  # 70B, 4 bits; mlx pull request 3791
    "M4 Pro": {1: 1, 2: 1.03, 3: 1.22, 4: 1.47, 6: 2.07, 8: 2.69},  # 4096 x 24576; mlx issue 3839
    "M3 Max": {1: 0.129, 2: 0.129, 4: 0.165, 6: 0.263, 8: 0.323},  # 5120 x 17408; mlx pull 3863
    "no such kernel": {1: 0.70, 2: 1.20, 4: 2.17, 8: 3.38},  # 1024 x 151936; mlx issue 3661
}
"""Milliseconds of a pass, or of its largest matrix, over so many tokens, 4-bit weights on Metal;
all under github.com/ml-explore/mlx. The last is of a time before MLX had the kernel that reads the
weights once for a few tokens, which M1 and M2 still have not for these weights."""
PASSES = (1, 2, 3, 5, 9)
GOODS = "apples,brown bread,coffee,green tea,olive oil,red lentils,rice,soap,tomatoes,walnuts"
clock = time.process_time if mx.default_device() == mx.Device(mx.cpu) else time.perf_counter
TEXT = TextConfig(
    dim=1024, n_layers=8, n_heads=16, n_kv_heads=4, head_dim=64, hidden_dim=2816, vocab_size=8192,
    norm_eps=1e-5, rope_theta=1e9,
)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    sys.path.insert(0, str(ROOT / "tests"))
    import checkpoints

    print(
        f"pixtral-mlx {px.__version__}, MLX {mx.__version__}, {mx.default_device()}, "
        f"float32 products in {px.machine().float32_products}\n",
        flush=True,
    )
    mx.random.seed(0)
    decoder = Decoder(TEXT)
    costs = {"float32": pass_costs(decoder, rounds)}
    nn.quantize(decoder, 64, 4)
    costs["4 bits"] = pass_costs(decoder, rounds)
    report_costs(costs)
    report_texts(checkpoints.shipped_tokenizer("tekken_240911.json"), costs)
    report_published(checkpoints.shipped_tokenizer("tekken_240911.json"))
    report_mini()


def texts() -> dict[str, str]:
    """A receipt of 40 lines as JSON and as a table, and prose: the beginning of an old README, kept
    so that rewriting the README changes no figure."""
    draw = random.Random(0)
    rows = []
    for _ in range(40):
        price, number = round(draw.uniform(0.5, 20), 2), draw.randint(1, 9)
        total = round(price * number, 2)
        item = draw.choice(GOODS.split(","))
        rows.append({"item": item, "quantity": number, "unit_price": price, "total": total})
    cells = [[str(value) for value in row.values()] for row in rows]
    lines = [list(rows[0]), ["---"] * 4, *cells]
    return {
        "JSON, indented": json.dumps(rows, indent=2),
        "JSON, one line": json.dumps(rows),
        "Markdown table": "".join(f"| {' | '.join(line)} |\n" for line in lines),
        "prose": PROSE.read_text(encoding="utf-8"),
    }


def simulate(prompt: list[int], text: list[int], longest: int) -> tuple[int, int, list[int]]:
    """Tokens drafted and accepted, and the size of each pass, for a model that writes `text`."""
    drafter = Drafter([*prompt, text[0]], longest)
    at, drafted, accepted, passes = 1, 0, 0, []
    while at < len(text):
        draft = drafter.draft(len(text) - at - 1) if drafter.pays else []
        right = 0
        while right < len(draft) and draft[right] == text[at + right]:
            right += 1
        drafter.judge(len(draft), right)
        for token in text[at : at + right + 1]:
            drafter.add(token)
        at += right + 1
        drafted, accepted = drafted + len(draft), accepted + right
        passes.append(len(draft) + 1)
    return drafted, accepted, passes


def pass_costs(decoder, rounds: int) -> dict[int, float]:
    """Seconds of a pass over n tokens as a share of one over a single token, medians, in turns."""
    from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

    cache = make_prompt_cache(decoder)
    mx.eval(decoder(mx.array([[20 + n % 400 for n in range(256)]]), cache=cache))
    times: dict[int, list[float]] = {size: [] for size in PASSES}
    for number in range(rounds + 1):
        for size in PASSES:
            tokens = mx.array([[100 + n for n in range(size)]])
            start = clock()
            mx.eval(mx.argmax(decoder(tokens, cache=cache), axis=-1))
            if number:
                times[size].append(clock() - start)
            trim_prompt_cache(cache, size)
    return {size: statistics.median(times[size]) / statistics.median(times[1]) for size in PASSES}


def cost_of(size: int, costs: dict[int, float]) -> float:
    """Of a pass over `size` tokens, between those measured in a straight line."""
    below = max(known for known in costs if known <= size)
    above = min((known for known in costs if known >= size), default=below)
    if below == above:
        return costs[below]
    part = (size - below) / (above - below)
    return costs[below] + part * (costs[above] - costs[below])


def report_costs(costs: dict[str, dict[int, float]]) -> None:
    """Print what a pass costs."""
    print("| one pass over | " + " | ".join(f"{size}" for size in PASSES) + " tokens |")
    print("|---|" + "---|" * len(PASSES))
    for name, own in costs.items():
        print(f"| {name} | " + " | ".join(f"{own[size]:.2f}" for size in PASSES) + " |")
    print()


def report_texts(tokenizer_file, costs: dict[str, dict[int, float]]) -> None:
    """Print what is accepted in each text, and what that would gain at the costs measured here."""
    from pixtral_mlx.inputs.tokenizer import Tokenizer

    words = Tokenizer(tokenizer_file)._words
    prompt = words.encode("List every line of this receipt.", bos=True, eos=False)
    gains = " | ".join(f"gain, {name}" for name in costs)
    print(f"| text | longest | tokens | passes | tokens a pass | drafted | accepted | {gains} |")
    print("|---|" + "---|" * (6 + len(costs)))
    for name, text in texts().items():
        tokens = words.encode(text, bos=False, eos=True)
        for longest in LENGTHS:
            drafted, accepted, passes = simulate(prompt, tokens, longest)
            written = len(tokens) - 1  # the first token comes with the prompt
            shares = [
                f"{written / sum(cost_of(size, own) for size in passes):.2f} x"
                for own in costs.values()
            ]
            print(
                f"| {name} | {longest} | {len(tokens)} | {len(passes)} | "
                f"{written / len(passes):.2f} | {drafted} | {accepted} "
                f"({accepted / max(drafted, 1):.0%}) | {' | '.join(shares)} |"
            )
    print()


def report_published(tokenizer_file) -> None:
    """Print the gain of each text where a pass costs what others measured, with drafts as long as
    the library takes there; below 1 it would be a loss."""
    from pixtral_mlx.inputs.tokenizer import Tokenizer

    words = Tokenizer(tokenizer_file)._words
    prompt = words.encode("List every line of this receipt.", bos=True, eos=False)
    chips = {
        name: {size: each / own[1] for size, each in own.items()} for name, own in PUBLISHED.items()
    }
    print("| text | longest | " + " | ".join(chips) + " |")
    print("|---|---|" + "---|" * len(chips))
    for name, text in texts().items():
        tokens = words.encode(text, bos=False, eos=True)
        for longest in (2, MOST_DRAFTED):
            _, _, passes = simulate(prompt, tokens, longest)
            gains = [
                (len(tokens) - 1) / sum(cost_of(size, own) for size in passes)
                for own in chips.values()
            ]
            cells = " | ".join(f"{gain:.2f} x" for gain in gains)
            print(f"| {name} | {longest} | {cells} |")
    for name, own in chips.items():
        sizes = {size: cost_of(size, own) for size in (1, 2, MOST_DRAFTED)}
        print(f"{name}: drafts of at most {most_drafted(sizes)}")
    print()


def report_mini() -> None:
    """Print how many passes lookup saves pixtral-mini."""
    from pixtral_mlx.mini import scene
    from pixtral_mlx.mini.evaluation import FIRST_SEED

    model = px.load("mini", dtype="float32")
    for kind, turns in (("asked once", 1), ("asked again in the next turn", 2)):
        tokens = passes = same = asked = 0
        for number in range(12):
            for question in scene(FIRST_SEED + number).questions:
                if question.kind != "describe":
                    continue
                messages = conversation(question, model, turns)
                plain = model.generate(messages, max_tokens=60, reuse=False)
                copied = model.generate(
                    messages, max_tokens=60, reuse=False, prompt_lookup_num_tokens=8
                )
                asked += 1
                same += plain.tokens == copied.tokens
                tokens += len(plain.tokens)
                passes += len(plain.tokens) - copied.stats.accepted_tokens
        print(
            f"pixtral-mini, described {kind}: {asked} answers of {tokens} tokens in {passes} "
            f"passes with lookup; {same} of {asked} the same"
        )


def conversation(question, model, turns: int) -> list[dict]:
    """The question, after `turns` - 1 answers of the model to the same."""
    images = [{"type": "image", "image": image} for image in question.images]
    messages = [{"role": "user", "content": [*images, {"type": "text", "text": question.text}]}]
    for _ in range(turns - 1):
        answer = model.generate(messages, max_tokens=60).text
        messages += [
            {"role": "assistant", "content": answer},
            {"role": "user", "content": question.text},
        ]
    return messages


if __name__ == "__main__":
    main()
