"""From mistral-common's tokenizer file to what transformers and mlx-vlm read.

`tokenizer.json` is made by transformers' own converter, the chat template by mistral-common's.

A vocabulary of 131,072 words takes three seconds of Python, in which no other thread gets on; a
process of its own takes them from a machine's second core.
"""

import gc
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoint.arrays import is_utf8
from ..errors import CheckpointError, PixtralError
from ..files import scratch_folder
from ..inputs.tekken import check_tekken, panics
from ..inputs.tokenizer_file import import_jsonschema

SMALL_BYTES = 2**20
"""Files up to this size are converted faster than a new Python starts."""

BYTE_WORDS = 256
"""The least that a Tekken file holds: a word for each byte."""


class SpecialIds(NamedTuple):
    """Ids of begin, end and padding; None where a tokenizer has none."""

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None


def write_hf_tokenizer(file: Path) -> SpecialIds:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` beside a file.

    Arguments:
        file: `tekken.json`, or a SentencePiece file.

    Raises:
        OSError: the disk is full or not writable.
        CheckpointError: the process that a large file has to itself ended early.
    """
    if file.suffix == ".json":
        check_tekken(file)
    if not is_utf8(file):
        with scratch_folder() as place:  # its name is one that transformers takes
            ids = write_hf_tokenizer(Path(shutil.copy(file, place)))
            shutil.copytree(place, file.parent, dirs_exist_ok=True)
        return ids
    if file.stat().st_size > SMALL_BYTES:
        return _in_a_process(file)
    try:
        with panics(file):
            return _here(file)
    except (OSError, PixtralError):
        raise
    except Exception as error:  # nearly anything, as when it is read for answers
        raise _unreadable(file, str(error)) from error


def _here(file: Path) -> SpecialIds:
    with _quiet():
        import_jsonschema()
        words = _from_tekken(file) if file.suffix == ".json" else _from_sentencepiece(file)
        words.save_pretrained(file.parent)
        _for_older_transformers(file.parent / "tokenizer_config.json")
    return SpecialIds(words.bos_token_id, words.eos_token_id, words.pad_token_id)


def _for_older_transformers(file: Path) -> None:
    """A `tokenizer_config.json` that transformers 4 opens as well as 5, which writes classes that
    4.57 does not know ("TokenizersBackend") or fills from a SentencePiece file, and a list where it
    wants a dict. Nothing is lost: `tokenizer.json` says of each word whether it is special."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings.pop("extra_special_tokens", None)
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _in_a_process(file: Path) -> SpecialIds:
    # It imports what this one would; -P keeps the working folder, which may hold anything, out.
    home = str(Path(__file__).parents[2])
    paths = os.pathsep.join([*filter(None, sys.path), home])
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__, str(file)], stdin=subprocess.DEVNULL,
        capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": paths}, check=False,
    )  # fmt: skip
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise _unreadable(file, why[0])
    found = json.loads(done.stdout.splitlines()[-1])
    if "errno" in found:
        raise OSError(found["errno"], found["strerror"], found["filename"])
    return SpecialIds(**found)


def _unreadable(file: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{file.name}: transformers could not read it ({why}); check the file, or copy it from the "
        "official model again"
    )


def _main(file: Path) -> None:
    """In that process: ids, or what the system said, as a line of JSON."""
    try:
        found: dict[str, Any] = _here(file)._asdict()
    except OSError as error:
        if error.errno is None:
            raise
        found = {name: getattr(error, name) for name in ("errno", "strerror", "filename")}
    print(json.dumps(found))


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers warns at import that torch is missing, which is as intended here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _from_tekken(file: Path) -> Any:
    from transformers.integrations.mistral.tokenizer import convert_tekken_tokenizer

    collecting = gc.isenabled()
    gc.disable()  # it would look through a million small objects again and again, and free none
    try:
        return convert_tekken_tokenizer(str(file), chat_template=_tekken_template(file))
    finally:
        if collecting:
            gc.enable()


def _tekken_template(file: Path) -> str:
    """mistral-common's chat template for a Tekken file: version and abilities decide, not words,
    and so a file of a few words is asked, which takes a tenth of the time."""
    from mistral_common.integrations.chat_templates.chat_templates import (
        convert_tokenizer_to_chat_template,
    )

    data = json.loads(file.read_text(encoding="utf-8"))
    words = data["vocab"][:BYTE_WORDS]
    specials = data["config"]["default_num_special_tokens"]
    sizes = {"num_vocab_tokens": len(words), "default_vocab_size": len(words) + specials}
    small = data | {"vocab": words, "config": data["config"] | sizes}
    with scratch_folder() as place:
        copy = Path(place, file.name)
        copy.write_text(json.dumps(small), encoding="utf-8")
        return convert_tokenizer_to_chat_template(str(copy))


def _from_sentencepiece(file: Path) -> Any:
    """Pixtral Large's v7m1: byte fallback, and no space put before the text, because the chat
    template writes the spaces that mistral-common writes."""
    from mistral_common.integrations.chat_templates.chat_templates import (
        convert_tokenizer_to_chat_template,
    )
    from tokenizers.models import BPE
    from transformers import LlamaTokenizer
    from transformers.convert_slow_tokenizer import SentencePieceExtractor
    from transformers.tokenization_utils_base import generate_merges

    extractor: Any = SentencePieceExtractor(str(file))
    found = extractor.extract(BPE)
    # In the order of the scores: pieces that are runs of spaces have low ids and low scores.
    scores = {piece.piece: piece.score for piece in extractor.proto.pieces}
    return LlamaTokenizer(
        vocab=found["vocab"],
        merges=generate_merges(found["vocab"], scores),
        extra_special_tokens=found["additional_special_tokens"],
        add_prefix_space=False,
        chat_template=convert_tokenizer_to_chat_template(str(file)),
    )


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
