"""Weights from a hub that surprises: the file comes whole and checked, or one line says why not."""

import errno
import hashlib
import os
import shutil

import huggingface_hub
import huggingface_hub.file_download
import huggingface_hub.utils
import pytest
from downloads import (
    CHECKED,
    DIGEST,
    FILE,
    NAME,
    SIZE,
    WEIGHTS,
    arrived,
    got,
    notes,
    weight_requests,
)
from fake_hub import COMMIT

from pixtral_mlx.checkpoint import download, hub
from pixtral_mlx.errors import CapacityError, CheckpointError


def begin(tmp_path, data=WEIGHTS[:100_000]):
    """What an earlier run left of the file."""
    partial = download.repo_cache(NAME) / "blobs" / f"{DIGEST}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(data)
    return partial


def plain(handler, data):
    return handler.answer_with(200, data, Content_Length=len(data))


def head(**headers):
    """An answer to HEAD with the headers that a download needs, and these (None: without it)."""

    def answer(handler, data):
        usual = {"ETag": f'"{DIGEST}"', "Content_Length": len(data), "X_Repo_Commit": COMMIT}
        kept = {n: value for n, value in {**usual, **headers}.items() if value is not None}
        return handler.answer_with(200, **kept)

    return answer


# What is shown and checked --------------------------------------------------------------------


def test_the_hash_is_compared_and_shown_once(fake, tmp_path, caplog, monkeypatch):
    folder = arrived(tmp_path)
    assert notes(caplog) == [CHECKED]
    caplog.clear()
    monkeypatch.setattr(hashlib, "sha256", None)  # a later load reads nothing of it
    assert hub.fetch(NAME) == folder
    assert notes(caplog) == []


def test_a_file_damaged_twice_is_one_line_and_is_fetched_again(fake, tmp_path, caplog):
    bad = got(200, b"x" + WEIGHTS[1:], Content_Length=len(WEIGHTS))
    fake.odd_gets += [bad, bad]
    found = hashlib.sha256(b"x" + WEIGHTS[1:]).hexdigest()
    said = f"sha256 {found[:12]}..., the hub says {DIGEST[:12]}..."
    with pytest.raises(CheckpointError) as caught:
        hub.fetch(NAME)
    assert str(caught.value) == (
        f"{NAME}: {FILE} arrived damaged ({said}) and was removed; run the command again"
    )
    assert notes(caplog) == [
        f"{FILE}: it arrived damaged ({said}); huggingface_hub fetches it whole"
    ]
    assert not [path for path in tmp_path.rglob("*") if path.name in (FILE, DIGEST)]
    arrived(tmp_path)


