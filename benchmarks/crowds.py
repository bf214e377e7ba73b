"""Many requests at once to a server of pixtral-mini, for `benchmarks/serving.py`."""

import asyncio
import random
import time
from typing import Any

import httpx
from servers import Answer, about, as_url, ask, client, ours, share

from pixtral_mlx.mini import scene


def asked(seed: int) -> tuple[dict[str, Any], str]:
    """A question about a scene, and its answer."""
    question = random.Random(seed).choice(scene(seed).questions)
    picture, *others = question.images
    if others:
        return asked(seed + 1_000_000)
    return about(question.text, as_url(picture)), question.answer


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
