"""Freed buffers that MLX keeps, so that the next layer need not ask the system for memory again."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from ..model.threads import begin_computing

BUFFER_BYTES = 500_000_000
"""Freed buffers that MLX keeps during a run: a quarter of `capacity.RESERVE_BYTES`. A layer of the
12B frees at most 120 MB in the encoder (4,096 patches, 16 bits) and 55 MB in a prefill step of 512
tokens, which the next one takes up again; MLX's own limit is all of the memory."""

_runs = 0  # that are under way, in all threads
_limits = (0, 0)  # what MLX's limit was before them, and is since
_lock = threading.RLock()  # an abandoned run may end inside another's beginning


@contextmanager
def bounded_buffers() -> Iterator[None]:
    """Within it MLX keeps at most `BUFFER_BYTES` of freed buffers, or less if it was told so.

    Runs may overlap, also on several threads: the last to end puts the limit back, unless somebody
    has changed it meanwhile.
    """
    global _runs, _limits
    begin_computing()
    with _lock:
        if _runs == 0:
            before = mx.set_cache_limit(BUFFER_BYTES)
            _limits = before, min(before, BUFFER_BYTES)
            mx.set_cache_limit(_limits[1])
        _runs += 1
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if _runs == 0:
                now = mx.set_cache_limit(_limits[0])
                mx.set_cache_limit(_limits[0] if now == _limits[1] else now)
