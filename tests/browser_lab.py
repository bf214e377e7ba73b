"""Drives a real JupyterLab: opens notebooks, runs them, reads canvases and the kernel."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from browsers import FLAGS
from playwright.sync_api import expect

import pixtral_mlx
import pixtral_mlx_widgets

SECONDS = 90
SOURCES = (pixtral_mlx, pixtral_mlx_widgets)


class Lab:
    """A server, a browser, and one page in it.

    Arguments:
        folder: of the server's files.
        browser: its path.
        playwright: the one of this process.
    """

    def __init__(self, folder: Path, browser: str, playwright):
        self.folder, self._browser_path, self._playwright = folder, browser, playwright

    def __enter__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = open(self.folder / "server.log", "w")
        quiet = self.folder / "config" / "@jupyterlab" / "apputils-extension"
        quiet.mkdir(parents=True)
        (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
        paths = [str(Path(module.__file__).parents[1]) for module in SOURCES]
        own = {name: str(self.folder / name) for name in ("config", "data", "runtime")}
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
            "JUPYTER_CONFIG_DIR": own["config"], "JUPYTER_DATA_DIR": own["data"],
            "JUPYTER_RUNTIME_DIR": own["runtime"], "JUPYTERLAB_SETTINGS_DIR": own["config"],
            "JUPYTERLAB_WORKSPACES_DIR": own["data"],
        }  # fmt: skip
        self._server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyter", "lab", "--no-browser", "--expose-app-in-browser",
                f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
                "--ServerApp.ip=127.0.0.1",
                "--IdentityProvider.token=", "--ServerApp.password=", "--allow-root",
                "--LabApp.news_url=", "--LabApp.check_for_updates_class="
                "jupyterlab.NeverCheckForUpdate", f"--ServerApp.root_dir={self.folder}",
            ],
            stdout=self._log, stderr=self._log, env=environment, cwd=self.folder,
        )  # fmt: skip
        self._wait_for_server()
        self._browser = self._playwright.chromium.launch(
            executable_path=self._browser_path, args=FLAGS
        )
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page = self.new_page()
        return self

    def new_page(self):
        """Another page of the browser, whose errors and requests are written down too."""
        page = self._browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("console", lambda m: self.messages.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        # What a page's own policy stops never leaves the browser, though it may be told of.
        page.on("requestfinished", lambda request: self.requests.append(request.url))
        page.on(
            "requestfailed",
            lambda r: self.requests.append(r.url) if r.failure != "csp" else None,
        )
        return page

    def __exit__(self, *_):
        self._browser.close()
        self._server.terminate()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._log.close()

    def _wait_for_server(self):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{self.url}/api", timeout=2)
                return
            except OSError:
                if self._server.poll() is not None:
                    break
                time.sleep(0.2)
        raise RuntimeError(f"JupyterLab did not start: {self.folder / 'server.log'}")

    def notebook(self, name: str, cells, *, run: bool = True) -> "Notebook":
        """Write a notebook, open it, and run all its cells unless told otherwise."""
        path = self.folder / f"{name.replace('[', '-').replace(']', '')}.ipynb"
        path.write_text(json.dumps(notebook_json(cells)))
        return Notebook(self, path, run)

    def reopen(self, path: Path) -> "Notebook":
        """A notebook that is there already, whose cells are not run."""
        return Notebook(self, path, run=False)

    def theme(self, name: str) -> None:
        """ "JupyterLab Light" or "JupyterLab Dark"."""
        self.page.evaluate(
            "name => jupyterapp.commands.execute('apputils:change-theme', {theme: name})", name
        )
        light = str(name.endswith("Light")).lower()
        self.page.wait_for_selector(f"body[data-jp-theme-light={light}]", state="attached")


class Notebook:
    """An open notebook. `expect` waits: a page draws a little after its kernel."""

    expect = staticmethod(expect)

    def __init__(self, lab: Lab, path: Path, run: bool):
        self.lab, self.page, self.path = lab, lab.page, path
        self.page.goto(f"{lab.url}/lab/tree/{path.name}?reset")
        self.page.wait_for_function("window.jupyterapp && jupyterapp.shell.currentWidget")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        self.page.wait_for_function(
            "() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status"
            " === 'idle'"
        )
        if run:
            self.run()

    def run(self) -> None:
        """Run all cells and wait until the kernel has done them."""
        self.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.jp-InputArea-prompt')]"
            ".every(p => /\\[\\d+\\]/.test(p.textContent))"
        )

    def start(self) -> None:
        """Begin to run all cells and return at once."""
        self.page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")

    def save_with_widgets(self) -> None:
        """Save, widget states and all."""
        self.page.evaluate(
            """async () => {
                const panel = jupyterapp.shell.currentWidget;
                const id = '@jupyter-widgets/jupyterlab-manager:saveWidgetState';
                if (jupyterapp.commands.hasCommand(id)
                    && !jupyterapp.commands.isToggled(id)) await jupyterapp.commands.execute(id);
                // The command returns before the setting that it changes is heard of.
                for (let i = 0; i < 100 && !jupyterapp.commands.isToggled(id); i++) {
                    await new Promise(done => setTimeout(done, 50));
                }
                await new Promise(done => setTimeout(done, 300));
                panel.context.model.dirty = true;
                await jupyterapp.commands.execute('docmanager:save');
            }"""
        )

    def kernel(self, expression: str):
        """The value of an expression in the kernel; it must fit into JSON."""
        code = f"import json as _json; print(_json.dumps({expression}))"
        text = self.page.evaluate(
            """async code => {
                const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                const future = kernel.requestExecute({code, store_history: false});
                let text = '';
                future.onIOPub = ({content}) => {
                    text += content.name === 'stdout' ? content.text : '';
                    text += content.ename ? `error: ${content.ename}: ${content.evalue}` : '';
                };
                await future.done;
                return text;
            }""",
            code,
        )
        if text.startswith("error: "):
            raise RuntimeError(text)
        return json.loads(text.strip().splitlines()[-1])

    def run_code(self, code: str) -> None:
        """Run statements in the kernel."""
        self.kernel(f"(exec({code!r}, globals()), None)[1]")

    def eventually(self, expression: str, wanted, seconds: float = 20):
        """Wait until an expression in the kernel has a value, and return it."""
        end, seen = time.monotonic() + seconds, None
        while time.monotonic() < end:
            seen = self.kernel(expression)
            if seen == wanted:
                return seen
            time.sleep(0.1)
        raise AssertionError(f"{expression} is {seen!r} after {seconds} s, not {wanted!r}")

    def widget(self, number: int = 0):
        """The root element of a widget on the page."""
        found = self.page.locator(".px-widget").nth(number)
        found.wait_for()
        return found

    def colour(self, canvas, x: float, y: float) -> tuple[int, int, int]:
        """The colour of a canvas at a place given as shares of its width and height."""
        return tuple(
            canvas.evaluate(
                """(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(
                    Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data
                ].slice(0, 3)""",
                [x, y],
            )
        )

    def patch_colour(self, canvas, patch, grid) -> tuple[int, int, int]:
        """The colour near the middle of a patch; a little aside, where no line can be."""
        (row, column), (rows, columns) = patch, grid
        return self.colour(canvas, (column + 0.4) / columns, (row + 0.4) / rows)

    def click_patch(self, canvas, patch, grid) -> None:
        """Click the middle of a patch."""
        canvas.click(position=self._middle(canvas, patch, grid))

    def hover_patch(self, canvas, patch, grid) -> None:
        """Point at the middle of a patch."""
        canvas.hover(position=self._middle(canvas, patch, grid))

    def _middle(self, canvas, patch, grid) -> dict:
        canvas.wait_for()
        box = canvas.bounding_box()
        (row, column), (rows, columns) = patch, grid
        return {
            "x": (column + 0.5) / columns * box["width"],
            "y": (row + 0.5) / rows * box["height"],
        }

    def close(self) -> None:
        """Shut the kernel down and close the notebook."""
        self.page.evaluate(
            """async () => {
                const widget = jupyterapp.shell.currentWidget;
                await widget?.sessionContext?.shutdown?.();
                widget?.context?.model && (widget.context.model.dirty = false);
                widget?.close();
            }"""
        )


def notebook_json(cells) -> dict:
    """A notebook of code cells."""
    return {
        "cells": [
            {
                "cell_type": "code", "id": f"cell-{i}", "metadata": {}, "execution_count": None,
                "outputs": [], "source": source,
            }
            for i, source in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "nbformat": 4, "nbformat_minor": 5,
    }  # fmt: skip
