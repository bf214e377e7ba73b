"""Many requests to a server of pixtral-mini, for `benchmarks/serving.py`: at once, or for long."""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from servers import Answer, Server, about, as_url, ask, client, ours, share

from pixtral_mlx.mini import scene

AT_ONCE = 8
STEP = 1000
SCENES = 256
ENDLESS = {"logit_bias": {"2": -1_000_000}, "max_tokens": 8000}
"""An answer that never says its end token."""

SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "v",
        "schema": {
            "type": "object",
            "properties": {"v": {"enum": ["one", "two", "three"]}},
            "required": ["v"],
        },
    },
}
TOOL = {
    "type": "function",
    "function": {"name": "report", "parameters": SCHEMA["json_schema"]["schema"]},
}


def asked(seed: int) -> tuple[dict[str, Any], str]:
    """A question about a scene, and its answer."""
    question = random.Random(seed).choice(scene(seed).questions)
    picture, *others = question.images
    if others:
        return asked(seed + 1_000_000)
    return about(question.text, as_url(picture)), question.answer


# At once ---------------------------------------------------------------------------------------


async def crowd(count: int) -> None:
    """All at the same moment, and then on a fresh server one after another; prints what differs."""
    questions = [asked(seed) for seed in range(count)]
    together, problems, seconds = await _all(questions, at_once=count)
    alone, _, _ = await _all(questions, at_once=1)
    refused = sum(answer is None for answer in together)
    same = sum(a is not None and a.text == b.text for a, b in zip(together, alone, strict=True))
    true = sum(a is not None and a.text == t for a, (_, t) in zip(together, questions, strict=True))
    firsts = [answer.first for answer in together if answer]
    print(
        f"{count} at once: {refused} refused, {same} answered as alone, {true} as the scene is; "
        f"{seconds:.1f} s, first word after {share(firsts, 50):.2f} s (50 %), "
        f"{share(firsts, 95):.2f} s (95 %)"
    )
    for problem in problems:
        print(problem)


async def _all(questions: list, at_once: int) -> tuple[list[Answer | None], list[str], float]:
    """(answers, None where there is none; why; seconds)."""
    server, places, problems = ours("mini"), asyncio.Semaphore(at_once), []

    async def one(message: dict[str, Any]) -> Answer | None:
        async with places:
            try:
                return await ask(http, server, [message], Answer())
            except (RuntimeError, httpx.HTTPError) as error:
                problems.append(str(error))
                return None

    try:
        async with client() as http:
            start = time.perf_counter()
            found = await asyncio.gather(*(one(message) for message, _ in questions))
            return list(found), problems, time.perf_counter() - start
    finally:
        server.stop()


# For long --------------------------------------------------------------------------------------


async def soak(count: int, log: Path) -> None:
    """So many requests of all kinds, some at a time; a line in the log after each thousand."""
    server = ours("mini")
    pool = [asked(seed)[0] for seed in range(SCENES)]
    kinds = _kinds(server)
    numbers, seen, answers, lines = iter(range(count)), Counter(), dict[int, str](), []
    start = time.perf_counter()

    async def worker() -> None:
        for number in numbers:
            message = pool[number % SCENES]
            kind = _kind_of(number)
            found = await kinds[kind](http, message, number)
            seen[kind] += 1
            if kind == "picture" and answers.setdefault(number % SCENES, found) != found:
                seen["wrong"] += 1
            if (number + 1) % STEP == 0:
                report(number + 1)

    def report(number: int) -> None:
        told = server.metrics()
        line = (
            f"{number} requests, {time.perf_counter() - start:.0f} s: resident "
            f"{server.resident_bytes / 1e6:,.1f} MB, kept {told['pixtral_kept_bytes'] / 1e6:,.1f} "
            f"MB; {dict(seen)}"
        )
        lines.append((server.resident_bytes, told["pixtral_kept_bytes"]))
        with log.open("a", encoding="utf-8") as file:
            print(line, file=file)
        print(line, flush=True)

    try:
        async with client() as http:
            await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    finally:
        server.stop()
    half = lines[len(lines) // 2 :]
    if len(half) > 1:
        grown = [resident - half[0][0] for resident, _ in half]
        print(
            f"in the second half: {statistics.median(grown) / 1e6:+.1f} MB (median), "
            f"{grown[-1] / 1e6:+.1f} MB (last), of which kept "
            f"{(half[-1][1] - half[0][1]) / 1e6:+.1f} MB; wrong answers: {seen['wrong']}"
        )


def _kind_of(number: int) -> str:
    """Seven of ten ask about a picture; the others are all that a server meets."""
    others = ("text", "schema", "tool", "leaves", "wrong value", "trace")
    return others[number // 10 % len(others)] if number % 10 > 6 else "picture"


def _kinds(server: Server) -> dict[str, Callable[..., Any]]:
    path = f"{server.address}/v1/chat/completions"

    async def whole(http: httpx.AsyncClient, message: Any, status: int = 200, **more: Any) -> Any:
        found = await http.post(path, json={"messages": [message], **more})
        if found.status_code != status:
            raise RuntimeError(f"HTTP {found.status_code}: {found.text[:300]}")
        return found.json()

    async def picture(http: httpx.AsyncClient, message: Any, number: int) -> str:
        return (await ask(http, server, [message], Answer())).text

    async def text(http: httpx.AsyncClient, message: Any, number: int) -> Any:
        return await whole(http, {"role": "user", "content": f"What is {number}?"}, max_tokens=4)

    async def schema(http: httpx.AsyncClient, message: Any, number: int) -> Any:
        return await whole(http, message, response_format=SCHEMA)

    async def tool(http: httpx.AsyncClient, message: Any, number: int) -> Any:
        more = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
        return await whole(http, message, **more)

    async def leaves(http: httpx.AsyncClient, message: Any, number: int) -> None:
        body = {"messages": [message], "stream": True, **ENDLESS}
        async with http.stream("POST", path, json=body) as response:
            lines = response.aiter_lines()
            for _ in range(6):
                await anext(lines)

    async def wrong(http: httpx.AsyncClient, message: Any, number: int) -> Any:
        return await whole(http, message, status=400, temperature=-number)

    async def trace(http: httpx.AsyncClient, message: Any, number: int) -> Any:
        return await whole(http, message, trace=True)

    return {
        "picture": picture, "text": text, "schema": schema, "tool": tool, "leaves": leaves,
        "wrong value": wrong, "trace": trace,
    }  # fmt: skip
