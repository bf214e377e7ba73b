"""Run the notebooks of the course and keep their outputs.

python notebooks/run.py              # all of them
python notebooks/run.py 0 3          # some, by the beginnings of their names
python notebooks/run.py --pictures   # only take the syllabus's pictures from the outputs kept
"""

import argparse
import base64
import re
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"
SECONDS = 300
"""At most, for one notebook."""

PICTURES = FOLDER / "pictures"
CHOSEN = {
    "0": "looked",
    "1": "load",
    "2": "measure",
    "3": "load",
    "4": "load",
    "5": "figure",
    "6": "lens",
    "7": "cloud",
    "8": "one-many",
    "9": "worst",
    "claims": "breaks-figure",
}
"""The cell whose picture stands for a notebook in the syllabus, by the notebook's first word."""


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


def picture(path: Path, notebook: nbformat.NotebookNode) -> bytes:
    """The PNG that stands for a notebook in the syllabus.

    Raises:
        ValueError: the chosen cell keeps none.
    """
    chosen = CHOSEN[path.name.partition("-")[0]]
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
            seconds = execute(notebook)
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
