"""The package as a whole: its public names, what its import costs, its documentation."""

import ast
import importlib
import importlib.metadata
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

import pixtral_mlx as px

ROOT = Path(__file__).parent.parent
ROOMS = sorted(p.parent.name for p in (ROOT / "pixtral_mlx").glob("*/__init__.py"))


def test_public_names_are_there_and_documented():
    assert px.__all__ == sorted(px.__all__)
    for name in px.__all__:
        assert getattr(px, name).__doc__, name
    assert set(px.__all__) <= set(dir(px))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = px.nonsense


def test_version_is_the_one_of_the_distribution():
    assert px.__version__ == importlib.metadata.version("pixtral-mlx")


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_says_what_it_is(room):
    package = importlib.import_module(f"pixtral_mlx.{room}")
    assert package.__doc__
    for module in pkgutil.iter_modules(package.__path__):
        assert importlib.import_module(f"{package.__name__}.{module.name}").__doc__, module.name


def test_import_loads_nothing_heavy():
    heavy = ["mlx_lm", "mistral_common", "transformers", "huggingface_hub", "torch", "numpy", "PIL"]
    code = (
        "import sys, pixtral_mlx, pixtral_mlx.cli.parser; pixtral_mlx.cli.parser.build_parser();"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("missing", "code", "command"),
    [
        ("mlx", "import pixtral_mlx as px; px.load('mini')", '".[cpu]"'),
        ("mlx", "from pixtral_mlx.cli import main; sys.exit(main(['demo']))", '".[cpu]"'),
        ("anywidget", "import pixtral_mlx_widgets", '".[lab]"'),
    ],
)
def test_what_is_missing_names_the_command_that_installs_it(missing, code, command, tmp_path):
    """The one of README, which is run in a clone."""
    refuse = f"""if True:
        import sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == {missing!r}:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        sys.meta_path.insert(0, Refuse())\n"""
    done = subprocess.run(
        [sys.executable, "-c", refuse + code], capture_output=True, text=True, cwd=tmp_path,
        env=environment(),
    )  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert f"No module named '{missing}" in last and f"run pip install {command}" in last
    assert f"pip install {command[:2]}" in (ROOT / "README.md").read_text()


def test_the_first_prompt_waits_for_no_grammar():
    """jsonschema builds one where JupyterLab has brought `rfc3987_syntax`, for 1.5 s."""
    code = (
        "import sys, importlib.util as u, pixtral_mlx as px; px.load('mini').encode('Hello');"
        "print('jsonschema' in sys.modules, 'rfc3987_syntax' in sys.modules);"
        "found = u.find_spec('rfc3987_syntax') is not None;"
        "exec('import rfc3987_syntax') if found else None; print('whole')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "whole"]


def test_no_size_of_the_12b_stands_in_a_forward_path():
    sizes = {5120, 14336, 131072, 1024, 4096, 128, 1_000_000_000}
    model = ROOT / "pixtral_mlx" / "model"
    names = "rope attention feed_forward vision projector decoder vision_language_model"
    for name in names.split():
        tree = ast.parse((model / f"{name}.py").read_text())
        numbers = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        assert not numbers & sizes, name


def test_readme_names_every_room_and_command():
    readme = (ROOT / "README.md").read_text()
    for room in ROOMS:
        assert re.search(rf"`{room}/?`", readme), room
    from pixtral_mlx.cli.parser import build_parser

    (commands,) = (a for a in build_parser()._actions if a.dest == "command")
    for command in commands.choices:
        assert f"pixtral-mlx {command} " in readme, command


DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "BENCHMARKS", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "pixtral_mlx" / "mini" / "checkpoint" / "README.md",
]


def anchors(document):
    """Of the headings of a document, as GitHub makes them."""
    heads = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```$", "", document.read_text()))
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_links_of_the_documents_lead_somewhere(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if target.startswith("http"):
            continue
        place, _, anchor = target.partition("#")
        to = document.parent / place if place else document
        assert to.exists(), target
        assert not anchor or anchor in anchors(to), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_files_that_the_documents_name_are_there(document):
    for name in re.findall(r"`([\w.-]+/[\w./-]*\.(?:py|md|ipynb|yml))`", document.read_text()):
        assert (ROOT / name).is_file(), name


def test_each_page_of_docs_is_linked_from_readme_and_leads_back():
    linked = re.findall(r"\]\((docs/\w[\w-]*\.md)\)", (ROOT / "README.md").read_text())
    pages = {f"docs/{path.name}": path for path in (ROOT / "docs").glob("*.md")}
    assert sorted(linked) == sorted(pages)  # one topic, one link
    for name, page in pages.items():
        assert "](../README.md)" in page.read_text(), name
