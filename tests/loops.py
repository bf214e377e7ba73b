"""Coroutines in tests."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def in_a_loop(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What a coroutine returns, on a thread of its own: a browser's tests leave a loop running in
    theirs."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(make())).result()
