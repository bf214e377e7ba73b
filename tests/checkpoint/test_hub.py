"""Hub ids, against a hub that runs in this process: huggingface_hub itself is not replaced."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import make_hf, make_official
from fake_hub import COMMIT, serve

from pixtral_mlx.checkpoint.hub import needed_files
from pixtral_mlx.errors import CheckpointError

CONVERT = """
import sys
from pixtral_mlx.cli import main
main(["convert", sys.argv[1], sys.argv[2], "--dry-run", "--bits", "4"])
"""
INSPECT = """
import sys
from pixtral_mlx.cli import main
sys.stderr = sys.stdout
main(["inspect", sys.argv[1]])
"""
SCRIPT = """
import sys
from pixtral_mlx.errors import PixtralError
from pixtral_mlx.checkpoint.hub import fetch
try:
    print("at", fetch(*sys.argv[1:2], revision=(sys.argv[2:3] or [None])[0]))
except PixtralError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repositories")
    official = files_of(make_official(folder / "official"))
    extras = {"README.md": b"card", "modeling.py": b"code", "original/params.json": b"{}"}
    hf = files_of(make_hf(folder / "hf", shards=2, tokenizer=None))
    hf |= {"tokenizer.json": b"{}", "pytorch_model.bin": b"pickle"}
    return {
        "made-up/official": official | hf | extras,
        "made-up/hf": hf | extras,
        "made-up/pickles": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
    }


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(repositories):
    with serve(repositories) as running:
        yield running


