"""Files and folders that appear only when they are complete."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import pixtral_mlx
from pixtral_mlx.errors import CapacityError, CheckpointError, ImageError
from pixtral_mlx.files import (
    new_file,
    new_folder,
    refuse_existing,
    remove_stale,
    remove_unfinished,
    scratch_folder,
    take_name,
)  # fmt: skip

ROOT = Path(pixtral_mlx.__file__).parents[1]
LONG = "ä" * 120 + ".png"  # 244 bytes, of the 255 that a name may have

CODE = """
import sys
from pathlib import Path
from pixtral_mlx.files import new_file, new_folder
path = Path(sys.argv[2])
with globals()[sys.argv[1]](path) as hidden:
    file = hidden / "data" if hidden.is_dir() else hidden
    file.write_bytes(b"half of it")
    print("begun", flush=True)
    file.write_bytes(sys.stdin.readline().strip().encode())
"""


def start(kind: str, path: Path) -> subprocess.Popen:
    """A process that has written half of `path`, and waits for a line to write in its place."""
    command, pipe = [sys.executable, "-c", CODE, kind, str(path)], subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout and process.stdout.readline() == "begun\n"
    return process


def end(process: subprocess.Popen, line: str) -> list[str]:
    """Let it go on; the lines that it writes to stderr."""
    return process.communicate(f"{line}\n")[1].splitlines()


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def fill(hidden: Path, text: str = "new") -> None:
    (hidden / "data" if hidden.is_dir() else hidden).write_text(text)


def content(path: Path) -> str:
    return (path / "data" if path.is_dir() else path).read_text()


both = pytest.mark.parametrize("new", [new_file, new_folder])


@both
@pytest.mark.parametrize("name", ["a.png", "a", ".a", "a[1]*?.tar.gz", "a b\n.txt", LONG])
def test_it_appears_when_the_block_ends(new, tmp_path, name):
    with new(tmp_path / name) as hidden:
        fill(hidden)
        assert names(tmp_path) == [hidden.name] and hidden.name.startswith(".")
        assert hidden.name != name
    assert names(tmp_path) == [name] and content(tmp_path / name) == "new"


@both
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError, CheckpointError])
def test_nothing_is_left_when_the_block_fails(new, tmp_path, kind):
    with pytest.raises(kind, match="stop"), new(tmp_path / "a") as hidden:
        fill(hidden)
        raise kind("stop")
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["new_file", "new_folder"])
def test_a_killed_process_leaves_nothing_under_the_name(kind, number, tmp_path):
    process = start(kind, tmp_path / "a.bin")
    process.send_signal(number)
    assert process.wait() == -number
    process.communicate()
    (left,) = names(tmp_path)
    assert left.startswith(".a.partial-")
    with {"new_file": new_file, "new_folder": new_folder}[kind](tmp_path / "a.bin") as hidden:
        fill(hidden)
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("kind", ["new_file", "new_folder"])
def test_of_two_processes_one_wins_and_the_other_gets_the_line(kind, tmp_path):
    path = tmp_path / "a"
    one, other = start(kind, path), start(kind, path)
    assert len(names(tmp_path)) == 2  # neither took the other's for what a killed run left
    assert end(other, "other") == []
    (*_, last) = end(one, "one")
    assert "CheckpointError" in last and "a: already exists" in last
    assert (one.returncode, other.returncode) == (1, 0)
    assert names(tmp_path) == ["a"] and content(path) == "other"


@pytest.mark.parametrize("kind", ["new_file", "new_folder"])
def test_the_name_goes_to_one_of_many_that_end_at_once(kind, tmp_path):
    path = tmp_path / "a"
    every = [start(kind, path) for _ in range(4)]
    for number, process in enumerate(every):
        process.stdin.write(f"{number}\n")
    for process in every:
        process.stdin.flush()
    said = [process.communicate()[1] for process in every]
    codes = [process.returncode for process in every]
    assert sorted(codes) == [0, 1, 1, 1] and content(path) == str(codes.index(0))
    assert all("CheckpointError" in text and "already exists" in text for text in said if text)
    assert names(tmp_path) == ["a"]


@both
def test_what_is_there_stays_as_it_is(new, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    before = names(tmp_path)
    for name in before:
        with pytest.raises(CheckpointError, match=f"{name}: already exists"), new(tmp_path / name):
            pass
    assert names(tmp_path) == before and (tmp_path / "file").read_text() == "mine"
    assert list((tmp_path / "folder").iterdir()) == [] and (tmp_path / "link").is_symlink()


@both
@pytest.mark.parametrize("begin", [Path.mkdir, Path.touch])
def test_what_appears_meanwhile_stays_as_it_is(new, tmp_path, begin):
    path = tmp_path / "a"
    with pytest.raises(ImageError, match="already exists"), new(path, error=ImageError) as hidden:
        fill(hidden)
        begin(path)
    assert names(tmp_path) == ["a"] and (not path.is_dir() or not any(path.iterdir()))


def test_a_disk_without_hard_links_is_enough(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "link", unknown)
    with new_file(tmp_path / "a") as hidden:
        fill(hidden)
    assert names(tmp_path) == ["a"]
    with pytest.raises(CheckpointError, match="already exists"), new_file(tmp_path / "b") as hidden:
        fill(hidden)
        (tmp_path / "b").write_text("mine")
    assert names(tmp_path) == ["a", "b"] and content(tmp_path / "b") == "mine"


def test_a_file_is_replaced_where_that_is_asked_for(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ValueError, match="stop"), new_file(path, replace=True) as hidden:
        fill(hidden)
        raise ValueError("stop")
    assert names(tmp_path) == ["a"] and path.read_text() == "old"
    with new_file(path, replace=True) as hidden:
        fill(hidden)
        assert path.read_text() == "old"
    assert names(tmp_path) == ["a"] and path.read_text() == "new"


def test_permissions_are_those_asked_for(tmp_path):
    umask = os.umask(0o027)
    try:
        for name, mode in (("a", 0o666), ("b", 0o600)):
            with new_file(tmp_path / name, mode=mode) as hidden:
                fill(hidden)
                assert hidden.stat().st_mode & 0o777 == mode & ~0o027
            assert (tmp_path / name).stat().st_mode & 0o777 == mode & ~0o027
    finally:
        os.umask(umask)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["write", "fsync", "mkdir"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, number, where):
    def full(*_, **__):
        raise OSError(number, os.strerror(number))

    kinds = {
        "write": [new_file, new_folder],
        "fsync": [new_file, new_folder],
        "mkdir": [new_folder],
    }
    for new in kinds[where]:
        with monkeypatch.context() as patch, pytest.raises(CapacityError) as caught:
            if where == "mkdir":
                patch.setattr(Path, "mkdir", full)
            elif where == "fsync":
                patch.setattr(os, "fsync", full)
            with new(tmp_path / "a") as hidden:
                fill(hidden)
                if where == "write":
                    full()
        said = str(caught.value)
        assert "the disk is full" in said and "nothing was left behind" in said
        assert "\n" not in said and names(tmp_path) == []


LIMITED = """
import resource, signal, sys
from pathlib import Path
import mlx.core as mx
import numpy as np
from PIL import Image
from pixtral_mlx.files import new_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
write = {
    "bytes": lambda p: p.write_bytes(noise.tobytes()),
    "png": lambda p: Image.fromarray(noise).save(p),
    "arrays": lambda p: mx.save_safetensors(str(p), {"a": mx.array(noise)}),
}
with new_file(Path(sys.argv[2]), suffix=sys.argv[3]) as hidden:
    write[sys.argv[1]](hidden)
