"""An adapter from rows of pictures, questions and answers: all of it together."""

import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..checkpoint.adapter import Adapter
from ..checkpoint.adapter_files import open_adapter
from ..errors import CheckpointError
from ..files import expanded, refuse_existing
from ..inputs.image_options import ImageOptions
from ..model.prompt import Prompt
from ..pixtral import Pixtral
from .curves import draw_curves
from .dataset import Example, Rows, find_rows, read_examples
from .estimate import check_memory, warn_of_long_batches
from .low_rank import begin_with, checksum, put_low_rank
from .options import TuningOptions
from .pictures import EncodedPictures
from .state import CURVES, FEATURES, REPORT, STATE, State, read_state, write_json
from .train import Report, Training
from .validation import Scores, paired, swapped

SAMPLES = 4
"""Questions of the validation that are answered before and after."""
SAMPLE_TOKENS = 128
NEEDED = 1.05
"""Where the pictures are used, exchanging them makes the loss larger by at least this factor."""


@dataclass(frozen=True)
class Tuning:
    """What a training did.

    Arguments:
        folder: of the adapter.
        report: what `report.json` holds.
    """

    folder: Path
    report: dict[str, Any]

    @property
    def pictures_used(self) -> bool | None:
        """Whether the answers need their pictures; None if nothing can be said."""
        swap = self.report["swap"]
        return None if swap is None else swap["used"]


def tune(
    model: Pixtral,
    data: str | PathLike[str],
    output: str | PathLike[str],
    *,
    val: str | PathLike[str] | None = None,
    adapter_path: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Report | None = None,
    base: str = "",
    **options: Any,
) -> Tuning:
    """Train an adapter; the model has it afterwards.

    Arguments:
        model: as `px.load` gives it, without an adapter; quantized or not.
        data: a JSONL file, or a folder with train.jsonl and perhaps valid.jsonl; see `dataset`.
        output: the folder of the adapter; see `check_output`.
        val: rows for validation; None: those of the folder, else a tenth of all.
        adapter_path: an adapter to begin with, trained with the same options; None: noise.
        resume: go on with what a stopped run left in `output`, bit for bit as it would have.
        progress: see `train.Report`.
        base: what the model was loaded from, for those who open the adapter.
        options: the fields of `TuningOptions`.

    Raises:
        ValueError, PromptError: an option out of range; rows that cannot be used.
        CheckpointError: the output exists, or holds no such training.
        CapacityError: not enough memory.
        PixtralError: it diverged.
    """
    asked, folder, start = TuningOptions(**options), expanded(output), time.perf_counter()
    check_output(folder, resume)
    rows = find_rows(expanded(data), None if val is None else expanded(val), asked.seed)
    report = progress or (lambda *_: None)
    name = base or model.name
    first = None if adapter_path is None else open_adapter(name, adapter_path, model.config)
    made_with = _made_with(model, asked, rows, first)
    state = read_state(folder, made_with) if resume else State(made_with)
    with _made(folder):
        examples, pictures = _read(model, rows, asked, folder, report)
        check_memory(model, examples[0] + examples[1], asked)
        warn_of_long_batches(model, examples[0], asked)
    trained = put_low_rank(model, asked)
    if first is not None:
        begin_with(model, first)
    training = Training(model, examples, pictures, asked, state, folder, {"model": base})
    asking = _Asking(model, rows[1], asked)
    state.samples = state.samples or [asking.answer(each) for each in examples[1][:SAMPLES]]
    training.run(report)
    found = {
        "model": base, "rows": [len(each.numbers) for each in rows], "trained": trained,
        "encoder": {"before": made_with["encoder"], "after": checksum(model.vision_encoder)},
        "options": asdict(asked), "pictures": len(pictures.grids),
        **_learned(model, training, state, asking, examples[1], asked.seed),
        "seconds": round(time.perf_counter() - start, 1), "peak_bytes": _peak_bytes(),
    }  # fmt: skip
    return _finish(folder, state, found)


def _finish(folder: Path, state: State, found: dict[str, Any]) -> Tuning:
    """Write the report and its picture; nobody needs the encoder's rows any more."""
    write_json(folder / REPORT, found)
    draw_curves(state, folder / CURVES)
    shutil.rmtree(folder / FEATURES, ignore_errors=True)
    return Tuning(folder, found)


def _is_early(file: Path) -> bool:
    return file.name == FEATURES or ".partial-" in file.name


def check_output(folder: Path, resume: bool) -> None:
    """Raise CheckpointError: something is there, or for `resume` nothing is. What was killed before
    the first step has left pictures at most, which are used again."""
    if not resume:
        if (folder / STATE).is_file():
            raise CheckpointError(
                f"{folder}: already exists and holds a training: give --resume, or another name"
            )
        if not (folder.is_dir() and all(map(_is_early, folder.iterdir()))):
            refuse_existing(folder)
    elif not folder.is_dir():
        raise CheckpointError(f"{folder}: holds no training to go on with: leave out --resume")


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder is there; if it was made for the block, and the block fails, it goes again."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _made_with(
    model: Pixtral, options: TuningOptions, rows: tuple[Rows, Rows], first: Adapter | None
) -> dict[str, Any]:
    """What a training that goes on must have been begun with."""
    chosen = {
        name: value
        for name, value in asdict(options).items()
        if name not in ("force", "picture_gigabytes", "grad_checkpoint")
    }
    return {
        **chosen,
        "encoder": checksum(model.vision_encoder),
        "decoder": checksum(model.decoder.norm),
        "rows": [each.digest for each in rows],
        "adapter": "" if first is None else first.identity,
    }