def test_without_a_hash_nothing_is_claimed(fake, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("fake_hub.lfs", lambda name, data: {})
    fake.odd_heads += [head(ETag='"abc"')] * 3
    arrived(tmp_path)
    assert notes(caplog) == [f"{FILE}: 0.3 MB, not checked: the hub gives no sha256"]


@pytest.mark.parametrize("surprise", [[], [got(416, b"", Content_Length=0)]], ids=["ours", "whole"])
def test_the_etag_is_a_hash_too(fake, tmp_path, caplog, monkeypatch, surprise):
    monkeypatch.setattr("fake_hub.lfs", lambda name, data: {})
    fake.odd_gets += surprise
    arrived(tmp_path)
    assert notes(caplog)[len(surprise) :] == [CHECKED]


def test_an_interrupted_check_is_made_up_for(fake, tmp_path, caplog, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    fake.odd_gets += [got(416, b"", Content_Length=0)]
    with monkeypatch.context() as patched:
        patched.setattr(download, "_difference", interrupt)
        with pytest.raises(KeyboardInterrupt):
            hub.fetch(NAME)
    caplog.clear()
    fake.requests.clear()
    arrived(tmp_path)
    assert notes(caplog) == [CHECKED] and weight_requests(fake) == []


@pytest.mark.parametrize("sound", [True, False])
def test_blobs_that_repositories_share(fake, tmp_path, sound):
    blobs = download.repo_cache(NAME) / "blobs"
    partial, store = begin(tmp_path), tmp_path / "cache" / "store"
    store.mkdir()
    (store / "f00").write_bytes(WEIGHTS if sound else b"other")
    (blobs / DIGEST).symlink_to(store / "f00")
    file = blobs.parent / FILE
    file.symlink_to(f"blobs/{DIGEST}")
    if sound:
        download._check_fetched(NAME, FILE, file, download.RemoteFile(SIZE))
        assert file.read_bytes() == WEIGHTS and not partial.exists()
    else:
        with pytest.raises(CheckpointError, match="arrived damaged"):
            download._check_fetched(NAME, FILE, file, download.RemoteFile(SIZE))
        assert not any(path.is_symlink() for path in (file, blobs / DIGEST))
    assert [path.name for path in store.iterdir()] == ["f00"] * sound


# What the real hub may do and the fake one did not ----------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [head(Content_Length=None), head(ETag=f'W/"{DIGEST}"'), head(ETag=DIGEST)],
    ids=["no size", "weak", "bare"],
)
def test_other_spellings_of_the_headers(fake, tmp_path, caplog, odd):
    fake.odd_heads += [odd] * 2
    begin(tmp_path)
    arrived(tmp_path)
    assert weight_requests(fake) == ["bytes=100000-"]
    assert notes(caplog) == [CHECKED]


def test_a_server_that_ignores_ranges(fake, tmp_path, caplog):
    begin(tmp_path)
    fake.odd_gets += [plain]
    arrived(tmp_path)
    assert weight_requests(fake) == ["bytes=100000-"]
    assert notes(caplog) == [CHECKED]


def test_a_server_that_gives_less_than_was_asked_for(fake, tmp_path, caplog):
    begin(tmp_path)
    end, size = 200_000, len(WEIGHTS)
    span = f"bytes 100000-{end - 1}/{size}"
    fake.odd_gets += [got(206, WEIGHTS[100_000:end], Content_Length=100_000, Content_Range=span)]
    arrived(tmp_path)
    assert weight_requests(fake) == ["bytes=100000-", "bytes=200000-"]
    assert notes(caplog) == [CHECKED]


def test_a_file_without_a_stated_length_that_breaks_off(fake, tmp_path, caplog):
    fake.odd_gets += [got(200, WEIGHTS[:5000])]
    arrived(tmp_path)
    assert weight_requests(fake) == ["", "bytes=5000-"]
    assert notes(caplog) == [CHECKED]


def test_too_many_requests_are_waited_for(fake, tmp_path, caplog):
    fake.odd_gets += [got(429, b"", Retry_After=1, Content_Length=0)]
    fake.odd_heads += [got(503, b"", Content_Length=0)]
    arrived(tmp_path)
    assert notes(caplog) == [CHECKED]


ODD_GETS = {
    "416": (got(416, b"", Content_Length=0), "the answer has status 416 (no range)"),
    "204": (got(204, b""), "the answer has status 204 (no range)"),
    "418": (got(418, b"", Content_Length=0), "the answer has status 418 (no range)"),
    "another range": (
        got(206, WEIGHTS[:9], Content_Length=9, Content_Range=f"bytes 0-8/{SIZE}"),
        f"the answer has status 206 (bytes 0-8/{SIZE})",
    ),
    "another total": (
        got(206, b"x", Content_Length=1, Content_Range="bytes 100000-100000/100001"),
        "the answer has status 206 (bytes 100000-100000/100001)",
    ),
    "a page": (
        got(200, b"<html>log in</html>", Content_Length=19),
        f"the answer has 19 bytes, not {SIZE}",
    ),
    "gzip": (got(200, Content_Encoding="gzip"), "the answer is encoded as gzip"),
    "too long": (got(200, WEIGHTS + b"x"), f"more than its {SIZE:,} bytes came"),
    "damaged": (got(200, bytes(SIZE), Content_Length=SIZE), "it arrived damaged (sha256"),
}


@pytest.mark.parametrize(("odd", "said"), ODD_GETS.values(), ids=ODD_GETS)
def test_odd_answers_leave_the_file_to_huggingface_hub(fake, tmp_path, caplog, odd, said):
    begin(tmp_path)
    fake.odd_gets += [odd]
    arrived(tmp_path)
    assert weight_requests(fake) == ["bytes=100000-", ""]
    note, checked = notes(caplog)
    assert note.startswith(f"{FILE}: ") and said in note
    assert note.endswith("; huggingface_hub fetches it whole")
    assert checked == CHECKED


ODD_HEADS = {
    "no etag": (head(ETag=None), "no etag that can be used (None)"),
    "a path": (head(ETag='"../../x"'), "no etag that can be used (../../x)"),
    "another size": (head(Content_Length=5), f"the hub says {SIZE:,} bytes and 5 bytes"),
}


@pytest.mark.parametrize(("odd", "said"), ODD_HEADS.values(), ids=ODD_HEADS)
def test_odd_headers_leave_the_file_to_huggingface_hub(fake, tmp_path, caplog, odd, said):
    fake.odd_heads += [odd]
    arrived(tmp_path)
    note, checked = notes(caplog)
    assert said in note and checked == CHECKED


def test_a_refusal_of_another_host_is_a_surprise(fake, tmp_path, caplog):
    fake.elsewhere = True
    fake.odd_gets += [got(403, b"", Content_Length=0)]
    arrived(tmp_path)
    assert "the answer has status 403" in notes(caplog)[0]
    assert notes(caplog)[1] == CHECKED


@pytest.mark.parametrize(
    ("odd", "times", "said"),
    [
        (got(500, b"", Content_Length=0), 6, "the hub answered with status 500"),
        (got(200, b"", Content_Length=SIZE), 4, ""),  # breaks off before the first byte
        (got(200, b""), 4, f"0 of {SIZE:,} bytes arrived"),
    ],
)
def test_what_never_gets_better_is_left_to_huggingface_hub(
    fake, tmp_path, caplog, odd, times, said
):
    fake.odd_gets += [odd] * times
    arrived(tmp_path)
    assert said in notes(caplog)[0] and notes(caplog)[1] == CHECKED


# What nobody else could do better ---------------------------------------------------------------


def refused(fake, kind=CheckpointError):
    """The line, after one attempt and no other."""
    with pytest.raises(kind) as caught:
        hub.fetch(NAME)
    assert len(weight_requests(fake)) <= 1
    assert str(caught.value).startswith(f"{NAME}: ") and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (got(401, b"", X_Error_Code="GatedRepo", Content_Length=0), "a gated repository; accept"),
        (got(403, b"", Content_Length=0), "the hub refuses access (status 403); accept the terms"),
        (got(404, b"", X_Error_Code="EntryNotFound", Content_Length=0), "no such"),
    ],
)
@pytest.mark.parametrize("kind", ["odd_heads", "odd_gets"])
def test_refusals_of_files_stand(fake, caplog, answer, said, kind):
    getattr(fake, kind).append(answer)
    assert said in refused(fake)
    assert notes(caplog) == []


