"""One thread owns the model; others look inside while it writes."""

import gc
import subprocess
import sys
import threading
import time
import weakref

import mlx.core as mx
import pytest
from questions import noise

import pixtral_mlx as px
from pixtral_mlx.worker import Worker


@pytest.fixture(scope="module")
def image():
    return noise(0, 64, 48)


@pytest.fixture
def worker(folder):
    with Worker(folder, dtype="float32") as worker:
        yield worker


@pytest.fixture(scope="module")
def expected(folder, image):
    return px.load(folder, dtype="float32").generate("Hi", images=[image], max_tokens=12)


def test_an_answer_is_the_same_as_without_a_worker(worker, image, expected):
    stream = worker.stream("Hi", images=[image], max_tokens=12)
    pieces = list(stream)
    assert [piece.token for piece in pieces] == expected.tokens == stream.reply.tokens
    assert stream.reply.finish_reason == "length"
    assert list(stream) == []


def test_everything_runs_on_one_other_thread(worker):
    idents = {worker.submit(lambda model: threading.get_ident()).result() for _ in range(3)}
    assert len(idents) == 1
    assert threading.get_ident() not in idents


def test_requests_are_answered_while_an_answer_is_written(worker, image, expected):
    stream = worker.stream("Hi", images=[image], max_tokens=12, trace=True)
    at = []
    for number, piece in enumerate(stream):
        look = worker.submit(
            lambda model, n=number, trace=piece.trace: (
                len(stream.reply.tokens),
                trace.token_attention(n, 0),
            )
        )
        written, row = look.result(timeout=10)
        at.append(written)
        assert row.shape[0] == stream.reply.stats.prompt_tokens + number
        assert abs(row.sum() - 1) < 1e-5
    assert at[0] < 12  # not all of it had to be written before the first look
    assert stream.reply.tokens == expected.tokens


def test_requests_are_answered_during_the_prefill(worker, image):
    answered = []

    def progress(done, total):
        answered.append(worker.submit(lambda model, d=done: d))

    list(worker.stream("Hi", images=[image], max_tokens=1, prefill_step_size=4, progress=progress))
    assert [future.result(timeout=10) for future in answered] == sorted(
        f.result() for f in answered
    )
    assert len(answered) > 4


def test_eight_streams_are_written_together(worker, folder, image):
    options = {"max_tokens": 40, "logit_bias": {2: -1e9}, "reuse": False}
    hold = threading.Event()
    worker.submit(lambda model: hold.wait(60))
    requests = [{"messages": f"Question {n}?", "seed": n, "temperature": 1.0} for n in range(8)]
    requests[3] |= {"images": [image], "trace": True}
    streams = [worker.stream(**request, **options) for request in requests]
    order: list[int] = []
    readers = [
        threading.Thread(target=lambda n=n, s=s: order.extend(n for _ in s))
        for n, s in enumerate(streams)
    ]
    for reader in readers:
        reader.start()
    hold.set()
    for reader in readers:
        reader.join(60)
        assert not reader.is_alive()
    first = {n: order.index(n) for n in range(8)}
    last = {n: len(order) - 1 - order[::-1].index(n) for n in range(8)}
    assert max(first.values()) < min(last.values())  # the last began before the first ended
    alone = px.load(folder, dtype="float32")
    for stream, request in zip(streams, requests, strict=True):
        assert stream.reply.finish_reason == "length"
        assert stream.reply.tokens == alone.generate(**request, **options).tokens
    row = worker.submit(lambda model: streams[3].reply.trace.token_attention(5, 1)).result(10)
    assert row.sum() == pytest.approx(1, abs=1e-5)


def test_one_stopped_or_failing_stream_leaves_the_others(worker, image, expected):
    options = {"max_tokens": 2000, "logit_bias": {2: -1e9}, "reuse": False}
    endless = worker.stream("Hi", **options)
    failing = worker.stream("Hi", images=[b"no picture"], **options)
    plain = worker.stream("Hi", images=[image], max_tokens=12)
    next(endless)
    assert [piece.token for piece in plain] == expected.tokens
    with pytest.raises(px.ImageError):
        next(failing)
    assert endless.reply.finish_reason is None
    endless.stop()
    assert 0 < len(list(endless)) < 2000
    assert endless.reply.finish_reason == "interrupted"


def test_more_streams_than_are_written_at_once_wait_their_turn(worker):
    long = [worker.stream("Hi", max_tokens=60, reuse=False) for _ in range(8)]
    waiting = [worker.stream("Why?", max_tokens=4, reuse=False) for _ in range(4)]
    waiting[3].stop()
    assert {len(list(stream)) for stream in waiting[:3]} == {4}
    assert list(waiting[3]) == [] and waiting[3].reply.finish_reason == "interrupted"
    assert all(list(stream) for stream in long)