def _read(
    model: Pixtral, rows: tuple[Rows, Rows], options: TuningOptions, folder: Path, report: Report
) -> tuple[tuple[list[Example], list[Example]], EncodedPictures]:
    """Both sets of rows as examples, their pictures encoded."""
    how = ImageOptions(image_budget=options.image_budget)
    places: dict[str, tuple[Rows, Example, int]] = {}

    def pixels(digest: str) -> np.ndarray:
        own, example, i = places[digest]
        prompt, _ = own.sequences(example.number, model.tokenizer, how)[example.part]
        return prompt.images[i]

    most = options.picture_gigabytes * 1e9
    pictures = EncodedPictures(model.vision_encoder, folder / FEATURES, most, pixels)
    total = sum(len(own.numbers) for own in rows)
    context = min(options.max_seq_length, model.config.text.max_seq_len)
    found: list[list[Example]] = []
    for own in rows:
        before = sum(map(len, found))
        found.append([])
        for example in read_examples(own, model.tokenizer, how, context, pictures.add):
            found[-1].append(example)
            for i, picture in enumerate(example.pictures):
                places.setdefault(picture.digest, (own, example, i))
            report("reading", before + len(found[-1]), total, {})
    return (found[0], found[1]), pictures


def _learned(
    model: Pixtral,
    training: Training,
    state: State,
    asking: "_Asking",
    valid: list[Example],
    seed: int,
) -> dict[str, Any]:
    """What came of it, as `report.json` says it."""
    return {
        "steps": state.step, "validations": state.validations, **_judged(training, state),
        "swap": _swap_test(training, model, seed),
        "samples": [
            {**asking.asked(each), "before": before, "after": asking.answer(each)}
            for each, before in zip(valid, state.samples, strict=False)
        ],
        "step_seconds": float(np.median([each["seconds"] for each in state.steps])),
    }  # fmt: skip


def _judged(training: Training, state: State) -> dict[str, Any]:
    """The first and the last validation, answer by answer."""
    last = getattr(training, "last", None) or training.scores(training.valid)
    gained, lost, p = paired(state.right, last.right)
    return {
        "answers": len(last.right), "right_before": sum(state.right), "right": sum(last.right),
        "became_right": gained, "became_wrong": lost, "p": p,
    }  # fmt: skip


def _swap_test(training: Training, model: Pixtral, seed: int) -> dict[str, Any] | None:
    """The loss with pictures of other rows, beside that with their own; None without such rows."""
    if model.config.vision is None:
        return None
    others = swapped(training.valid, model.tokenizer.image_ids, seed)
    if not others:
        return None
    places = {(each.number, each.part) for each in others}
    own = [each for each in training.valid if (each.number, each.part) in places]
    before: Scores = training.scores(own)
    after = training.scores(others)
    return {
        "examples": len(own), "loss": before.loss, "swapped_loss": after.loss,
        "accuracy": before.accuracy, "swapped_accuracy": after.accuracy,
        "needed": NEEDED, "used": after.loss > NEEDED * before.loss,
    }  # fmt: skip


class _Asking:
    """Validation rows asked as a user would."""

    def __init__(self, model: Pixtral, rows: Rows, options: TuningOptions):
        self._model, self._rows = model, rows
        self._options = ImageOptions(image_budget=options.image_budget)

    def answer(self, example: Example) -> str:
        """What the model writes to the first question of an example."""
        prompt, answers = self._sequence(example)
        stop = answers[0].start
        spans = [span for span in prompt.spans if span.stop <= stop]
        kept = Prompt(
            prompt.tokens[:stop], prompt.images[: len(spans)], prompt.grids[: len(spans)], spans,
            prompt.merge,
        )  # fmt: skip
        return self._model.generate(kept, max_tokens=SAMPLE_TOKENS, reuse=False).text

    def asked(self, example: Example) -> dict[str, str]:
        """The question and the answer that was wanted."""
        decode, first = self._model.tokenizer.decode, example.answers[0]
        tokens = example.tokens.tolist()
        return {
            "question": decode(tokens[: first.start]).strip(),
            "wanted": decode(tokens[first]),
        }

    def _sequence(self, example: Example) -> tuple[Prompt, list[slice]]:
        found = self._rows.sequences(example.number, self._model.tokenizer, self._options)
        return found[example.part]


def _peak_bytes() -> int:
    """The most memory that this process has taken: MLX's count, or on a CPU the system's."""
    if mx.metal.is_available():
        return mx.get_peak_memory()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