def run(hub, home, *arguments, **settings):
    """What a fresh process prints on its last line when it fetches."""
    lines = printed(hub, home, SCRIPT, *arguments, **settings).splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def printed(hub, home, script, *arguments, **settings):
    """What a script prints in a process that knows only this hub."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **settings,
    }
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
        if name not in settings:
            environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout.strip() or done.stderr.strip()


def folder_of(line):
    assert line.startswith("at "), line
    return Path(line.removeprefix("at "))


def test_official_files_only_then_from_the_cache(hub, tmp_path):
    folder = folder_of(run(hub, tmp_path, "made-up/official"))
    names = {path.name for path in folder.iterdir()}
    assert names == {"params.json", "consolidated.safetensors", "tekken.json"}
    assert files_of(folder) == {n: hub.repositories["made-up/official"][n] for n in names}

    hub.requests.clear()
    assert folder_of(run(hub, tmp_path, "made-up/official")) == folder
    assert hub.downloads() == []
    assert folder_of(run(hub, tmp_path, "made-up/official", HF_HUB_OFFLINE="1")) == folder
    hub.endpoint = "http://127.0.0.1:9"
    assert folder_of(run(hub, tmp_path, "made-up/official")) == folder


def test_hf_files_only(hub, tmp_path):
    folder = folder_of(run(hub, tmp_path, "made-up/hf", COMMIT))
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }


def test_an_interrupted_download_goes_on_where_it_stopped(hub, tmp_path):
    hub.break_after, hub.then_refuse = 100_000, True
    line = run(hub, tmp_path, "made-up/official")
    assert line.startswith("CheckpointError made-up/official: ")
    partial = next(tmp_path.rglob("*.partial"))
    assert partial.stat().st_size == 100_000

    hub.break_after = None
    hub.requests.clear()
    folder = folder_of(run(hub, tmp_path, "made-up/official"))
    assert ("consolidated.safetensors", "bytes=100000-") in hub.downloads()
    whole = hub.repositories["made-up/official"]["consolidated.safetensors"]
    assert (folder / "consolidated.safetensors").read_bytes() == whole
    assert not list(tmp_path.rglob("*.partial*"))


def test_a_broken_connection_is_taken_up_again(hub, tmp_path):
    hub.break_after = 100_000
    folder = folder_of(run(hub, tmp_path, "made-up/official"))
    assert ("consolidated.safetensors", "bytes=100000-") in hub.downloads()
    whole = hub.repositories["made-up/official"]["consolidated.safetensors"]
    assert (folder / "consolidated.safetensors").read_bytes() == whole


def test_the_token_stays_with_the_hub(hub, tmp_path):
    hub.elsewhere = True
    folder = folder_of(run(hub, tmp_path, "made-up/official", HF_TOKEN="hf_made_up"))
    whole = hub.repositories["made-up/official"]["consolidated.safetensors"]
    assert (folder / "consolidated.safetensors").read_bytes() == whole
    assert hub.tokens["hub"] == {"Bearer hf_made_up"}
    assert hub.tokens["elsewhere"] == {None}


def test_the_command_says_that_hashes_are_as_the_hub_says(hub, tmp_path):
    lines = printed(hub, tmp_path, INSPECT, "made-up/official").splitlines()
    whole = hub.repositories["made-up/official"]["consolidated.safetensors"]
    digest = hashlib.sha256(whole).hexdigest()[:12]
    assert any(
        line.startswith("note: consolidated.safetensors: ")
        and line.endswith(f" MB, sha256 {digest}... as the hub says")
        for line in lines
    )


@pytest.mark.parametrize("name", ["official", "hf"])
def test_a_plan_needs_no_weights(hub, repositories, tmp_path, name):
    files = repositories[f"made-up/{name}"]
    (tmp_path / "there").mkdir()
    for file in files:
        if "/" not in file:
            (tmp_path / "there" / file).write_bytes(files[file])
    arguments = [str(tmp_path / "there"), "out"]
    here = printed(hub, tmp_path, CONVERT, *arguments)
    assert "bits per weight" in here
    assert not hub.requests
    assert printed(hub, tmp_path / "home", CONVERT, f"made-up/{name}", "out") == here
    spans = {n: span for n, span in hub.downloads() if n.endswith(".safetensors")}
    assert set(spans.values()) == {"bytes=0-100000"}
    assert hub.sent < sum(len(files[n]) for n in spans)
    assert not list((tmp_path / "home").rglob("blobs/*"))
    assert not Path("out").exists()


def test_disk_is_checked_before_anything_is_downloaded(hub, tmp_path):
    hub.declared["consolidated.safetensors"] = 10**18
    line = run(hub, tmp_path, "made-up/official")
    assert line.startswith("CapacityError made-up/official: 1000000000.00 GB to download, ")
    assert hub.downloads() == []


@pytest.mark.parametrize(
    ("repository", "said"),
    [
        ("made-up/missing", "no such repository on the hub"),
        ("made-up/pickles", "only pickled weights (pytorch_model.bin)"),
        ("made-up/official", "a gated repository; accept its terms at "),
    ],
)
def test_refusals_are_one_line(hub, tmp_path, repository, said):
    hub.gated.add("made-up/official")
    line = run(hub, tmp_path, repository)
    assert line.startswith(f"CheckpointError {repository}: ")
    assert said in line
    assert not list(tmp_path.rglob("*.bin"))


def test_unknown_revision_no_network_and_offline_are_one_line(hub, tmp_path):
    assert "no such revision" in run(hub, tmp_path, "made-up/official", "nowhere")
    offline = run(hub, tmp_path, "made-up/official", HF_HUB_OFFLINE="1")
    assert "not in the cache, and HF_HUB_OFFLINE is set" in offline
    hub.endpoint = "http://127.0.0.1:9"
    assert "the hub cannot be reached" in run(hub, tmp_path, "made-up/official")


SHARDS = tuple(f"-0000{i}-of-00002.safetensors" for i in (1, 2))


@pytest.mark.parametrize(
    ("there", "indexed", "needed"),
    [
        (("", *SHARDS), SHARDS, SHARDS),  # a single file is the same weights once more
        (("", *SHARDS), ("",), ("",)),
        (("", "-fp8.safetensors"), ("",), ("",)),
        ((*SHARDS, "-00001-of-00001.safetensors"), SHARDS, SHARDS),
        (("", "-fp8.safetensors"), SHARDS, ("", "-fp8.safetensors")),  # a stale one
        (SHARDS, None, SHARDS),  # not asked
        (("",), None, ("",)),
    ],
)
@pytest.mark.parametrize("kind", ["consolidated", "model"])
def test_choice_of_files(kind, there, indexed, needed):
    """Of the sets that lie side by side, the one that the index names."""

    def named(ends):
        return {f"{kind}{end or '.safetensors'}" for end in ends}

    index = f"{kind}.safetensors.index.json"
    settings = {"consolidated": "params.json", "model": "config.json"}[kind]
    small = {index, settings, "tokenizer.model.v7m1"}
    asked = []
    found = needed_files(
        [*named(there), *small, "weights/model.safetensors", "consolidated.00.pth"],
        lambda name: asked.append(name) or named(indexed),
    )
    assert found == sorted(small | named(needed))
    assert asked == [index] * (indexed is not None)


def test_no_choice_of_files():
    with pytest.raises(CheckpointError, match=r"neither params\.json nor config\.json"):
        needed_files(["model.safetensors"], list)
    with pytest.raises(CheckpointError, match="no weights"):
        needed_files(["config.json", "weights/model.safetensors"], list)


@pytest.mark.parametrize("kind", ["official", "hf"])
def test_of_weights_that_are_there_twice_one_set_comes(hub, tmp_path, monkeypatch, kind):
    """As an index says, which is read before: of a plan, too."""
    files = hub.repositories[f"made-up/{kind}"]
    main = {"official": "consolidated", "hf": "model"}[kind]
    index = f"{main}.safetensors.index.json"
    named = [n for n in files if n.startswith(main) and n.endswith(".safetensors")]
    more = {f"{main}-other.safetensors": files[named[0]]}
    if kind == "official":
        more[index] = json.dumps({"weight_map": {"norm.weight": named[0]}}).encode()
    monkeypatch.setitem(hub.repositories, "made-up/twice", files | more)
    printed(hub, tmp_path / "plan", CONVERT, "made-up/twice", "out")
    folder = folder_of(run(hub, tmp_path, "made-up/twice"))
    assert sorted(path.name for path in folder.glob("*.safetensors")) == sorted(named)
    assert f"{main}-other.safetensors" not in {name for name, _ in hub.downloads()}
    assert not list((tmp_path / "plan").rglob("blobs/*"))

    spoiled, what = (b"{}", "no weight_map;") if kind == "hf" else (b"<html>", "a web page")
    hub.repositories["made-up/twice"][index] = spoiled
    said = run(hub, tmp_path / "new", "made-up/twice")
    assert said.startswith(f"CheckpointError made-up/twice: {index}: {what} ")
