"""Published answers of the real weights, read again by a model here: does it choose the same words?

The answers were computed by vLLM on an H100 (`published_answers.json` names the sources). They are
read teacher-forced: each token behind the published ones before it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from PIL import Image

from ..checkpoint.layouts import shapes
from ..engine.capacity import need_of
from ..errors import ImageError
from ..inputs.image import open_image
from ..inputs.image_options import ImageOptions
from ..inputs.pixels import to_rgb
from ..inputs.placeholders import gradient
from ..interpret.compare import POSITIONS_AT_ONCE, read_answer
from ..model.config import MISTRAL_SMALL_24B, PIXTRAL_12B
from ..pixtral import load
from .check import FAIL, OK, SKIPPED, WARN, Check, attempt

if TYPE_CHECKING:
    from ..model.prompt import Prompt
    from ..pixtral import Pixtral

ANSWERS = Path(__file__).with_name("published_answers.json")
LEAST_SHARE = 0.95
"""Of the steps, whose likeliest token must be the published one."""
SPEED_TOKENS = 64


@dataclass(frozen=True)
class Answer:
    """One published answer.

    Arguments:
        images: names of its pictures.
        tokens: ids, the end token included.
        logprobs: of the first of them, in nats.
    """

    images: tuple[str, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Published:
    """What is known of one model.

    Arguments:
        model: its hub id.
        prompt: the text before the pictures.
        pictures: {name: address}; a name ends with its size, "237-400x300".
        answers: to it.
    """

    model: str
    prompt: str
    pictures: dict[str, str]
    answers: tuple[Answer, ...]


SIZES = {
    "mistralai/Pixtral-12B-2409": PIXTRAL_12B,
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": MISTRAL_SMALL_24B,
}
"""Of the models whose answers are known."""

ALSO = {"mistralai/Mistral-Small-3.1-24B-Instruct-2503": "Mistral Small 3.2 and Magistral Small"}
"""Which later models have the same sizes, and answers of their own."""


def published_answers(model: str = "mistralai/Pixtral-12B-2409") -> Published:
    """Those of one model.

    Arguments:
        model: its hub id, of `SIZES`.
    """
    found = json.loads(ANSWERS.read_text(encoding="utf-8"))
    answers = tuple(
        Answer(tuple(each["images"]), tuple(each["tokens"]), tuple(each["logprobs"]))
        for each in found["models"][model]
    )
    return Published(model, found["prompt"], found["pictures"], answers)


def published_model(model: "Pixtral") -> str | None:
    """The published model whose sizes a model has, as its base model and later ones may."""
    own = shapes(model.config)
    return next((name for name, config in SIZES.items() if shapes(config) == own), None)


def check_model(
    folder: Path, dtype: str | None, pictures: str | None, force: bool
) -> Iterator[Check]:
    """The published answers where some are known for its sizes, and how fast it is.

    Arguments:
        folder: of the model.
        dtype, pictures, force: as the command's options.
    """
    model = load(folder, dtype=dtype)
    name = published_model(model)
    known = published_answers(name) if name else published_answers()
    if name:
        yield from attempt("published answers", lambda: check_answers(model, known, pictures))
    else:
        yield Check("published answers", SKIPPED, "none are known for a model of this size")
    shown = [gradient(512, 512)] if model.vision_encoder is not None else []
    prompt = question(model, known.prompt, shown)
    yield from attempt("speed", lambda: check_speed(model, prompt, force=force))


def check_answers(
    model: "Pixtral", published: Published, pictures: str | Path | None = None
) -> Check:
    """First choices and log-probabilities, step by step, beside the published ones.

    Arguments:
        pictures: a folder with the pictures under their names; None fetches them.
    """
    agreed, differences, skipped = [], [], []
    for answer in published.answers:
        try:
            images = [picture(name, published.pictures[name], pictures) for name in answer.images]
        except ImageError as error:
            skipped.append(str(error))
            continue
        chosen, logprobs = _read(model, question(model, published.prompt, images), answer.tokens)
        agreed += [int(a) == b for a, b in zip(chosen, answer.tokens, strict=True)]
        given = len(answer.logprobs)
        differences += list(np.abs(logprobs[:given] - np.array(answer.logprobs)))
    if not agreed:
        advice = "give a folder with the pictures: --pictures DIR"
        return Check("published answers", SKIPPED, f"no pictures ({skipped[0]})", advice)
    share, mean, most = sum(agreed) / len(agreed), np.mean(differences), np.max(differences)
    facts = {
        "model": published.model,
        "steps": len(agreed),
        "same": sum(agreed),
        "share": share,
        "logprob_difference_mean": float(mean),
        "logprob_difference_max": float(most),
        "skipped": skipped,
    }
    text = (
        f"the same first choice at {sum(agreed)} of {len(agreed)} steps ({share:.0%}, "
        f"{LEAST_SHARE:.0%} are asked for); log-probabilities differ by {mean:.3f} on average, "
        f"{most:.2f} at most"
    )
    text += f"; left out: {'; '.join(skipped)}" if skipped else ""
    if not share >= LEAST_SHARE:
        advice = f"few bits, or weights other than {published.model}'s, give other answers"
        if also := ALSO.get(published.model):
            return Check(
                "published answers", WARN, text, f"{advice}; {also} have the same sizes", facts
            )
        return Check("published answers", FAIL, text, advice, facts)
    return Check("published answers", WARN if skipped else OK, text, "", facts)


def check_speed(model: "Pixtral", prompt: "Prompt", *, force: bool = False) -> Check:
    """First token, tokens a second and peak memory beside the estimate.

    Arguments:
        force: go on where memory would not suffice.
    """
    options: dict[str, Any] = {"max_tokens": SPEED_TOKENS, "reuse": False, "force": force}
    options["logit_bias"] = {model.tokenizer.eos_id: -1e9}  # so that each has its full length
    estimate = need_of(model, prompt, SPEED_TOKENS).total
    cold = model.generate(prompt, **options).stats
    stats = model.generate(prompt, **options).stats
    peak = max(cold.peak_bytes, stats.peak_bytes)
    facts = {
        "prompt_tokens": stats.prompt_tokens,
        "first_token_seconds": stats.prompt_seconds,
        "first_token_cold_seconds": cold.prompt_seconds,
        "decode_tokens_per_second": stats.decode_tokens_per_second,
        "prompt_tokens_per_second": stats.prompt_tokens_per_second,
        "peak_bytes": peak,
        "estimated_bytes": estimate,
    }
    text = (
        f"{stats.decode_tokens_per_second:.1f} tokens/s; first token of {stats.prompt_tokens:,} in "
        f"{stats.prompt_seconds:.2f} s ({cold.prompt_seconds:.2f} s the first time); peak "
        f"{peak / 1e9:.2f} GB, estimated {estimate / 1e9:.2f} GB"
    )
    return Check("speed", OK, text, "", facts)


def question(model: "Pixtral", text: str, images: list[Image.Image]) -> "Prompt":
    """One user message: the text, then the images."""
    parts: list[Any] = [{"type": "text", "text": text}]
    parts += [{"type": "image", "image": image} for image in images]
    return model.encode([{"role": "user", "content": parts}])


def picture(name: str, address: str, folder: str | Path | None) -> Image.Image:
    """A published picture, from a folder or fetched.

    Raises:
        ImageError: it is not there, or has another size than its name says.
    """
    source: str | Path = address
    if folder is not None:
        held = sorted(path for path in Path(folder).glob(f"{name}.*") if path.is_file())
        if not held:
            raise ImageError(f"{name}: no such picture in the folder")
        source = held[0]
    image = to_rgb(open_image(source), ImageOptions())
    size = name.rpartition("-")[2]
    if f"{image.width}x{image.height}" != size:
        raise ImageError(f"{name}: {image.width} x {image.height} pixels, expected {size}")
    return image


def _read(
    model: "Pixtral", prompt: "Prompt", tokens: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each step: the likeliest token, and the log-probability of the published one."""
    hidden = read_answer(model, prompt, tokens).hidden
    chosen, logprobs = [], []
    for start in range(0, len(tokens), POSITIONS_AT_ONCE):
        part = slice(start, start + POSITIONS_AT_ONCE)
        logits = model.decoder.unembed(hidden[part]).astype(mx.float32)
        own = mx.take_along_axis(logits, mx.array(list(tokens[part]))[:, None], axis=-1)[:, 0]
        chosen.append(np.array(logits.argmax(axis=-1)))
        logprobs.append(np.array(own - mx.logsumexp(logits, axis=-1)))
    return np.concatenate(chosen), np.concatenate(logprobs)
