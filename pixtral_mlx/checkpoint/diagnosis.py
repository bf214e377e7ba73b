"""What a folder or a repository is that holds no model which can be read, and what to do then."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .hf_config import read_json

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
GGUF = ".gguf"
UNFINISHED = (".incomplete", ".partial", ".part", ".crdownload", ".download", ".aria2", ".!ut")
"""What browsers, the hub's programs and download managers call a file that is not complete."""
INSTEAD = "give a folder of safetensors files, or a hub id such as mistralai/Pixtral-12B-2409"
MERGE = (
    "give the base, or a folder in which the two are merged (`merge_and_unload` of peft,"
    " `mlx_lm.fuse`)"
)
_CONFIGS = ("params.json", "config.json")
ADAPTER = "adapter_config.json"
_SHOWN, _DEPTH, _MOST_FOLDERS = 3, 3, 1000


def why_no_weights(names: list[str], folder: Path | None = None, base: str = "") -> str:
    """Why a model cannot be read from files of these names, in one line.

    Arguments:
        names: of the files and folders at the top.
        folder: where they are, if they are here.
        base: the model that an adapter among them belongs to, if the caller knows.
    """
    consolidated = [name for name in names if re.match(r"consolidated.*\.safetensors$", name)]
    if consolidated and "params.json" not in names:
        return f"{consolidated[0]} is there without params.json; download params.json beside it"
    if ADAPTER in names or any(name.startswith("adapter") for name in names):
        base = base or (base_of(folder / ADAPTER) if folder else "")
        whose = f" of {base}" if base else ""
        return f"a LoRA adapter{whose}, which is not a model by itself; {MERGE}"
    if gguf := [name for name in names if name.lower().endswith(GGUF)]:
        return f"only GGUF files ({some(gguf)}), which llama.cpp reads; {INSTEAD}"
    if unfinished := [*(n for n in names if n.endswith(UNFINISHED)), *_begun(folder)]:
        return (
            f"an unfinished download ({some(unfinished)}); let the program that began it finish,"
            " or download the model again by its hub id"
        )
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        return (
            f"only pickled weights ({some(pickles)}); pickles can run code and are not read,"
            " use the model's safetensors files"
        )
    if not names:
        return "an empty folder; download the model's files into it"
    return (_of_a_cache(folder) or _of_models(folder) if folder else "") or (
        "no weights (.safetensors); the model's weights must be there"
    )


def links_to_nothing(folder: Path) -> str:
    """Which links of a folder lead nowhere that a model needs, in one line; "" if none does."""
    endings = (".safetensors", ".json", GGUF)
    gone = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_symlink() and not path.exists() and path.name.endswith(endings)
    )
    if not gone:
        return ""
    owner = next((hub_id(part.name) for part in folder.absolute().parents if hub_id(part.name)), "")
    advice = f"give the id {owner}, which downloads them again" if owner else "download them again"
    return f"links to files that are gone ({some(gone)}); {advice}"


def base_of(file: Path) -> str:
    """The model that an adapter belongs to, by its `adapter_config.json`; "" if it is not said."""
    try:
        settings: Any = read_json(file)
    except ConfigError:
        return ""
    if not isinstance(settings, Mapping):
        return ""
    found = settings.get("base_model_name_or_path") or settings.get("model")
    return found if isinstance(found, str) and found.isprintable() else ""


def whole_models(folder: Path) -> list[Path]:
    """The folders inside, few levels deep, that hold weights beside a configuration; sorted."""
    return sorted(path for path in _models(folder) if _whole(path))


def hub_id(name: str) -> str:
    """ "owner/name" of a folder that the hub's cache calls "models--owner--name", or ""."""
    kind, _, rest = name.partition("--")
    return rest.replace("--", "/") if kind == "models" else ""


def foreign_tensors(names: Iterable[str]) -> str:
    """What weights of these names are, if they are none of a whole model that is read; or ""."""
    every = list(names)
    if sum("lora_" in name.lower() for name in every) * 2 > len(every):
        return f"the weights of a LoRA adapter, which is not a model by itself; {MERGE}"
    decoder = re.compile(r"embed_tokens|tok_embeddings|self_attn|mlp\.|^layers\.|lm_head|^output\.")
    if any("patch_conv" in name for name in every) and not any(map(decoder.search, every)):
        return "a vision encoder alone; give the folder of the whole model"
    return ""


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = list(names)
    more = len(every) - _SHOWN
    return ", ".join(every[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _begun(folder: Path | None) -> list[str]:
    """Files that the hub's programs have begun to download for this folder."""
    if folder is None:
        return []
    places = [folder / ".cache" / "huggingface" / "download"]
    if hub_id(folder.absolute().parent.parent.name):
        places.append(folder.absolute().parent.parent / "blobs")
    found = [path for place in places for path in place.glob("**/*")]
    return sorted(path.name for path in found if path.name.endswith(UNFINISHED))


def _of_a_cache(folder: Path) -> str:
    """What a folder of the hub's cache is that is no model; "" if it is none."""
    here = folder.absolute()
    for part in (here, *here.parents[:2]):
        if owner := hub_id(part.name):
            return f"a folder of the hub's cache without a model's weights; give the id {owner}"
    for place in (folder, folder / "hub"):
        ids = sorted(filter(None, map(hub_id, _names(place))))
        if ids:
            return f"the hub's cache, not a model; give the id of one of its models: {some(ids)}"
    return ""


def _of_models(folder: Path) -> str:
    """The models in a folder of folders, as LM Studio's; "" if there are none."""
    found, models = sorted(_models(folder)), whole_models(folder)
    inside = [str(path.relative_to(folder)) for path in models or found]
    if models:
        return f"a folder of models, not one; give one of them: {some(inside)}"
    return (
        f"a folder of GGUF files ({some(inside)}), which llama.cpp reads; {INSTEAD}"
        if found
        else ""
    )


def _models(folder: Path) -> Iterator[Path]:
    """Folders inside that hold weights, few levels deep; a folder of a million is not searched."""
    for place, folders, files in islice(os.walk(folder), _MOST_FOLDERS):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if name[0] != "." and depth < _DEPTH)
        if depth and any(name.endswith((".safetensors", GGUF)) for name in files):
            yield Path(place)


def _whole(folder: Path) -> bool:
    """Whether it looks like a model: weights beside a configuration."""
    names = _names(folder)
    return any(n.endswith(".safetensors") for n in names) and any(n in names for n in _CONFIGS)


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []
