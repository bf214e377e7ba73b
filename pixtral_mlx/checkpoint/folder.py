"""What lies in a model folder: which files hold the weights, and what their headers say."""

import re
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError, ConfigError
from ..files import expanded
from ..model.config import PixtralConfig
from .diagnosis import links_to_nothing, some, why_no_weights
from .hf_config import config_from_hf, read_json
from .safetensors_io import TensorInfo, read_header

MOST_FILES = 10_000
"""Of a set; a name that says more is a hostile one."""
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")


class WeightFiles(NamedTuple):
    """The weights among the files of a folder or a repository.

    Arguments:
        files: safetensors files; with an index, those that it may name.
        index: the name of the index, or "".
        official: whether they are Mistral's own, which `params.json` describes.
    """

    files: list[str]
    index: str
    official: bool


def choose_weights(names: Iterable[str], folder: Path | None = None, base: str = "") -> WeightFiles:
    """Pick one model's weights: consolidated ones if `params.json` is there, else the others.

    Arguments:
        names: of the files.
        folder, base: for the line that says why there are none; see `why_no_weights`.

    Raises:
        CheckpointError: there is none; the line says what there is instead. Or there is no index,
            and by the others' names a file is missing.
    """
    every = sorted(name for name in names if not name.startswith("."))  # "._x": macOS's shadows
    weights = [name for name in every if name.endswith(".safetensors")]
    indexes = [name for name in every if name.endswith(".safetensors.index.json")]
    consolidated = [name for name in weights if name.startswith("consolidated")]
    others = [name for name in weights if not name.startswith(("consolidated", "adapter"))]
    official = bool(consolidated) and "params.json" in every
    files = consolidated if official else [n for n in others if n.startswith("model")] or others
    if not files:
        raise CheckpointError(why_no_weights(every, folder, base))
    chosen = [name for name in indexes if name.startswith("consolidated") == official]
    if not chosen and (problem := _half(files)):
        raise CheckpointError(problem)
    return WeightFiles(files, chosen[0] if chosen else "", official)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one model folder: what an index names, where there is one.

    mlx-vlm 0.1.19 to 0.3.9 copied the source's index over its own, so that its folders name files
    that never existed. Such an index says nothing about the files that are there, and all of them
    count, as without it.

    Raises:
        CheckpointError: as `choose_weights`; or the index names one that is missing or elsewhere.
    """
    names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    if gone := links_to_nothing(folder):
        raise CheckpointError(f"{folder}: {gone}")
    index = next((name for name in names if name.endswith(".safetensors.index.json")), "")
    try:
        weights = choose_weights(names, folder)
    except CheckpointError as error:
        if index:
            return _indexed(folder, index)
        raise CheckpointError(f"{folder}: {error}") from None
    if weights.index:
        if set(indexed_names(folder, weights.index)) & set(names):
            return _indexed(folder, weights.index)
        if problem := _half(weights.files):
            raise CheckpointError(f"{folder}: {problem}")
    return [folder / name for name in weights.files]


def are_one_set(files: list[str]) -> bool:
    """Whether their names say that they belong together: one file, or the parts of one set."""
    sets = {found and (found[1], found[3]) for found in map(_SHARD.fullmatch, files)}
    return len(files) == 1 or (len(sets) == 1 and None not in sets)


def _half(files: list[str]) -> str:
    """Which files of numbered sets ("model-00002-of-00003") are missing, in words; "" if none."""
    sets: dict[tuple[str, str, int], set[int]] = {}
    for name in files:
        if found := _SHARD.fullmatch(name):
            stem, number, count = found.groups()
            sets.setdefault((stem, count, len(number)), set()).add(int(number))
    missing = [
        f"{stem}-{number:0{digits}d}-of-{count}.safetensors"
        for (stem, count, digits), there in sets.items()
        for number in range(1, min(int(count), MOST_FILES) + 1)
        if number not in there
    ]
    if not missing:
        return ""
    count = f"{len(missing)} weight file{'s' if len(missing) > 1 else ''}"
    return f"{count} missing ({some(missing)}); download them"


def _indexed(folder: Path, index: str) -> list[Path]:
    """The files of an index, all of which must be there."""
    names = indexed_names(folder, index)
    missing = sorted({*names} - {entry.name for entry in folder.iterdir()})
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(names)} weight files in {index} missing"
            f" ({some(missing)}); download them"
        )
    return [folder / name for name in names]


def indexed_names(folder: Path, index: str) -> list[str]:
    """The names of the files in an index, all of them of the folder itself.

    Raises:
        CheckpointError: it names none, or something else.
    """
    mapping = read_json(folder / index)
    mapping = mapping.get("weight_map") if isinstance(mapping, dict) else None
    if not isinstance(mapping, dict) or not mapping:
        raise CheckpointError(f"{folder / index}: no weight_map; download the file again")
    names = sorted({str(name) for name in mapping.values()})
    if len(names) > MOST_FILES:
        raise CheckpointError(f"{folder / index}: names {len(names):,} files; use a sound index")
    for name in names:
        plain = name == Path(name).name and "\\" not in name and name.endswith(".safetensors")
        if not plain:
            raise CheckpointError(
                f"{folder / index}: names the file {name!r}; allowed: safetensors files in the"
                " same folder, do not use this download"
            )
    return names


def load_config(folder: str | PathLike[str]) -> PixtralConfig:
    """Read the configuration of a model folder: the one that `px.load` takes there.

    Raises:
        ConfigError: neither file is there, or the one that counts is not valid.
    """
    folder = expanded(folder)
    if not any((folder / name).is_file() for name in ("params.json", "config.json")):
        raise ConfigError(
            f"{folder}: no params.json (official layout) and no config.json (HF, MLX): "
            "this is not a model folder"
        )
    try:
        files = weight_files(folder)
    except (CheckpointError, OSError):
        files = []  # a configuration without weights, or not all of them
    return read_configuration(folder, files)[0]


def read_configuration(folder: Path, files: list[Path]) -> tuple[PixtralConfig, Mapping[str, Any]]:
    """The sizes, and the contents of `config.json` if that is where they come from.

    The weights decide: consolidated ones, or none at all, go with `params.json` if it is there,
    others with `config.json` if it is there.

    Arguments:
        files: as `weight_files` chose them.

    Raises:
        CheckpointError: the configuration that belongs to them is missing.
        ConfigError: it lacks a key or has a wrong value.
    """
    official, other = folder / "params.json", folder / "config.json"
    consolidated = not files or files[0].name.startswith("consolidated")
    if official.is_file() and (consolidated or not other.is_file()):
        config = PixtralConfig.from_params(read_json(official))
        config.check_whole()
        return config, {}
    if not other.is_file():
        raise CheckpointError(
            f"{folder}: weights without params.json (official layout) or config.json (HF, MLX);"
            " download it beside them"
        )
    settings = read_json(other)
    config = config_from_hf(settings)
    config.check_whole()
    return config, settings


def read_headers(folder: Path, files: list[Path]) -> dict[str, tuple[Path, TensorInfo]]:
    """{their name: (file, TensorInfo)} of all files; no data is read.

    Raises:
        CheckpointError: a file is not sound, or a tensor is in two of them.
    """
    found: dict[str, tuple[Path, TensorInfo]] = {}
    for file in files:
        for name, info in read_header(file).items():
            if name in found:
                raise CheckpointError(
                    f"{folder}: tensor {name} is in {found[name][0].name} and in {file.name};"
                    " keep the files of one model only"
                )
            found[name] = (file, info)
    return found
