"""What the server does for many clients, beside mlx-vlm's.

    python benchmarks/random_checkpoint.py OFFICIAL --scaled
    pixtral-mlx convert --bits 16 --dtype float32 OFFICIAL FOLDER
    python benchmarks/serving.py FOLDER --peer-python PYTHON [--rounds 3] [--clients 1 4 16] \\
        [--short]

Each client holds a conversation of three questions about a picture of its own; then one asks about
a picture of 4,160 tokens, twice; then such a picture arrives while four answers are being written.
Every case has a server of its own, fresh, with its defaults; the two sides take turns.

    python benchmarks/serving.py --crowd 200

asks pixtral-mini so many questions at once, each about a picture of its own, and compares all
answers with those that each gets alone.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from servers import Answer, Server, about, ask, client, middle, noise, ours, share, theirs

QUESTIONS = ("What do you see?", "And on the left?", "And what is it for?")
WORDS = 16
LARGE = 1024  # pixels: 64 x 64 patches, 4,160 tokens
RUNNING = 4
STORY = 4000
STEPS = 12
WITH_CACHE = "mlx-vlm, APC_ENABLED=1"
"""Its cache of prompts, which is off by default; only a follow-up could gain by it."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("folder", nargs="?", help="the scaled model in float32, HF layout")
    parser.add_argument("--peer-python", help="a Python that has mlx-vlm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--side", type=int, default=384, help="of a client's picture (384 pixels)")
    parser.add_argument("--short", action="store_true", help="only those conversations")
    parser.add_argument("--crowd", type=int, help="ask so many questions at once")
    arguments = parser.parse_args()
    if arguments.crowd:
        import crowds

        asyncio.run(crowds.crowd(arguments.crowd))
    elif arguments.folder:
        compare(arguments)
    else:
        parser.error("which folder? or --crowd")


def compare(arguments: argparse.Namespace) -> None:
    """All cases, side by side, and a table of each."""
    sides: dict[str, Callable[[], Server]] = {"pixtral-mlx": lambda: ours(arguments.folder)}
    if peer := arguments.peer_python:
        sides["mlx-vlm"] = lambda: theirs(peer, arguments.folder)
        sides[WITH_CACHE] = lambda: theirs(peer, arguments.folder, APC_ENABLED="1")
    cases: dict[str, Callable[[Server, int], Any]] = {
        f"{count} clients": lambda server, seed, count=count: conversations(
            server, count, arguments.side, seed
        )
        for count in arguments.clients
    }
    if not arguments.short:
        cases |= {"follow-up": follow_up, "pause": pause}
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(arguments.rounds):
        for case, measure in cases.items():
            for side, start in sides.items():
                if side == WITH_CACHE and measure is not follow_up:
                    continue
                server = start()
                try:
                    run = asyncio.run(measured(measure, server, number))
                finally:
                    peak, processor = server.stop()
                run |= {"peak, GB": peak / 1e9, "processor, s": processor}
                found.setdefault((case, side), []).append(run)
                told = ", ".join(f"{name} {value:.3f}" for name, value in run.items())
                print(f"round {number + 1}, {case}, {side}: {told}", file=sys.stderr, flush=True)
    for case in cases:
        table(case, {side: found[case, side] for side in sides if (case, side) in found})


def table(case: str, runs: dict[str, list[dict[str, float]]]) -> None:
    """Medians with their spread, as Markdown."""
    names = [*next(iter(runs.values()))[0]]
    print(f"\n| {case} | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for side, rounds in runs.items():
        cells = (middle(run[name] for run in rounds) for name in names)
        print(f"| {side} | {' | '.join(cells)} |", flush=True)


async def measured(measure: Callable[..., Any], server: Server, number: int) -> dict[str, float]:
    """One case, after the server has read its weights and looked at a picture of another size."""
    async with client() as http:
        await ask(http, server, [about("Hello", noise(64, 9999))], Answer(), max_tokens=4)
    return await measure(server, 1000 * number)


async def conversations(server: Server, count: int, side: int, seed: int) -> dict[str, float]:
    """So many clients, three questions each about a picture of their own."""

    async def talk(number: int) -> list[Answer]:
        messages, answers = [about(QUESTIONS[0], noise(side, seed + number))], []
        for following in (*QUESTIONS[1:], None):
            answers.append(await ask(http, server, messages, Answer(), max_tokens=WORDS))
            messages.append({"role": "assistant", "content": answers[-1].text})
            messages.append({"role": "user", "content": following})
        return answers

    async with client() as http:
        start = time.perf_counter()
        talks = await asyncio.gather(*(talk(number) for number in range(count)))
        seconds = time.perf_counter() - start
    firsts = [answers[0].first for answers in talks]
    others = [answer.first for answers in talks for answer in answers[1:]]
    return {
        "first, 50 %": share(firsts, 50),
        "first, 95 %": share(firsts, 95),
        "next, 50 %": share(others, 50),
        "next, 95 %": share(others, 95),
        "tokens/s": sum(answer.written for answers in talks for answer in answers) / seconds,
        "read": statistics.mean(answers[0].read for answers in talks),
        "written": sum(answer.written for answers in talks for answer in answers),
        "seconds": seconds,
    }


async def follow_up(server: Server, seed: int) -> dict[str, float]:
    """A second question of a conversation about one large picture."""
    async with client() as http:
        messages = [about(QUESTIONS[0], noise(LARGE, seed))]
        first = await ask(http, server, messages, Answer(), max_tokens=WORDS)
        messages.append({"role": "assistant", "content": first.text})
        messages.append({"role": "user", "content": QUESTIONS[1]})
        second = await ask(http, server, messages, Answer(), max_tokens=WORDS)
    return {
        "read": first.read,
        "first": first.first,
        "second": second.first,
        "share, %": 100 * second.first / first.first,
        "known": second.known,
    }


async def pause(server: Server, seed: int) -> dict[str, float]:
    """The longest silence of four answers while a large picture is read."""
    async with client() as http:
        stories = [Answer() for _ in range(RUNNING)]
        # Drawn words: the likeliest of a random model may be one without letters, for ever.
        running = [
            asyncio.create_task(
                ask(http, server, told(n), story, max_tokens=STORY, temperature=1, seed=n)
            )
            for n, story in enumerate(stories)
        ]
        while any(len(story.times) < STEPS for story in stories):
            if any(task.done() for task in running):
                sys.exit(f"an answer ended too soon: {running}")
            await asyncio.sleep(0.05)
        question = [about(QUESTIONS[0], noise(LARGE, seed))]
        picture = await ask(http, server, question, Answer(), max_tokens=4)
        for task in running:
            task.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
    if any(isinstance(each, Answer | RuntimeError) for each in ended):
        sys.exit(f"an answer ended before the picture was read: {ended}")
    usual, during, words = [], [], 0
    for story in stories:
        before = [moment for moment in story.times if moment < picture.sent]
        meanwhile = [t for t in story.times if picture.sent < t < picture.times[0]]
        usual += silences(before)
        during += silences([picture.sent, *meanwhile, picture.times[0]])
        words += len(meanwhile)
    return {
        "usual step": statistics.median(usual),
        "longest pause": max(during),
        "picture's first word": picture.first,
        "words meanwhile": words,
    }


def told(number: int) -> list[dict[str, Any]]:
    """A question with a long answer."""
    return [{"role": "user", "content": f"Tell me story number {number}."}]


def silences(moments: list[float]) -> list[float]:
    """Seconds between one and the next."""
    return [after - before for before, after in pairwise(moments)]


if __name__ == "__main__":
    main()
