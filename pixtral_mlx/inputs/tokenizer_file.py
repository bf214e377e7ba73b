"""Which tokenizer file belongs to a model folder.

Official folders bring their own (`tekken.json`, or SentencePiece for Pixtral Large). HF and MLX
folders often bring only `tokenizer.json`; the words are then taken from the file of that model that
mistral-common ships, after a sample of ids has been compared.
"""

import base64
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import read_file
from ..model.config import PixtralConfig
from .file_kind import saved_instead

PIXTRAL_TEKKEN = "tekken_240911.json"
"""The Tekken v3 file with images that mistral-common ships."""
PIXTRAL_WORDS = 131_072

LARGE_SENTENCEPIECE = "mistral_instruct_tokenizer_241114.model.v7m1"
"""Pixtral Large's, which it ships too."""
LARGE_WORDS = 32_768
LARGE_SPECIALS = 771
"""Its first ids: control words, named or not."""

# Tekken v3 keeps its special tokens in code, not in the file (mistral-common, `tekken.py`).
SPECIALS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]",
    "[IMG_END]",
)  # fmt: skip
TEXT_SPECIALS = 10
SAMPLES = 64
MOST_BYTES = 100_000_000
"""Of a tokenizer file; Tekken's have 20 MB."""


class OtherWords(CheckpointError):
    """A model whose words are not those of the tokenizer that belongs to its sizes."""


def find_tokenizer_file(folder: Path, config: PixtralConfig) -> Path:
    """The file to give to mistral-common.

    Arguments:
        folder: `tekken.json` there comes first, then a SentencePiece `*.model.v*` file, then the
            file that mistral-common ships if it has the model's vocabulary and agrees with the
            folder's `tokenizer.json`.
        config: for the vocabulary, and whether there are images.

    Raises:
        CheckpointError: there is none; the line names the missing file.
        OtherWords: the folder's `tokenizer.json` has other words.
    """
    tekken = folder / "tekken.json"
    if tekken.is_file():
        return tekken
    pieces = sorted(path for path in folder.glob("[!.]*.model.v*") if path.is_file())
    if pieces:
        # "m" in the version says that the file knows images.
        return max(pieces, key=lambda path: ("m" in path.suffix[1:], path.suffix))
    return _shipped(folder, config)


def _shipped(folder: Path, config: PixtralConfig) -> Path:
    """The file of mistral-common that has the folder's words.

    A fine-tune may have more rows than words: what it added has no word here, and is not written.
    """
    missing, rows = f"{folder}: no tekken.json", config.text.vocab_size
    large = config.vision is not None and LARGE_WORDS <= rows < PIXTRAL_WORDS
    if rows < PIXTRAL_WORDS and not large:
        raise CheckpointError(
            f"{missing}, and the vocabulary has {rows} words where Pixtral's has {PIXTRAL_WORDS}"
            f" and Pixtral Large's {LARGE_WORDS}; copy tekken.json from the official model into the"
            " folder"
        )
    shipped = shipped_file(LARGE_SENTENCEPIECE) if large else shipped_tekken()
    other = folder / "tokenizer.json"
    if not other.is_file():
        raise CheckpointError(
            f"{missing}, and no tokenizer.json to check Pixtral's own against; copy"
            f" {'the SentencePiece file' if large else 'tekken.json'} from the official model into"
            " the folder"
        )
    if what := saved_instead(other):
        raise CheckpointError(f"{missing}, and tokenizer.json is {what}")
    specials = len(SPECIALS) if config.vision else TEXT_SPECIALS
    different = _from_large(shipped, other) if large else _from_tekken(shipped, other, specials)
    if different:
        raise OtherWords(
            f"{missing}, and tokenizer.json is not Pixtral's ({different}); copy the tekken.json"
            " that belongs to the model into the folder; a model that has none, such as Apriel,"
            " has words that only transformers knows"
        )
    return shipped


def ends_without_words(settings: Iterable[Any], tokenizer_file: Path) -> list[int]:
    """The ids that a fine-tune's answers end with and the tokenizer does not know.

    Arguments:
        settings: what `config.json` and `generation_config.json` hold.
        tokenizer_file: of the folder, or Pixtral's own.
    """
    found: set[int] = set()
    for each in settings:
        for place in (each, each.get("text_config")) if isinstance(each, dict) else ():
            ends = place.get("eos_token_id") if isinstance(place, dict) else None
            listed = ends if isinstance(ends, list) else [ends]
            found |= {end for end in listed if type(end) is int}
    found = {end for end in found if end >= TEXT_SPECIALS}  # every tokenizer has the others
    words = _count_words(tokenizer_file) if found else None
    return sorted(end for end in found if words is not None and end >= words)


