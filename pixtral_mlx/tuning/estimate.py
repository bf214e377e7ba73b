"""Whether a training fits this machine, by arithmetic, before it begins: its memory, its time."""

import logging
from collections.abc import Sequence

from ..checks import listed
from ..cost.cost import activation_bytes
from ..cost.machine import GPU_JOB_SECONDS
from ..cost.pace import STEP_SECONDS, expected_seconds
from ..engine.capacity import usable_bytes, weights_bytes
from ..errors import CapacityError
from ..model.config import TextConfig
from ..model.device import on_gpu
from ..model.vision_language_model import VisionLanguageModel
from ..tables import format_bytes
from .dataset import Example
from .options import TuningOptions

log = logging.getLogger(__name__)

PASSES = 2
"""What a batch computes, in readings of its rows: one, and the gradient of what each layer was
given; the large matrices need none."""


def check_memory(
    model: VisionLanguageModel, examples: Sequence[Example], options: TuningOptions
) -> None:
    """Compare what a training takes with what is usable.

    Raises:
        CapacityError: it is too much, and `force` is not set.
    """
    longest = max(len(each.tokens) for each in examples)
    answers = max(sum(a.stop - a.start for a in each.answers) for each in examples)

    def needed(batch_size: int, *, again: bool) -> int:
        return weights_bytes(model) + training_bytes(
            model, batch_size, longest, answers, again=again
        )

    need, usable = needed(options.batch_size, again=options.grad_checkpoint), usable_bytes()
    if need <= usable or options.force:
        return
    ways = []
    if not options.grad_checkpoint and needed(options.batch_size, again=True) <= usable:
        ways.append("--grad-checkpoint")
    smaller = [size for size in range(1, options.batch_size) if needed(size, again=True) <= usable]
    if smaller:
        ways.append(f"--grad-checkpoint --batch-size {smaller[-1]}")
    ways.append("--image-budget")
    raise CapacityError(
        f"a batch of {options.batch_size} rows of up to {longest:,} tokens takes about "
        f"{format_bytes(need)}, and {format_bytes(usable)} are usable: {listed(ways)} helps; "
        "--force begins anyway"
    )


def warn_of_long_batches(
    model: VisionLanguageModel, examples: Sequence[Example], options: TuningOptions
) -> None:
    """Say so if a batch may hold a GPU longer than macOS is sure to allow; see `cost.pace`.

    Nothing is said of a CPU, nor of a chip whose speed is not known.
    """
    longest = max(len(each.tokens) for each in examples)
    passes = PASSES + options.grad_checkpoint
    row = passes * expected_seconds(model.config.text, longest) if on_gpu() else 0.0
    if options.batch_size * row <= STEP_SECONDS:
        return
    size = max(1, int(STEP_SECONDS / row))
    parts = -(-options.batch_size * options.grad_accumulation_steps // size)
    smaller = f"--batch-size {size} --grad-accumulation-steps {parts}"
    ways = [smaller] if options.batch_size > size else []
    log.warning(
        f"a batch of {options.batch_size} rows of up to {longest:,} tokens may hold the GPU for "
        f"about {options.batch_size * row:.0f} s, and macOS may end what holds it for "
        f"{GPU_JOB_SECONDS:.0f} s while the display is on: "
        f"{listed([*ways, '--image-budget'])} makes it shorter; --resume goes on if it happens"
    )


def training_bytes(
    model: VisionLanguageModel, batch_size: int, length: int, answers: int, *, again: bool
) -> int:
    """An estimate of what a step holds beside the weights.

    Without `again` that is what is inside all layers, with it the inputs of all and what is inside
    of one. Attention keeps the scores of a layer, since their gradient needs them; while it is
    computed there are three of each.

    Arguments:
        length: tokens of the longest row.
        answers: the most tokens of answers in a row.
    """
    text = model.config.text
    itemsize = model.decoder.norm.weight.dtype.size
    tokens = batch_size * length
    inside = layer_bytes(text, batch_size, length, itemsize)
    scores = batch_size * text.n_heads * length**2 * itemsize
    kept = text.dim * tokens * itemsize if again else inside + scores
    layers = text.n_layers * kept + 2 * scores + (inside + scores if again else 0)
    logits = 3 * 4 * batch_size * answers * text.vocab_size
    encoder = activation_bytes(model.config, length, itemsize=itemsize)
    return layers + logits + encoder


def layer_bytes(text: TextConfig, batch_size: int, length: int, itemsize: int) -> int:
    """What a layer holds for its gradient, beside the scores of its attention."""
    heads = text.n_heads * text.head_dim
    keys = text.n_kv_heads * text.head_dim
    each = 6 * text.dim + 4 * heads + 4 * keys + 5 * text.hidden_dim
    return itemsize * batch_size * length * each
