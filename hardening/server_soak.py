"""Thousands of requests of all kinds to one server, eight at a time: the same answers as a fresh
one gives one after another, in as much memory.

    python hardening/server_soak.py [--requests 20000] [--seed N]

Questions about pictures, streamed and whole, in words, under a schema and with a tool, texts,
traces, clients that leave, and values that are refused. There are so few different ones that what
is kept of them is complete after the warm-up, which is the first quarter.
"""

import argparse
import asyncio
import json
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from levels import verdict

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from crowds import asked
from servers import Answer, Server, ask, client, ours

AT_ONCE, STEP, SCENES = 8, 100, 40
ENDLESS = {"logit_bias": {"2": -1_000_000}, "max_tokens": 8000, "stream": True}
"""An answer that never says its end token."""

SCHEMA = {
    "type": "object",
    "properties": {"v": {"enum": ["one", "two", "three"]}},
    "required": ["v"],
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "v", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "report", "parameters": SCHEMA}}
OPTIONS: dict[str, dict[str, Any]] = {
    "schema": {"response_format": FORMAT},
    "tool": {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
    "trace": {"trace": True},
    "text": {"max_tokens": 4},
    "leaves": ENDLESS,
    "refused": {"temperature": -1},
}
KINDS = [*["streamed"] * 14, *OPTIONS]
"""Seven of ten are what most clients ask."""

Client = Callable[[str, int], Awaitable[str]]


def asking(http: httpx.AsyncClient, server: Server) -> Client:
    """A function of a kind and the number of a scene: what the server answers, as text."""
    path = f"{server.address}/v1/chat/completions"
    messages = [asked(number)[0] for number in range(SCENES)]

    async def one(kind: str, number: int) -> str:
        message = messages[number]
        if kind == "streamed":
            return (await ask(http, server, [message], Answer())).text
        if kind == "text":
            message = {"role": "user", "content": f"What is {number}?"}
        body = {"messages": [message], "temperature": 0, **OPTIONS[kind]}
        if kind == "leaves":
            async with http.stream("POST", path, json=body) as response:
                lines = response.aiter_lines()
                return str(len([await anext(lines) for _ in range(6)]))
        found = await http.post(path, json=body)
        if kind == "refused":
            return f"{found.status_code}: {found.json()['error']['message']}"
        if found.status_code != 200:
            return f"{found.status_code}: {found.text[:300]}"
        said = found.json()["choices"][0]["message"]
        calls = [call["function"] for call in said.get("tool_calls") or []]
        return json.dumps([said["content"], calls])

    return one


async def expected() -> dict[tuple[str, int], str]:
    """{(kind, scene): answer} of a server that is asked one thing at a time."""
    server = ours("mini")
    try:
        async with client() as http:
            one = asking(http, server)
            return {
                (kind, number): await one(kind, number)
                for kind in dict.fromkeys(KINDS)
                for number in range(SCENES)
            }
    finally:
        server.stop()


async def soak(count: int, seed: int) -> int:
    """Ask, and print a line of figures; the exit status."""
    answers = await expected()
    chance, server = random.Random(seed), ours("mini")
    seen, levels, wrong = Counter[str](), list[float](), list[str]()
    numbers, start = iter(range(1, count + 1)), time.perf_counter()

    async def worker(one: Client) -> None:
        for number in numbers:
            kind, scene = chance.choice(KINDS), chance.randrange(SCENES)
            found = await one(kind, scene)
            seen[kind] += 1
            if found != answers[kind, scene]:
                wrong.append(f"{kind}, {scene}: {found} instead of {answers[kind, scene]}")
            if number % STEP == 0:
                levels.append(server.resident_bytes)
            if number % (10 * STEP) == 0:
                kept = server.metrics()["pixtral_kept_bytes"]
                print(
                    f"{number} requests, {time.perf_counter() - start:.0f} s: "
                    f"{levels[-1] / 1e6:.1f} MB, {kept / 1e6:.1f} of them for later questions",
                    flush=True,
                )

    try:
        async with client() as http:
            await asyncio.gather(*(worker(asking(http, server)) for _ in range(AT_ONCE)))
    finally:
        server.stop()
    for each in wrong[:20]:
        print(each)
    memory, flat = verdict(levels)
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(seen.items()))
    print(f"{len(wrong)} answers that differ in {count} requests ({counted}); {memory}")
    return int(bool(wrong) or not flat)


def main() -> int:
    """Read the options, and ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    return asyncio.run(soak(max(STEP, arguments.requests), arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