def _count_words(file: Path) -> int | None:
    """Of a tokenizer file; None where it cannot be read, which is said when it is used."""
    try:
        if file.suffix == ".json":
            return int(json.loads(read_file(file, MOST_BYTES))["config"]["default_vocab_size"])
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_file=str(file)).get_piece_size()  # type: ignore
    except (OSError, ValueError, TypeError, LookupError, RuntimeError):
        return None


def import_jsonschema() -> None:
    """What mistral-common imports, without a detour of a second and a half: where JupyterLab has
    brought `rfc3987_syntax`, jsonschema builds its grammar when it is imported, to check formats
    ("iri") that nothing here uses. Later imports of `rfc3987_syntax` find it as always."""
    slow = "rfc3987_syntax"
    if "jsonschema" in sys.modules or slow in sys.modules:
        return
    sys.modules[slow] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        importlib.import_module("jsonschema")
    finally:
        del sys.modules[slow]


def shipped_tekken() -> Path:
    """Pixtral's Tekken file inside mistral-common; raises as `shipped_file`."""
    return shipped_file(PIXTRAL_TEKKEN)


def shipped_file(name: str) -> Path:
    """A tokenizer file inside mistral-common, found without importing it (3 s).

    Raises:
        CheckpointError: mistral-common is not installed, or no longer ships the file.
    """
    spec = importlib.util.find_spec("mistral_common")
    for place in (spec and spec.submodule_search_locations) or ():
        path = Path(place) / "data" / name
        if path.is_file():
            return path
    raise CheckpointError(
        f"no tekken.json in the folder, and mistral-common does not ship {name}; copy the tokenizer"
        " file of the official model into the folder"
    )


def _from_tekken(shipped: Path, file: Path, specials: int) -> str:
    """The first sampled id on which a `tokenizer.json` disagrees, in words; "" if none does."""
    words = json.loads(shipped.read_text(encoding="utf-8"))
    pieces = _pieces(file)
    if pieces is None:
        return "it has no byte-level vocabulary"
    for number in range(specials):
        if pieces.get(number) != SPECIALS[number]:
            return f"id {number} is {pieces.get(number)!r}, not {SPECIALS[number]!r}"
    first, size = words["config"]["default_num_special_tokens"], len(words["vocab"])
    last = min(words["config"]["default_vocab_size"], first + size) - 1
    for number in _sample(first, last):
        expected = base64.b64decode(words["vocab"][number - first]["token_bytes"])
        if _to_bytes(pieces.get(number)) != expected:
            return f"id {number} is {pieces.get(number)!r}, not {expected!r}"
    return ""


def _from_large(shipped: Path, file: Path) -> str:
    """The same for Pixtral Large's SentencePiece, whose pieces a `tokenizer.json` has as they are;
    its control words, which older files of 32,768 words lack, are compared one by one."""
    from sentencepiece import SentencePieceProcessor

    words: Any = SentencePieceProcessor(model_file=str(shipped))
    pieces = _pieces(file)
    if pieces is None:
        return "it has no vocabulary"
    specials = [n for n in range(LARGE_SPECIALS) if not words.id_to_piece(n).startswith("[control")]
    for number in (*specials, *_sample(LARGE_SPECIALS, LARGE_WORDS - 1)):
        if pieces.get(number) != words.id_to_piece(number):
            return f"id {number} is {pieces.get(number)!r}, not {words.id_to_piece(number)!r}"
    return ""


def _sample(first: int, last: int) -> Iterator[int]:
    """Ids from the first to the last, evenly."""
    return (first + (last - first) * i // (SAMPLES - 1) for i in range(SAMPLES))


def _pieces(file: Path) -> dict[int, Any] | None:
    """{id: piece} of a `tokenizer.json`; None if it holds no such thing."""
    try:
        other = json.loads(read_file(file, MOST_BYTES))
        pieces = {number: piece for piece, number in other["model"]["vocab"].items()}
        return pieces | {added["id"]: added["content"] for added in other.get("added_tokens", ())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@cache
def _byte_of() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes (openai/gpt-2, `bytes_to_unicode`), inverted."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


def _to_bytes(piece: Any) -> bytes | None:
    """The bytes that a byte-level piece stands for; None if it is none."""
    if not isinstance(piece, str) or any(letter not in _byte_of() for letter in piece):
        return None
    return bytes(_byte_of()[letter] for letter in piece)