"""


@pytest.mark.parametrize(
    ("what", "suffix"), [("bytes", ""), ("png", ".png"), ("arrays", ".safetensors")]
)
def test_a_file_that_cannot_become_so_large_leaves_nothing(what, suffix, tmp_path):
    command = [sys.executable, "-c", LIMITED, what, str(tmp_path / "a"), suffix]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "CheckpointError" in last and "a: cannot be written" in last
    assert names(tmp_path) == []


@both
def test_a_place_that_cannot_be_written_is_one_line(new, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for name, reason in (("x" * 300, "File name too long"), ("file/a", "there is no folder")):
        with pytest.raises(ImageError, match=f"cannot be written \\(.*{reason}.*\\)") as caught:  # noqa: SIM117
            with new(tmp_path / name, error=ImageError) as hidden:
                fill(hidden)
        assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)
    if new is new_file:
        with pytest.raises(CheckpointError, match="there is no folder"), new(tmp_path / "b" / "a"):
            pass
    assert names(tmp_path) == ["file"]

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refused)  # the tests may run as root, whom nothing refuses
    with pytest.raises(CheckpointError, match="Permission denied"), new(tmp_path / "a"):
        pass


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
@both
def test_a_read_only_folder_is_one_line(new, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="Permission denied"), new(tmp_path / "a"):
            pass
    finally:
        tmp_path.chmod(0o700)
    assert names(tmp_path) == []


@both
def test_without_a_kind_of_error_they_stay_as_they_are(new, tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(FileExistsError, match="a: already exists"), new(tmp_path / "a", error=None):
        pass
    with pytest.raises(OSError, match="my own"), new(tmp_path / "b", error=None):
        raise OSError("my own")
    with pytest.raises(FileNotFoundError, match="no folder"), new(tmp_path / "a" / "b", error=None):
        pass


def test_what_killed_runs_left_is_removed_and_a_live_one_kept(tmp_path):
    (tmp_path / ".a.partial-1").mkdir()
    (tmp_path / ".a.partial-1" / "data").write_text("left")
    for name in (".a.partial-2.png", ".a.partial-live", ".b.partial-3", "a.partial-4", ".a"):
        (tmp_path / name).write_text("")
    lock = os.open(tmp_path / ".a.partial-live", os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_stale(tmp_path / "a")
    finally:
        os.close(lock)
    assert names(tmp_path) == [".a", ".a.partial-live", ".b.partial-3", "a.partial-4"]


@pytest.mark.parametrize("where", ["open", "close"])
def test_a_signal_may_strike_anywhere(tmp_path, monkeypatch, where):
    """Where the file was made a moment ago, and while it is removed."""
    real = getattr(os, where)

    def struck(*arguments):
        real(*arguments)
        raise SystemExit(143)

    with pytest.raises(SystemExit), new_file(tmp_path / "a.png") as hidden:
        monkeypatch.setattr(os, where, struck)
        if where == "close":
            raise ValueError
        with new_file(tmp_path / "b.png"):
            pass
    assert hidden.name.startswith(".a.partial-") and not [*tmp_path.iterdir()]


def test_what_could_not_be_removed_is_removed_at_the_end(tmp_path, monkeypatch):
    def struck(_):
        raise SystemExit(143)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("pixtral_mlx.files._remove", struck)
        with new_file(tmp_path / "a.png"):
            raise SystemExit(143)
    assert [each.name[:11] for each in tmp_path.iterdir()] == [".a.partial-"]
    remove_unfinished()
    assert not [*tmp_path.iterdir()]


def test_a_run_that_was_taken_for_stale_before_it_was_locked_begins_again(tmp_path, monkeypatch):
    real, seen = fcntl.flock, []

    def late(descriptor, how):
        if not seen:
            seen.extend(names(tmp_path))
            (tmp_path / seen[0]).unlink()
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with new_file(tmp_path / "a") as hidden:
        assert hidden.name != seen[0]
        fill(hidden)
    assert names(tmp_path) == ["a"]


def test_refuse_existing_lets_new_names_pass(tmp_path):
    refuse_existing(tmp_path / "a")
    refuse_existing(tmp_path / "no" / "folder" / "a")
    (tmp_path / "a").write_text("")
    refuse_existing(tmp_path / "a" / "b")
    with pytest.raises(ValueError, match="choose another name or remove it"):
        refuse_existing(tmp_path / "a", ValueError)


def test_what_is_renamed_was_on_the_disk_before_and_its_folder_is_afterwards(tmp_path, monkeypatch):
    seen, fsync, link, rename = [], os.fsync, os.link, Path.rename

    def record(name, function):
        def call(*given):
            what = given[0]
            path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else str(what)
            seen.append((name, Path(path).name.partition(".partial-")[0]))
            return function(*given)

        return call

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", record("sync", fsync))
    monkeypatch.setattr(os, "link", record("name", link))
    monkeypatch.setattr(Path, "rename", record("name", rename))
    with new_file(tmp_path / "a") as hidden:
        fill(hidden)
    assert seen == [("sync", ".a"), ("name", ".a"), ("sync", tmp_path.name)]
    seen.clear()
    with new_folder(tmp_path / "b") as hidden:
        (hidden / "deep").mkdir()
        (hidden / "deep" / "data").write_text("new")
    named = [name for _, name in seen]
    assert named == ["deep", "data", ".b", ".b", tmp_path.name]
    assert [what for what, _ in seen] == ["sync", "sync", "sync", "name", "sync"]


def test_a_scratch_folder_is_gone_and_so_is_that_of_a_killed_run(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as place:
        assert place.stat().st_mode & 0o777 == 0o700 and place.parent == tmp_path
        (place / "x").write_text("")
    assert names(tmp_path) == []
    (tmp_path / ".pixtral-mlx.partial-1").mkdir()
    with scratch_folder() as place:
        assert names(tmp_path) == [place.name]
    with scratch_folder(tmp_path / "a" / "b") as place:
        assert names(tmp_path / "a") == [place.name]


@both
def test_of_two_files_there_are_both_or_none(new, tmp_path):
    other, taken = tmp_path / "other", tmp_path / "taken"
    other.write_text("")
    taken.mkdir()
    with pytest.raises(FileExistsError), scratch_folder(taken) as place:
        (place / "a").mkdir() if new is new_folder else (place / "a").touch()
        take_name(place / "a", taken, with_it=other)
    assert names(tmp_path) == ["taken"]


def test_nobody_else_renames_files():
    """`download` goes on with what an earlier run began, so it has a way of its own."""
    renames = re.compile(r"os\.(replace|rename|link)\(|\.rename\(|open\([^)]*\"x")
    files = [*ROOT.glob("pixtral_mlx/**/*.py"), *ROOT.glob("widgets/**/*.py")]
    found = {f.name for f in files if renames.search(f.read_text(encoding="utf-8"))}
    assert found == {"files.py", "download.py"}
