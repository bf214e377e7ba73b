"""What MLX ties to a thread, and how a model is tied to none.

An array that is not computed yet belongs to the stream that it was made on, and a stream to the
thread that made it: a model opened on one thread could not answer on another. The streams here are
MLX's for any thread; two threads must not compute on them at once, and so with a model.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

_shared: dict[str, mx.Stream] = {}


def shared_stream(kind: mx.DeviceType) -> mx.Stream:
    """The stream for what any thread may compute on the CPU or the GPU."""
    name = str(kind)
    if name not in _shared:
        _shared[name] = mx.new_thread_unsafe_stream(kind)
    return _shared[name]


@contextmanager
def for_any_thread() -> Iterator[None]:
    """Arrays that are made within it can be computed on any thread.

    `mx.load` reads on the CPU whatever the device, so give it `shared_stream(mx.cpu)`.
    """
    with mx.stream(shared_stream(mx.default_device().type)):
        yield


class _Leaving:
    """One of a thread's own values, which Python drops when the thread ends.

    Then MLX must forget the functions that it has compiled for the thread. It would do so by itself
    a moment later, but for that it waits for Python's lock, and where Python is ending by then the
    process is aborted.
    """

    def __del__(self):
        mx.clear_streams()


_own = threading.local()


def leave_tidily() -> None:
    """To be called on every thread that computes with a model, and cheap to call again."""
    if not hasattr(_own, "leaving"):
        main = threading.current_thread() is threading.main_thread()
        _own.leaving = None if main else _Leaving()