def test_too_many_requests_for_too_long(fake, tmp_path, caplog):
    partial = begin(tmp_path)
    fake.odd_gets += [got(429, b"", Content_Length=0)] * 6
    with pytest.raises(CheckpointError, match="status 429; try again later"):
        hub.fetch(NAME)
    assert partial.exists() and notes(caplog) == []


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.ENOSPC, CapacityError, "the disk is full"),
        (errno.EROFS, CheckpointError, "the cache cannot be written"),
    ],
)
def test_disks_that_are_full_or_closed(fake, caplog, monkeypatch, number, kind, said):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    assert said in refused(fake, kind)
    assert notes(caplog) == [CHECKED]


def test_an_interruption_stands(fake, monkeypatch, caplog):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_is_whole", interrupt)
    with pytest.raises(KeyboardInterrupt):
        hub.fetch(NAME)
    assert len(weight_requests(fake)) == 1 and notes(caplog) == []


def test_a_network_that_fails_keeps_what_has_come(fake, tmp_path, caplog):
    partial = begin(tmp_path)
    span = f"bytes 100000-{SIZE - 1}/{SIZE}"
    fake.odd_gets += [got(206, b"", Content_Length=9, Content_Range=span)] * 4
    with pytest.raises(CheckpointError, match="it continues where it stopped"):
        hub.fetch(NAME)
    assert partial.read_bytes() == WEIGHTS[:100_000]
    assert notes(caplog) == []
    arrived(tmp_path)
    assert weight_requests(fake) == ["bytes=100000-"] * 5


def test_what_was_begun_goes_where_the_whole_has_no_room_beside_it(fake, tmp_path, monkeypatch):
    partial = begin(tmp_path)
    usage = type("Usage", (), {"free": SIZE - 1})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(huggingface_hub.file_download, "_check_disk_space", lambda *_: None)
    fake.odd_gets += [got(416, b"", Content_Length=0)]
    seen = []
    whole = huggingface_hub.snapshot_download

    def watched(*arguments, **options):
        seen.append(partial.exists())
        return whole(*arguments, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", watched)
    arrived(tmp_path)
    assert seen[0] is False
