"""What MLX ties to a thread, and how a model is tied to none.

An array that is not computed yet belongs to the stream that it was made on, and a stream to the
thread that made it: a model opened on one thread could not answer on another. The streams here are
MLX's for any thread; two threads must not compute on them at once, and so with a model.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

_shared: dict[str, mx.Stream] = {}
_lost = False  # whether a fork has left the threads behind on which MLX computes


def shared_stream(kind: mx.DeviceType) -> mx.Stream:
    """The stream for what any thread may compute on the CPU or the GPU.

    Raises:
        RuntimeError: as `begin_computing`.
    """
    name = str(kind)
    _check_process()
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


def begin_computing() -> None:
    """To be called on every thread that computes with a model, and cheap to call again: so the
    thread leaves tidily.

    Raises:
        RuntimeError: the process is a forked copy of one that computed, where MLX would wait for
            ever.
    """
    _check_process()
    if not hasattr(_own, "leaving"):
        main = threading.current_thread() is threading.main_thread()
        _own.leaving = None if main else _Leaving()


def _check_process() -> None:
    if _lost:
        raise RuntimeError(
            "MLX does not work in a forked copy of a process that has used it: start processes "
            "with multiprocessing.get_context('spawn'), or fork before a model is loaded"
        )


def _forked() -> None:
    global _lost
    _lost = bool(_shared)


os.register_at_fork(after_in_child=_forked)
