"""A hub of this process."""

import logging
import os
import time

import huggingface_hub
import huggingface_hub.file_download  # these are replaced in `sys.modules`
import huggingface_hub.utils
import pytest
from downloads import FILE, NAME, WEIGHTS
from fake_hub import serve
from huggingface_hub import constants


@pytest.fixture
def fake(tmp_path, monkeypatch, caplog):
    """A hub that this process takes for the real one, its cache in `tmp_path`, and no waiting."""
    files = {FILE: WEIGHTS, "params.json": b"{}", "tekken.json": b"{}"}
    for name in [n for n in os.environ if "proxy" in n.lower() or n.startswith("HF_")]:
        monkeypatch.delenv(name)
    with serve({NAME: files}) as running:
        template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        huggingface_hub.close_session()
        caplog.set_level(logging.INFO, logger="pixtral_mlx")
        yield running
        huggingface_hub.close_session()
