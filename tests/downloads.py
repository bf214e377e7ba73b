"""The file that tests of downloads fetch, and what came of it."""

import hashlib

from pixtral_mlx.checkpoint import hub

NAME = "made-up/model"
WEIGHTS = bytes(range(256)) * 1200
SIZE = len(WEIGHTS)
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
FILE = "consolidated.safetensors"
CHECKED = f"{FILE}: 0.3 MB, sha256 {DIGEST[:12]}... as the hub says"


def notes(caplog):
    """What the package said."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("pixtral_mlx")]


def weight_requests(fake):
    """The Range headers with which the file was asked for."""
    return [span for name, span in fake.downloads() if name == FILE]


def arrived(tmp_path):
    """Fetch, and see that the cache holds the right bytes and nothing half done."""
    folder = hub.fetch(NAME)
    assert (folder / FILE).read_bytes() == WEIGHTS
    assert not list(tmp_path.rglob("*.partial"))
    return folder


def got(status, body=None, **headers):
    """An answer to GET; without a body of its own it sends the right bytes."""

    def answer(handler, data):
        return handler.answer_with(status, data if body is None else body, **headers)

    return answer
