"""Run the notebooks of the course and keep their outputs.

python notebooks/run.py              # all of them
python notebooks/run.py 0 3          # some, by the beginnings of their names
"""

import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"
SECONDS = 300
"""At most, for one notebook."""


def notebooks() -> list[Path]:
    """The files, in the order of the course."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(notebook: nbformat.NotebookNode) -> float:
    """Run all cells; outputs go into the notebook. Returns seconds.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    start = time.perf_counter()
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", record_timing=False,
        store_widget_state=False, resources={"metadata": {"path": str(FOLDER)}},
    )  # fmt: skip
    client.execute()
    return time.perf_counter() - start


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Drop what belongs to one run only. A widget lives in its kernel: what stays is its name."""
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:  # Pillow sends the same picture as a JPEG too
                data.pop("image/jpeg", None)
            if WIDGET in data:
                del data[WIDGET]
                name = re.split(r"[( ]", data["text/plain"].lstrip("<"))[0].rpartition(".")[2]
                data["text/plain"] = f"{name}: run this cell to see it and use it"


def main(beginnings: list[str]) -> None:
    """Run those whose names begin so; all if there is nothing to choose by."""
    for path in notebooks():
        if not beginnings or path.name.startswith(tuple(beginnings)):
            notebook = nbformat.read(path, as_version=4)
            seconds = execute(notebook)
            tidy(notebook)
            nbformat.validate(notebook)
            nbformat.write(notebook, path)
            print(f"{seconds:6.1f} s  {path.name}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
