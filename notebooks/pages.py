"""Build a page of every notebook of the course: one HTML file each, which needs no network.

python notebooks/pages.py                 # into the folder course-html
python notebooks/pages.py OUT --force     # elsewhere, over pages that are there
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from pixtral_mlx.files import new_file
from run import WIDGET, notebooks

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"
"""What a page may load: what is in it. It needs no script."""

FOLDED = """
.folded > summary {
  margin: 0.4em 0 0.4em 6em; cursor: pointer; font: 13px sans-serif; color: #555;
}
"""
"""What is folded in a notebook is folded in its page, and opens at a click."""

TEMPLATE = f"""{{%- extends 'lab/index.html.j2' -%}}
{{%- block html_head_js -%}}
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<style>{FOLDED}</style>
{{%- endblock -%}}
{{%- block jupyter_widgets -%}}{{%- endblock -%}}
{{%- block input_group -%}}
{{%- if cell.metadata.get("jupyter", {{}}).get("source_hidden") -%}}
<details class="folded"><summary>Code</summary>{{{{ super() }}}}</details>
{{%- else -%}}{{{{ super() }}}}{{%- endif -%}}
{{%- endblock -%}}
{{%- block output_group -%}}
{{%- if cell.metadata.get("jupyter", {{}}).get("outputs_hidden") -%}}
<details class="folded"><summary>Check</summary>{{{{ super() }}}}</details>
{{%- else -%}}{{{{ super() }}}}{{%- endif -%}}
{{%- endblock -%}}
{{%- block html_head_js_mathjax -%}}{{%- endblock -%}}
{{%- block html_head_js_mermaidjs -%}}{{%- endblock -%}}
"""
"""nbconvert's own page without what it loads: require.js, MathJax, Mermaid, and widgets; folded as
the notebook is."""

LATEX = re.compile(r"\$[^$\n]+\$|\$\$|\\\(|\\\[|\\begin\{")
DRAWN_LATER = re.compile(r"```mermaid")
LOADED = re.compile(
    r"<script\b|<link\b|<iframe\b|@import|<[^>]*\bsrc\s*=\s*[\"']?(?!data:)[^\"'\s>]|"
    r"url\(\s*[\"']?(?!data:|#)[^)\"']"
)
"""What a browser would run or fetch; the pages have none of it."""


def page(notebook: nbformat.NotebookNode, title: str) -> str:
    """A notebook as one HTML page; links to other notebooks lead to their pages.

    Raises:
        ValueError: it holds formulas in LaTeX or a Mermaid drawing, which need a script, or
            something that would be loaded from elsewhere.
    """
    notebook.metadata.pop("widgets", None)  # pictures stand for them
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            data.pop(WIDGET, None)
            if "<iframe" in data.get("text/html", ""):  # words stand for it
                del data["text/html"]
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.S)
            found = LATEX.search(prose) or DRAWN_LATER.search(cell.source)
            if found:
                raise ValueError(
                    f"{title}: cell {cell.id!r} has {found[0]!r}, which a page without scripts "
                    "cannot show: write formulas in Unicode, drawings as pictures"
                )
            cell.source = re.sub(r"(\]\([^)\s:]+)\.ipynb\)", r"\1.html)", cell.source)
    exporter = HTMLExporter(raw_template=TEMPLATE, embed_images=True)
    text, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    loaded = LOADED.search(text)
    if loaded:
        raise ValueError(f"{title}: the page would load {text[loaded.start() :][:80]!r}")
    return text


def build(paths: list[Path], folder: Path, force: bool = False) -> list[Path]:
    """Write the pages of notebooks into a folder; all are built before the first is written.

    Raises:
        FileExistsError: there is a page of one of these names, and not `force`.
    """
    targets = [folder / f"{path.stem}.html" for path in paths]
    taken = [target for target in targets if target.exists()]
    if taken and not force:
        raise FileExistsError(f"{taken[0]} exists: name another folder, or add --force")
    texts = [page(nbformat.read(path, as_version=4), path.stem) for path in paths]
    folder.mkdir(parents=True, exist_ok=True)
    for target, text in zip(targets, texts, strict=True):
        with new_file(target, replace=force, error=None) as hidden:
            hidden.write_text(text, encoding="utf-8")
    return targets


def main(arguments: list[str] | None = None) -> int:
    """Build all; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("out", nargs="?", type=Path, default=Path("course-html"), metavar="OUT")
    parser.add_argument("--force", action="store_true", help="overwrite pages that are there")
    options = parser.parse_args(arguments)
    try:
        written = build(notebooks(), options.out, options.force)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for target in written:
        print(f"{target.stat().st_size / 1e6:5.1f} MB  {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
