"""Keys and values of conversations in a folder, for other processes: `--prompt-cache DIR`.

One safetensors file a conversation, written under a hidden name and renamed when it is complete.
What is found is checked before it is used: the header against the file, the model and the version
that wrote it, every shape, and a hash over tokens and data. What does not hold is ignored with a
note. No pickle.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..checkpoint.arrays import load_arrays, save_arrays
from ..checkpoint.safetensors_io import TensorInfo, read_header
from ..errors import CheckpointError
from ..files import expanded, new_file, refuse_shared
from ..model.config import PixtralConfig
from ..model.kv_cache import KVFormat
from ..model.vision_language_model import VisionLanguageModel
from ..tables import format_bytes
from .content import Content

FORMAT = "2"
MAX_BYTES = 10_000_000_000
"""A folder keeps at most this much; the least recently used goes first."""
ENOUGH = 15 / 16
"""What a file holds to this part is not written again for the rest."""

HASHED_AT_ONCE = min(8, os.cpu_count() or 1)
"""Arrays, each in a thread; hashing lets the others run."""

_FLOATS = ("BF16", "F16", "F32")
_STALE_SECONDS = 3600
_DAMAGE = (
    CheckpointError, OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError
)  # fmt: skip
"""What a file that is not one of ours, or not whole, may raise when it is read."""

log = logging.getLogger(__name__)


class PromptFolder:
    """Conversations in a folder, those of one model among them.

    Arguments:
        folder: made if it is not there, for this user alone: keys and values tell what was said.
        model: of which keys and values are read and written.
        identity: of its weights, from `model_identity`.

    Raises:
        CheckpointError: the folder cannot be made or read, or others may write into it.
    """

    def __init__(self, folder: str | os.PathLike[str], model: VisionLanguageModel, identity: str):
        if not os.fspath(folder):
            raise CheckpointError("the name of the prompt cache is empty: give a folder")
        self.folder, self.max_bytes = expanded(folder), MAX_BYTES
        self._model, self._config, self._identity = model, model.config, identity
        self._known: dict[str, Content | None] = {}  # by file name; None is ignored
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            refuse_shared(self.folder)
            self._look()
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: cannot be used as a prompt cache ({error.strerror or error}): "
                "give a folder that can be read"
            ) from error

    def load(self, content: Content, beyond: int) -> tuple[Content, list[Any]] | None:
        """The conversation that shares most with `content`, if that is more than `beyond`.

        Returns:
            What it is, and its KV caches, one a layer; None if there is none.
        """
        try:
            self._look()
        except OSError as error:
            log.warning("%s: cannot be read (%s)", self.folder, error)
            return None
        shared = {name: content.shared(own) for name, own in self._ours().items()}
        for name in sorted(shared, key=lambda name: -shared[name]):
            if min(shared[name], len(content.tokens) - 1) <= beyond:
                return None
            found = self._open(name)
            if found is not None:
                return found
        return None

    def save(self, content: Content, layers: list[Any]) -> None:
        """Write a conversation, unless a file holds nearly all of it; drop what it replaces."""
        length, ours = len(content.tokens), self._ours()
        if content.edits or any(ENOUGH * length <= content.shared(own) for own in ours.values()):
            return
        try:
            self._write(content, layers)
            for name, own in ours.items():
                if content.shared(own) == len(own.tokens):
                    self._remove(name)
            self._shrink()
        except (OSError, RuntimeError, CheckpointError) as error:
            log.warning("%s: this conversation is not kept (%s)", self.folder, error)

    # Reading -----------------------------------------------------------------------------------

    def _ours(self) -> dict[str, Content]:
        return {name: own for name, own in self._known.items() if own is not None}

    def _look(self) -> None:
        """Read the headers of files that came, forget those that went."""
        names = {path.name for path in self.folder.iterdir() if _is_ours(path)}
        self._known = {name: own for name, own in self._known.items() if name in names}
        ignored = []
        for name in sorted(names - self._known.keys()):
            try:
                self._known[name] = self._read(self.folder / name)
            except _DAMAGE as error:
                self._known[name] = None
                ignored.append(f"{name} ({_short(error)})")
        if ignored:
            more = f" and {len(ignored) - 1} more" if len(ignored) > 1 else ""
            log.warning("prompt cache %s: ignoring %s%s", self.folder, ignored[0], more)

    def _read(self, path: Path) -> Content:
        """What a file says that it holds, checked against its header and the model."""
        infos = read_header(path)
        about = json.loads(load_arrays(path)[1].get("about", "{}"))
        if about.get("format") != FORMAT or about.get("model") != self._identity:
            raise ValueError("made with another model, version or program")
        text, tokens = self._config.text, about["tokens"]
        if not all(type(token) is int and 0 <= token < text.vocab_size for token in tokens):
            raise ValueError("a token is not of the vocabulary")
        image_token = self._config.vision.image_token_id if self._config.vision else None
        for start, digest in about["images"]:
            fits = type(start) is int and start >= 0 and type(digest) is str
            if not fits or tokens[start] != image_token:
                raise ValueError("a picture is not where its tokens are")
        kv = KVFormat(**about["kv"]) if "kv" in about else KVFormat()
        if kv != kv.of(text):
            raise ValueError("keys and values are in a form that is not known")
        _check_shapes(infos, self._config, len(tokens), kv)
        return Content(np.array(tokens, np.int64), dict(about["images"]), kv=kv)

    def _open(self, name: str) -> tuple[Content, list[Any]] | None:
        """Read the data; a file that is not what it was, or damaged, is ignored from now on."""
        path = self.folder / name
        try:
            content = self._read(path)
            arrays, metadata = load_arrays(path)
            if metadata["hash"] != _hash(metadata["about"], arrays):
                raise ValueError("its data are damaged")
            os.utime(path)
        except _DAMAGE as error:
            if path.exists():  # else another process removed it
                log.warning("prompt cache %s: ignoring %s (%s)", self.folder, name, _short(error))
            self._known[name] = None
            return None
        layers = content.kv.new_cache(self._model.decoder)
        parts = content.kv.shapes(self._config.text, 0)
        for number, layer in enumerate(layers):
            layer.keys, layer.values = (
                _joined([arrays[f"{number}.{what}{part}"] for part in parts])
                for what in ("keys", "values")
            )
            layer.offset = len(content.tokens)
        return content, layers

    # Writing -----------------------------------------------------------------------------------

    def _write(self, content: Content, layers: list[Any]) -> None:
        arrays = {}
        for number, layer in enumerate(layers):
            for what, held in (("keys", layer.keys), ("values", layer.values)):
                parts = [held] if isinstance(held, mx.array) else held
                for part, array in zip(("", ".scales", ".biases"), parts, strict=False):
                    arrays[f"{number}.{what}{part}"] = array[..., : len(content.tokens), :]
        nbytes = sum(array.nbytes for array in arrays.values())
        if nbytes > min(self.max_bytes, shutil.disk_usage(self.folder).free // 2):
            raise OSError(f"{format_bytes(nbytes)} are too much for it")
        about = json.dumps(
            {
                "format": FORMAT,
                "model": self._identity,
                "tokens": content.tokens.tolist(),
                "images": sorted(content.images.items()),
                "kv": asdict(content.kv),
            }
        )
        name = f"prompt-{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors"
        metadata = {"about": about, "hash": _hash(about, arrays)}
        path = self.folder / name
        # What a power cut empties is found damaged later: no answer waits for the disk.
        with new_file(path, replace=True, error=None, mode=0o600, sync=False) as hidden:
            save_arrays(hidden, arrays, metadata)
            read_header(hidden)  # a full disk leaves a short file, and MLX does not say so
        self._known[name] = content

    def _shrink(self) -> None:
        """Remove the least recently used files, and what killed processes left."""
        files = []
        for path in self.folder.iterdir():
            try:
                seen = path.stat()
            except OSError:
                continue
            if _is_ours(path):
                files.append((seen.st_mtime_ns, path.name, seen.st_size))
            elif path.name.startswith(".prompt-") and time.time() - seen.st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)
        total = sum(size for _, _, size in files)
        for _, name, size in sorted(files):
            if total > self.max_bytes:
                self._remove(name)
                total -= size

    def _remove(self, name: str) -> None:
        self._known.pop(name, None)
        (self.folder / name).unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    return path.name.startswith("prompt-") and path.suffix == ".safetensors" and path.is_file()


def _short(error: Exception) -> str:
    """What is wrong, without the path, which the note names already."""
    return str(error).rpartition(".safetensors: ")[2] or type(error).__name__


def _check_shapes(
    infos: Mapping[str, TensorInfo], config: PixtralConfig, length: int, kv: KVFormat
) -> None:
    """Keys and values of every layer and nothing else, all of the shape that the tokens imply."""
    text = config.text
    wanted = {
        f"{n}.{what}{part}": (shape, ("U32",) if kv.bits and not part else _FLOATS)
        for n in range(text.n_layers)
        for what in ("keys", "values")
        for part, shape in kv.shapes(text, length).items()
    }
    if infos.keys() != wanted.keys() or not 0 < length <= text.max_seq_len:
        raise ValueError("it does not hold the layers of this model")
    for name, (shape, dtypes) in wanted.items():
        if infos[name].shape != shape or infos[name].dtype not in dtypes:
            raise ValueError(f"{name} does not have shape {shape}")


def _joined(parts: list[mx.array]) -> Any:
    """Keys or values as a cache holds them: an array, or the three of a quantized one."""
    return parts[0] if len(parts) == 1 else tuple(parts)


def _hash(about: str, arrays: Mapping[str, mx.array]) -> str:
    """Over the metadata and the hash of each array, of which a few are made at a time."""
    found, names = hashlib.blake2b(about.encode(), digest_size=32), sorted(arrays)
    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
        for start in range(0, len(names), HASHED_AT_ONCE):
            some = names[start : start + HASHED_AT_ONCE]
            data = [np.array(arrays[name].view(mx.uint8)).data for name in some]
            for digest in pool.map(lambda each: hashlib.blake2b(each).digest(), data):
                found.update(digest)
    return found.hexdigest()
