"""Run the notebooks of the course and keep their outputs: of a widget its state, so that a notebook
shows it without a kernel, and a picture for whatever cannot.

python notebooks/run.py              # all of them
python notebooks/run.py 0 3          # some, by the beginnings of their names
python notebooks/run.py --pictures   # only take the syllabus's pictures from the outputs kept
"""

import argparse
import base64
import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
SECONDS = 300
"""At most, for one notebook."""

PAGE = FOLDER / "live.html"
"""What notebook 0 writes to show it in a frame."""

KEPT = "Kept from the last run:\n"
"""The first line of an output that is folded."""

PICTURES = FOLDER / "pictures"
CHOSEN = {
    "0": "looked",
    "1": "drawn",
    "2": "measure",
    "3": "alike",
    "4": "who",
    "5": "figure",
    "6": "lens",
    "7": "cloud",
    "8": "one-many",
    "9": "worst",
    "10": "both",
    "11": "after",
    "claims": "breaks-figure",
}
"""The cell whose picture stands for a notebook in the syllabus, by the notebook's first word."""


def notebooks() -> list[Path]:
    """The files, in the order of the course: by their numbers, and then those without one."""

    def by_number(path: Path) -> tuple[float, str]:
        first = path.stem.partition("-")[0]
        return (int(first) if first.isdigit() else math.inf), path.name

    return sorted(FOLDER.glob("*.ipynb"), key=by_number)


DRAW = """
import base64, sys
from IPython.display import display
pictures = {}
if "pixtral_mlx_widgets" in sys.modules:
    from ipywidgets.widgets.widget import _instances as every  # the public way is deprecated
    from pixtral_mlx_widgets.view import View
    views = {name: one for name, one in every.items() if isinstance(one, View)}
    inner = {child for view in views.values() for child in view.page_children()}
    for name, view in views.items():
        if f"anywidget:{name}" not in inner:
            view.keep()
            pictures[name] = base64.b64encode(view.to_png()).decode()
display({"application/json": pictures}, raw=True)
"""
"""What the kernel runs at last: every widget keeps what it shows, and is drawn by a browser."""


def execute(notebook: nbformat.NotebookNode, *, draw: bool = False) -> float:
    """Run all cells; outputs go into the notebook. Returns seconds.

    Arguments:
        draw: whether widgets leave their state and a picture, which takes a browser.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed, or there is no browser.
    """
    start = time.perf_counter()
    if draw:
        notebook.cells.append(nbformat.v4.new_code_cell(DRAW, id="draw"))
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", record_timing=False,
        store_widget_state=draw, resources={"metadata": {"path": str(FOLDER)}},
    )  # fmt: skip
    try:
        client.execute()
    finally:
        PAGE.unlink(missing_ok=True)
    if draw:
        (drawn,) = notebook.cells.pop().outputs
        for _, data in views(notebook):
            data["image/png"] = drawn.data["application/json"][data[WIDGET]["model_id"]]
        name_alike(notebook)
    return time.perf_counter() - start


def views(notebook: nbformat.NotebookNode) -> Iterator[tuple[Any, Any]]:
    """(cell, data of an output) wherever a widget is shown."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if WIDGET in output.get("data", {}):
                yield cell, output.data


def name_alike(notebook: nbformat.NotebookNode) -> None:
    """Name the models of widgets after the cells that show them, and drop what is not shown: then a
    notebook that is run again differs only where it shows something else."""
    stored = notebook.metadata.get("widgets", {}).get(STATE, {"state": {}})
    models, names = stored["state"], dict[str, str]()
    for cell, data in views(notebook):
        waiting = [data[WIDGET]["model_id"]]
        while waiting:
            one = waiting.pop()
            if one in models and one not in names:
                names[one] = f"{cell.id}-{len(names)}"
                text = json.dumps(models[one]["state"])
                waiting += re.findall(r"(?:IPY_MODEL_|anywidget:)(\w+)", text)[::-1]
    for name in names:
        # A buffer of an earlier state, which nothing refers to, would keep the model from opening.
        buffers = models[name].get("buffers", ())
        state = models[name]["state"]
        models[name]["buffers"] = [one for one in buffers if holds(state, one["path"])]
    text = json.dumps({name: models[name] for name in names})
    for name, after in names.items():
        text = text.replace(name, after)
    for _, data in views(notebook):
        data[WIDGET]["model_id"] = names[data[WIDGET]["model_id"]]
    stored["state"] = json.loads(text)


def holds(state: Any, path: list[Any]) -> bool:
    """Whether a place in nested lists and dicts is there; the last step may be a gap."""
    for step in path[:-1]:
        inside = step < len(state) if isinstance(state, list) else step in (state or {})
        if not inside:
            return False
        state = state[step]
    return isinstance(state, list | dict)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Drop what belongs to one run only. A widget's text says what it is and how to use it."""
    widgets = notebook.metadata.get("widgets")
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    if widgets:
        notebook.metadata["widgets"] = widgets
    for cell in notebook.cells:
        fold(cell)
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:  # Pillow sends the same picture as a JPEG too
                data.pop("image/jpeg", None)
            if WIDGET in data:
                name = re.split(r"[( ]", data["text/plain"].lstrip("<"))[0].rpartition(".")[2]
                data["text/plain"] = f"{name}: run this cell to see it and use it"


def fold(cell: nbformat.NotebookNode) -> None:
    """Begin a folded output with a line that says nothing: JupyterLab shows the first."""
    outputs = cell.get("outputs", [])
    hidden = cell.metadata.get("jupyter", {}).get("outputs_hidden")
    if outputs and hidden and outputs[0].get("text") != KEPT:
        outputs.insert(0, nbformat.v4.new_output("stream", name="stdout", text=KEPT))


def picture(path: Path, notebook: nbformat.NotebookNode) -> bytes:
    """The PNG that stands for a notebook in the syllabus.

    Raises:
        ValueError: the chosen cell keeps none.
    """
    chosen = CHOSEN[path.stem.partition("-")[0]]
    for cell in notebook.cells:
        for output in cell.get("outputs", ()) if cell.id == chosen else ():
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output.data["image/png"])
    raise ValueError(f"{path.name}: cell {chosen!r} keeps no picture; run it, or change CHOSEN")


def keep_picture(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Write the picture of a notebook to where the syllabus shows it."""
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / f"{path.stem}.png").write_bytes(picture(path, notebook))


def main(beginnings: list[str], pictures_only: bool = False) -> None:
    """Run those whose names begin so; all if there is nothing to choose by."""
    for path in notebooks():
        if beginnings and not path.name.startswith(tuple(beginnings)):
            continue
        notebook = nbformat.read(path, as_version=4)
        if not pictures_only:
            seconds = execute(notebook, draw=True)
            tidy(notebook)
            nbformat.validate(notebook)
            nbformat.write(notebook, path)
            print(f"{seconds:6.1f} s  {path.name}", flush=True)
        keep_picture(path, notebook)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "beginnings", nargs="*", help="of the names; all notebooks if there is none"
    )
    parser.add_argument("--pictures", action="store_true", help="run nothing, only take pictures")
    arguments = parser.parse_args()
    main(arguments.beginnings, arguments.pictures)