def test_streams_wait_for_one_another(worker, image, expected):
    first = worker.stream("Hi", images=[image], max_tokens=12)
    second = worker.stream("Hi", images=[image], max_tokens=12)
    assert [piece.token for piece in second] == expected.tokens
    assert [piece.token for piece in first] == expected.tokens


class Sink(list):
    """Takes what comes, and says when it was the last."""

    def __init__(self):
        self.ended = threading.Event()

    def put(self, item):
        self.append((item, threading.current_thread().name))
        if not isinstance(item, px.Piece):
            self.ended.set()


def test_pieces_go_where_they_are_wanted(worker, image, expected):
    sinks = [Sink(), Sink()]
    stream = worker.stream("Hi", images=[image], max_tokens=12, pieces=sinks[0])
    worker.stream("Hi", images=[b"no picture"], pieces=sinks[1])
    for sink in sinks:
        assert sink.ended.wait(60)
        assert {thread for _, thread in sink} == {"pixtral-mlx worker"}
    *pieces, end = [item for item, _ in sinks[0]]
    assert [piece.token for piece in pieces] == expected.tokens
    assert end is stream.reply and end.finish_reason == "length"
    assert [type(item) for item, _ in sinks[1]] == [px.ImageError]


def test_a_sink_that_breaks_stops_its_own_answer(worker, image, expected, caplog):
    class Broken:
        def put(self, item):
            raise RuntimeError("the loop is closed")

    broken = worker.stream("Hi", max_tokens=10**5, logit_bias={2: -1e9}, pieces=Broken())
    plain = worker.stream("Hi", images=[image], max_tokens=12)
    assert [piece.token for piece in plain] == expected.tokens
    worker.submit(lambda model: 0).result(timeout=10)
    assert broken.reply.finish_reason == "interrupted"
    assert "could not be handed on" in caplog.text


@pytest.mark.parametrize("kind", [KeyError, SystemExit, KeyboardInterrupt])
def test_an_observer_that_fails_ends_its_own_answer(worker, image, expected, kind):
    def progress(done, total):
        raise kind("mine")

    broken = worker.stream("Hi", max_tokens=5, progress=progress)
    plain = worker.stream("Hi", images=[image], max_tokens=12)
    with pytest.raises((KeyError, RuntimeError), match="mine") as caught:
        list(broken)
    assert caught.type is KeyError or kind.__name__ in str(caught.value)
    assert [piece.token for piece in plain] == expected.tokens


@pytest.mark.parametrize("wait", ["result", "exception", "next"])
def test_who_would_wait_for_itself_is_refused_at_once(worker, wait):
    inner = []

    def ask(model):
        if wait == "next":
            inner.append(worker.stream("Hi", max_tokens=2))
            return next(inner[0])
        inner.append(worker.submit(lambda model: 7))
        return getattr(inner[0], wait)()

    with pytest.raises(RuntimeError, match="use the model that the function is given"):
        worker.submit(ask).result(timeout=20)
    assert len(list(inner[0])) == 2 if wait == "next" else inner[0].result(timeout=20) == 7


def test_a_stream_that_waits_is_stopped_at_once(folder, monkeypatch):
    loads, load = threading.Event(), px.load
    monkeypatch.setattr(
        "pixtral_mlx.pixtral.load", lambda *a, **o: loads.wait(60) and load(*a, **o)
    )
    sink = Sink()
    with Worker(folder, dtype="float32") as worker:
        gone = [worker.stream("Hi"), worker.stream("Hi", pieces=sink)]
        stays = worker.stream("Hi", max_tokens=2)
        for stream in gone:
            stream.stop()
        assert list(gone[0]) == [] and sink.ended.is_set()
        assert {stream.reply.finish_reason for stream in gone} == {"interrupted"}
        loads.set()
        assert len(list(stays)) == 2
        gone[0].stop()  # once more is no mistake
        assert len(list(worker.stream("Hi", max_tokens=2))) == 2
    assert len(sink) == 1


@pytest.mark.parametrize("batch_size", [1, 2])
def test_so_many_streams_are_written_at_once(folder, batch_size):
    """A stream that comes after them begins when one of them has ended."""
    order, ended = [], []

    class Named(Sink):
        def __init__(self, name):
            super().__init__()
            self.name = name
            ended.append(self.ended)

        def put(self, item):
            order.append(self.name)
            super().put(item)

    with Worker(folder, dtype="float32", batch_size=batch_size) as worker:
        hold = threading.Event()
        worker.submit(lambda model: hold.wait(60))
        for name in range(3):
            options = {"max_tokens": 30, "logit_bias": {2: -1e9}}
            worker.stream("Hi", pieces=Named(name), **options)
        hold.set()
        assert all(end.wait(60) for end in ended)
    last = {name: len(order) - 1 - order[::-1].index(name) for name in range(3)}
    assert (order.index(1) < last[0]) == (batch_size == 2)
    assert order.index(2) > last[0]
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        Worker(folder, batch_size=0)


