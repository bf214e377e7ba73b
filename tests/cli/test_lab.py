"""`pixtral-mlx lab`: which folder is opened, and what is said when something is missing."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress

import pytest

from pixtral_mlx.cli import lab
from pixtral_mlx.errors import PixtralError


def test_a_checkout_opens_its_own_notebooks(tmp_path):
    assert lab.course_folder(lab.CHECKOUT, tmp_path / "none", tmp_path / "copy") == lab.CHECKOUT
    assert not (tmp_path / "copy").exists()


def test_an_installed_course_is_copied_and_nothing_of_the_reader_is_lost(tmp_path):
    installed, copy = tmp_path / "installed", tmp_path / "copy"
    (installed / "pictures").mkdir(parents=True)
    (installed / "0.ipynb").write_text("zero")
    (installed / "pictures" / "a.png").write_bytes(b"a")
    assert lab.course_folder(tmp_path / "none", installed, copy) == copy
    (copy / "0.ipynb").write_text("mine")
    (installed / "1.ipynb").write_text("one")
    lab.course_folder(tmp_path / "none", installed, copy)
    assert (copy / "0.ipynb").read_text() == "mine"
    assert (copy / "1.ipynb").read_text() == "one"
    assert (copy / "pictures" / "a.png").read_bytes() == b"a"


def test_no_notebooks_is_one_line(tmp_path):
    with pytest.raises(PixtralError, match="install the package again"):
        lab.course_folder(tmp_path / "a", tmp_path / "b", tmp_path / "c")


def test_a_missing_extra_names_the_command(monkeypatch):
    monkeypatch.setattr(lab, "NEEDED", ("no_such_module",))
    with pytest.raises(PixtralError, match=r'no_such_module.*pip install "\.\[lab\]"'):
        lab.run(None)


def test_the_command_opens_the_first_notebook_with_settings_of_the_course(tmp_path):
    command = [
        sys.executable, "-m", "pixtral_mlx", "lab", "--", "--no-browser", "--allow-root",
        "--ServerApp.port=0", "--IdentityProvider.token=",
    ]  # fmt: skip
    log = tmp_path / "log"
    with open(log, "w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        assert "0-first-look.ipynb" in _from_server(log, server, "api/contents")
        assert "/lab/tree/0-first-look.ipynb" in log.read_text()
        settings = _from_server(log, server, "lab/api/settings")
        found = {
            one["id"]: one["schema"].get("properties") for one in json.loads(settings)["settings"]
        }
        news = found["@jupyterlab/apputils-extension:notification"]["fetchNews"]["default"]
        assert news == "false", "nobody is asked about news"
        assert found["@jupyter-widgets/jupyterlab-manager:plugin"]["saveState"]["default"] is True
    finally:
        server.terminate()
        server.wait(30)


PROGRAM = """
import signal, sys, time
heard = []
for name in ("SIGINT", "SIGTERM"):
    signal.signal(getattr(signal, name), lambda number, _: heard.append(number))
print("ready", flush=True)
while len(heard) < int(sys.argv[1]):
    time.sleep(0.02)
time.sleep(0.5)  # kernels to be stopped
print("ended", *map(int, heard), flush=True)
sys.exit(7)
"""


@pytest.mark.parametrize(("sent", "status"), [("SIGINT", 7), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_terminal_comes_back_when_the_program_has_ended(sent, status):
    """Ctrl-C goes to both, as a terminal sends it, and twice; other signals are handed on."""
    code = f"""if True:
        import sys
        from pixtral_mlx.cli.lab import run_to_its_end
        from pixtral_mlx.cli.streams import end_tidily
        end_tidily()
        command = [sys.executable, "-c", {PROGRAM!r}, {"2" if sent == "SIGINT" else "1"!r}]
        sys.exit(run_to_its_end(command))"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        if sent == "SIGINT":
            for _ in range(2):
                os.killpg(process.pid, signal.SIGINT)
                time.sleep(0.3)
        else:
            process.send_signal(getattr(signal, sent))
        ended = process.wait(30)
        # Whatever the program wrote it wrote before: the pipe is closed by now.
        heard = [signal.SIGINT] * 2 if sent == "SIGINT" else [signal.SIGTERM]
        assert process.stdout.read() == f"ended {' '.join(str(int(n)) for n in heard)}\n"
        assert ended == status
    finally:
        process.stdout.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _from_server(log, server, what) -> str:
    """What the server answers; it names its address a little before it answers there."""
    import re

    end = time.monotonic() + 90
    while time.monotonic() < end and server.poll() is None:
        found = re.search(r"(http://[\w.]+:\d+)/", log.read_text())
        if found:
            with suppress(urllib.error.URLError):
                return urllib.request.urlopen(f"{found[1]}/{what}", timeout=30).read().decode()
        time.sleep(0.2)
    raise AssertionError(log.read_text())
