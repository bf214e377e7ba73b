"""Insides of huggingface_hub that downloads use: where they change, the file comes all the same."""

import re
import sys
import types
from pathlib import Path

import pytest
from downloads import CHECKED, FILE, SIZE, arrived, got, notes
from huggingface_hub import constants

from pixtral_mlx.checkpoint import download

INSIDES = [
    ("huggingface_hub", "get_hf_file_metadata"),
    ("huggingface_hub", "hf_hub_url"),
    ("huggingface_hub.file_download", "are_symlinks_supported"),
    ("huggingface_hub.utils", "WeakFileLock"),
    ("huggingface_hub.utils", "are_progress_bars_disabled"),
    ("huggingface_hub.utils", "build_hf_headers"),
    ("huggingface_hub.utils", "hf_raise_for_status"),
    ("huggingface_hub.utils", "http_stream_backoff"),
]


def test_the_insides_that_are_used_are_there():
    """Without them downloads still work, but not ours: every one would be left to the hub's."""
    assert [name for module, name in INSIDES if not hasattr(sys.modules[module], name)] == []
    source = Path(download.__file__).read_text()
    used = re.findall(r"from (huggingface_hub[\w.]*) import ([^\n(]+)", source)
    assert {(module, name.strip()) for module, names in used for name in names.split(",")} >= {
        *INSIDES
    }


@pytest.mark.parametrize(("module", "name"), INSIDES, ids=[name for _, name in INSIDES])
@pytest.mark.parametrize("gone", [True, False], ids=["gone", "changed"])
def test_insides_that_change(fake, tmp_path, caplog, monkeypatch, module, name, gone):
    real = sys.modules[module]

    class Other(types.ModuleType):
        """The module as we import it; huggingface_hub's own imports are done."""

        def __getattr__(self, asked):
            if asked == name and gone:
                raise AttributeError(asked)
            return None if asked == name else getattr(real, asked)

    monkeypatch.setitem(sys.modules, module, Other(module))
    fake.odd_gets += [got(403, b"", Content_Length=0)] if name == "hf_raise_for_status" else []
    arrived(tmp_path)
    note, checked = notes(caplog)
    assert note.endswith("; huggingface_hub fetches it whole")
    assert (f"cannot import name '{name}'" if gone else "not callable") in note
    assert checked == CHECKED


def test_insides_of_an_answer_that_change(fake, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(download, "_append", lambda *_: object().url)
    arrived(tmp_path)
    assert "has no attribute 'url'" in notes(caplog)[0]


def test_a_cache_without_symbolic_links(fake, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    folder = arrived(tmp_path)
    assert notes(caplog) == [
        f"{FILE}: the cache's disk has no symbolic links; huggingface_hub fetches it whole",
        CHECKED,
    ]
    assert not (folder / FILE).is_symlink()
    assert sum(p.stat().st_size == SIZE for p in tmp_path.rglob("*") if p.is_file()) == 1
