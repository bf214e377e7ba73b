"""Where a trace comes from: an answer that is being written, or a file."""

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..model.kv_cache import cut, dense
from ..model.prompt import Prompt
from ..model.tap import Tap
from ..model.vision_language_model import VisionLanguageModel
from .edits import Edit
from .recorder import Recorder, TraceOptions
from .trace import Trace
from .trace_file import read_trace


def live_trace(
    model: VisionLanguageModel,
    label: Callable[[int], str],
    prompt: Prompt,
    edits: Sequence[Edit],
    recorder: Recorder,
    *,
    tokens: list[int],
    logprobs: list[float],
    cache: list[Any],
    embeddings: mx.array | None,
) -> Trace:
    """The trace of an answer that is about to be written on this thread.

    Arguments:
        label: the text of an id.
        prompt: as it is run, after edits.
        recorder: what the run's tap tells what it sees.
        tokens, logprobs: of the answer; they grow.
        cache: KV caches of the run, one per layer.
        embeddings: of the prompt, shape (L, D), or None where the decoder embeds the tokens.
    """
    recorder.writer = threading.get_ident()
    groups: Sequence[int] = [len(prompt.patch_range(i)) for i in range(len(prompt.grids))]
    for edit in edits:
        groups = edit.lengths(groups)

    @lru_cache(maxsize=4)  # the lens of one position is asked layer by layer
    def rerun(position: int) -> dict[str, mx.array]:
        """The residual stream of one position of the prompt, after every layer."""
        found: dict[str, mx.array] = {}
        tap = Tap(prompt, edits, lambda site, value, _: found.__setitem__(str(site), value))
        before = [cut(layer, position) for layer in cache]
        token = mx.array([[prompt.tokens[position]]])
        own = None if embeddings is None else embeddings[None, position : position + 1]
        model.decoder.hidden(token, before, own, tap)
        return found

    def keys(layer: int) -> mx.array:
        """Of one layer: (K, at least as many as there are tokens, head_dim)."""
        found = cache[layer]
        return dense(found.keys, found, mx.float32)[0]

    return Trace(
        model.config, prompt, tokens, logprobs, [], groups, model, label,
        _recorded=recorder, _keys=keys, _rerun=rerun,
    )  # fmt: skip


def open_trace(path: str | Path) -> Trace:
    """Open a trace that `Trace.save` wrote.

    All that needs no weights works as before; `logit_lens` and `position_lens` say that they need
    the model.

    Raises:
        CheckpointError: no such file, not a trace, or a damaged one.
    """
    record = read_trace(path)
    recorder = Recorder(len(record.prompt.tokens) - 1, TraceOptions())
    recorder.vision = dict(record.vision)
    recorder.text = {site: list(rows) for site, rows in record.text.items()}
    recorder.states = {site: [whole] for site, whole in record.states.items()}
    return Trace(
        record.config, record.prompt, record.tokens, record.logprobs, record.words, record.groups,
        _recorded=recorder, _keys=lambda layer: record.keys[layer],
    )  # fmt: skip