def test_an_idle_worker_keeps_no_buffers(worker, monkeypatch):
    monkeypatch.setattr("pixtral_mlx.worker.IDLE_SECONDS", 0.05)
    for _ in range(2):
        held = worker.submit(lambda model: mx.eval(mx.ones(2**20) + 1) or mx.get_cache_memory())
        assert held.result(timeout=10) >= 2**22
        until = time.monotonic() + 10
        while mx.get_cache_memory() and time.monotonic() < until:
            time.sleep(0.01)
        assert mx.get_cache_memory() == 0


@pytest.mark.parametrize("during", ["prefill", "decode"])
def test_stop(worker, image, during):
    def progress(done, total):
        if during == "prefill":
            stream.stop()

    stream = worker.stream(
        "Hi", images=[image], max_tokens=2000, prefill_step_size=4, progress=progress
    )
    count = 0
    for _ in stream:
        count += 1
        stream.stop()
    assert stream.reply.finish_reason == "interrupted"
    assert count < 2000
    assert worker.submit(lambda model: 7).result(timeout=10) == 7


def test_a_closed_worker_leaves_nothing(folder, image):
    """No thread, no model, no buffer, though it is held and so is what it was asked."""
    threads = threading.active_count()
    worker = Worker(folder, dtype="float32")
    stream = worker.stream("Hi", images=[image], max_tokens=10**5, logit_bias={2: -1e9})
    next(stream)
    buffers = worker.submit(lambda model: mx.eval(mx.ones(2**20) + 1) or mx.get_cache_memory())
    gone = weakref.ref(worker.submit(lambda model: model).result(timeout=20))
    worker.close()
    assert buffers.result() >= 2**22 and mx.get_cache_memory() < 2**20
    gc.collect()
    assert gone() is None and threading.active_count() == threads
    with Worker(px.load(folder)) as handed:
        gone = weakref.ref(handed.submit(lambda model: model).result(timeout=20))
    assert handed.ended and gone() is None


def test_errors_reach_who_asked(worker, image):
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda model: 1 / 0).result(timeout=10)
    with pytest.raises(px.PromptError):
        list(worker.stream([{"role": "nobody"}]))
    with pytest.raises(ValueError, match="max_tokens"):
        list(worker.stream("Hi", max_tokens=0))
    assert len(list(worker.stream("Hi", max_tokens=2))) == 2


def test_loading_errors_reach_every_request(tmp_path):
    with Worker(tmp_path / "nothing") as worker:
        for _ in range(2):  # before it has failed, and after
            with pytest.raises(px.CheckpointError, match="no such folder"):
                worker.submit(lambda model: 1).result(timeout=10)
            with pytest.raises(px.CheckpointError, match="no such folder"):
                list(worker.stream("Hi"))


def test_a_cancelled_request_stops_no_other(folder):
    worker, go = Worker(folder), threading.Event()
    worker.submit(lambda model: 0).result(timeout=10)
    running = worker.submit(lambda model: go.wait(10))
    while not running.running():
        time.sleep(0.001)
    cancelled, waiting = worker.submit(lambda model: 1), worker.submit(lambda model: 2)
    assert cancelled.cancel()
    closing = threading.Thread(target=worker.close)
    closing.start()
    while not worker._closed:
        time.sleep(0.001)
    go.set()
    closing.join(10)
    with pytest.raises(RuntimeError, match="closed"):
        waiting.result(timeout=10)


def test_all_who_wait_for_a_stream_see_its_end(worker):
    stream, found = worker.stream("Hi", max_tokens=4), []
    readers = [threading.Thread(target=lambda: found.extend(stream)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(10)
        assert not reader.is_alive()
    assert len(found) == 4


LEAVE = """
import sys
from pixtral_mlx.worker import Worker
worker = Worker(sys.argv[1])
stream = worker.stream("Hi", max_tokens=100_000, trace=True)
next(stream)
if sys.argv[2] == "close":
    worker.close()
"""


@pytest.mark.parametrize("how", ["close", "leave"])
def test_python_ends_in_peace(folder, how):
    """MLX aborts the process if a thread that used it is still at work, or left its streams."""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", LEAVE, str(folder), how],
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


def test_a_model_can_be_handed_over(folder, image, expected):
    model = px.load(folder, dtype="float32")
    with Worker(model) as worker:
        assert [
            p.token for p in worker.stream("Hi", images=[image], max_tokens=12)
        ] == expected.tokens


def test_closing_ends_what_runs_and_refuses_the_rest(folder, image):
    worker = Worker(folder, dtype="float32")
    stream = worker.stream("Hi", images=[image], max_tokens=100_000)
    next(stream)
    worker.close()
    assert stream.reply.finish_reason == "interrupted"
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit(lambda model: 1)
    assert mx.array(1).item() == 1  # this thread's own MLX goes on
