"""The house: rooms in one order, imports that go one way, and files short enough to be read.

A check takes the root of a tree and gives a line for whatever is not in order there. Each is tried
on a copy of the tree into which a fault was put.
"""

import ast
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE, WIDGETS = "pixtral_mlx", "pixtral_mlx_widgets"

ORDER = [
    "errors", "lazy", "checks", "tables", "files", "model", "cost", "distributed", "inputs",
    "checkpoint", "interpret", "engine", "quantization", "pixtral", "worker", "random_model",
    "mini", "tuning", "evaluation", "drawing", "extraction", "server", "doctor", "cli", "__init__",
    "__main__",
]  # fmt: skip
"""From the ground up: each may import what stands before it."""
TO_COME = {"distributed", "tuning", "evaluation", "extraction", "drawing", "server"}
MOST_ENTRIES, MOST_LINES = 20, 400

PAPER, MOST_LINES_OF_IT = ("vision", "projector", "decoder", "vision_language_model"), 620
WHAT_THE_MODEL_NEEDS = {"errors", "checks", "lazy", "model"}
WHAT_ELSE_IT_NEEDS = {*sys.stdlib_module_names, "mlx", "mlx_lm", "numpy"}

STRANGERS = {"torch", "mlx_vlm", "cv2"}
LOOK_THE_WIDGETS_UP = {f"{PACKAGE}.cli.explain", f"{PACKAGE}.doctor.machine_checks"}
IMPORT_BY_TABLE = {f"{PACKAGE}.lazy", f"{PACKAGE}.cli.parser"}


class Import(NamedTuple):
    """A file needs another, or a package; both by their dotted names."""

    file: str
    line: int
    what: str
    by_string: bool

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.what}"


def modules(root: Path) -> dict[str, Path]:
    """{"pixtral_mlx.model.rope": its path}, and the widgets'."""
    found = {}
    for place in (root / PACKAGE, root / "widgets" / WIDGETS):
        for path in sorted(place.rglob("*.py")):
            name = ".".join(path.relative_to(place.parent).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(root: Path) -> Iterator[Import]:
    """All of them: at the top, inside functions, for types alone, and by strings."""
    known = modules(root)
    for file, path in known.items():
        package = file if path.stem == "__init__" else file.rpartition(".")[0]
        for node in ast.walk(parsed(path)):
            for what in imported(node, package):
                while what.startswith((f"{PACKAGE}.", f"{WIDGETS}.")) and what not in known:
                    what = what.rpartition(".")[0]  # a name that stands in a file
                yield Import(file, node.lineno, what, isinstance(node, ast.Call))
            for what in known.keys() & {*spelled(node, package)}:
                yield Import(file, node.lineno, what, True)


def imported(node: ast.AST, package: str) -> list[str]:
    match node:
        case ast.Import(names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module, names, level):
            home = absolute("." * level + (module or ""), package)
            found = [f"{home}.{alias.name}" for alias in names]
            return [name for name in found if name != f"{PACKAGE}.__version__"]
        case ast.Call(function, [ast.Constant(what), *_]) if imports_by_name(function):
            return [absolute(what, package)]
    return []


def spelled(node: ast.AST, package: str) -> list[str]:
    """Names in `lazily`'s tables, in `run=".generate:run"`, and whatever looks like ours."""
    match node:
        case ast.Call(ast.Name("lazily"), [_, ast.Dict(homes)]):
            return [absolute(f".{ast.literal_eval(home)}", package) for home in homes]
        case ast.Constant(str(text)) if ":" in text or text.startswith((f"{PACKAGE}.", WIDGETS)):
            return [absolute(text.partition(":")[0], package)]
    return []


def imports_by_name(function: ast.AST) -> bool:
    return ast.unparse(function).rpartition(".")[2] in ("import_module", "__import__")


def absolute(name: str, package: str) -> str:
    """`..engine` in `pixtral_mlx.model` is `pixtral_mlx.engine`."""
    level = len(name) - len(name.lstrip("."))
    above = package.split(".")[: 1 - level or None] if level else []
    return ".".join([*above, name[level:]]).rstrip(".")


def room(name: str) -> str:
    """ "model" of "pixtral_mlx.model.rope"; "__init__" of the package's own file."""
    return f"{name}.__init__".split(".")[1]


def exported(path: Path) -> list[str]:
    """`__all__` of a file."""
    for node in parsed(path).body:
        match node:
            case ast.Assign([ast.Name("__all__")], names):
                return ast.literal_eval(names)
    return []


# The checks ------------------------------------------------------------------------------------


def check_order(root: Path) -> Iterator[str]:
    """An import goes down, or stays in its room; the widgets and what we compare with are above."""
    for each in imports(root):
        top, by_name = each.what.partition(".")[0], each.by_string
        if each.file.startswith(WIDGETS):
            continue
        if top == PACKAGE:
            wrong = ORDER.index(room(each.what)) > ORDER.index(room(each.file))
        elif top == WIDGETS:
            wrong = not (by_name and each.file in LOOK_THE_WIDGETS_UP)
        else:
            wrong = top in STRANGERS
        if wrong:
            yield str(each)


def check_names(root: Path) -> Iterator[str]:
    """What is imported by its name is spelled out there, so that the other checks see it."""
    for file, path in modules(root).items():
        for node in ast.walk(parsed(path)):
            match node:
                case ast.Call(function, [ast.Constant(), *_]) if imports_by_name(function):
                    pass
                case ast.Call(function) if imports_by_name(function):
                    if file not in IMPORT_BY_TABLE:
                        yield f"{file}, line {node.lineno}: {ast.unparse(node)}"


def check_circles(root: Path) -> Iterator[str]:
    """No file needs itself, by way of others."""
    needs: dict[str, set[str]] = {file: set() for file in modules(root)}
    for each in imports(root):
        needs[each.file] |= {each.what} & needs.keys() - {each.file}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        yield ", which needs ".join(reversed(error.args[1]))


def check_model(root: Path) -> Iterator[str]:
    """The paper needs MLX, NumPy and caches of mlx-lm; that these come late is ruff's to see."""
    for each in imports(root):
        top = each.what.partition(".")[0]
        ours = top == PACKAGE and room(each.what) in WHAT_THE_MODEL_NEEDS
        if room(each.file) == "model" and not (ours or top in WHAT_ELSE_IT_NEEDS):
            yield str(each)


def check_widgets(root: Path) -> Iterator[str]:
    """The widgets use names that `pixtral_mlx`, or a room, lists in `__all__`."""
    known = modules(root)
    public = {name: exported(path) for name, path in known.items() if name.count(".") < 2}
    public[PACKAGE] += ["__version__"]
    for file, path in known.items():
        for node in ast.walk(parsed(path)) if file.startswith(WIDGETS) else ():
            match node:
                case ast.ImportFrom(str(home), names, 0) if home.partition(".")[0] == PACKAGE:
                    used = [f"{home}.{each.name}" for each in names]
                case ast.Attribute(ast.Name("px"), name):
                    used = [f"{PACKAGE}.{name}"]
                case _:
                    used = [*imported(node, WIDGETS), *spelled(node, WIDGETS)]
            for name in used:
                home, _, last = name.rpartition(".")
                if name.startswith(f"{PACKAGE}.") and last not in public.get(home, ()):
                    yield f"{file}, line {node.lineno}: {name}"


def check_sizes(root: Path) -> Iterator[str]:
    """What a person can survey: entries of the package, lines of a file, lines of the paper."""
    entries = {path.stem for path in (root / PACKAGE).iterdir() if path.name != "__pycache__"}
    yield from (f"{entry} is not in the order of rooms" for entry in entries - {*ORDER})
    if len(entries) > MOST_ENTRIES + len(entries & TO_COME):
        yield f"{len(entries)} entries"
    texts = {file: path.read_text(encoding="utf-8") for file, path in modules(root).items()}
    lines = {file: len(text.splitlines()) for file, text in texts.items()}
    yield from (f"{file}: {count} lines" for file, count in lines.items() if count > MOST_LINES)
    paper = sum(lines[f"{PACKAGE}.model.{file}"] for file in PAPER)
    if paper >= MOST_LINES_OF_IT:
        yield f"{', '.join(PAPER)}: {paper} lines"


def check_docstrings(root: Path) -> Iterator[str]:
    """A room's docstring names each of its files at the start of a line: "`rope`: ..."."""
    for path in (root / PACKAGE).glob("*/__init__.py"):
        named = re.findall(r"^`(\w+)`: ", ast.get_docstring(parsed(path)) or "", re.M)
        there = [file.stem for file in path.parent.glob("*.py") if not file.stem.startswith("__")]
        if sorted(named) != sorted(there):
            yield f"{path.parent.name}: {', '.join({*named} ^ {*there}) or 'one is named twice'}"


def check_public_names(root: Path) -> Iterator[str]:
    """What `lazily` finds, what a type checker sees and `__all__` are the same names, in order."""
    for path in (root / PACKAGE).rglob("__init__.py"):
        found, seen = dict[str, str](), dict[str, str | None]()
        for node in ast.walk(parsed(path)):
            match node:
                case ast.Call(ast.Name("lazily"), [_, homes]):
                    for home, names in ast.literal_eval(homes).items():
                        place, _, last = home.rpartition(".")
                        found |= dict.fromkeys(names.split(), home) if names else {last: place}
                case ast.ImportFrom(module, names, 1) if module != "lazy":
                    seen |= {alias.name: module for alias in names}
        if found and not (found == seen and sorted(found) == exported(path)):
            wrong = dict(found.items() ^ seen.items()) or {*found} ^ {*exported(path)}
            yield f"{path.parent.name}: {', '.join(wrong) or 'not in order'}"
        for name in found.keys() & {file.stem for file in path.parent.iterdir()}:
            yield f"{path.parent.name}: {name} is a file, too, and hides the name"


CHECKS = [each for name, each in list(globals().items()) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS)
def test_the_house_is_in_order(check):
    assert list(check(ROOT)) == []


def test_contributing_lists_the_rooms_in_their_order():
    """And the files beside them, each once; those in a room are named in its docstring."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.split(f"| room of `{PACKAGE}` |")[1].split("\n\n")[0]
    firsts = re.findall(r"^\| ((?:`\w+` )+)\|", table, re.M)
    entries = {path.stem for path in (ROOT / PACKAGE).iterdir()}
    there = [name for name in ORDER if name in entries and not name.startswith("__")]
    assert re.findall(r"`(\w+)`", "".join(firsts)) == there


def test_scenes_need_numpy_and_pillow_alone():
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        known = {{*sys.stdlib_module_names, "numpy", "PIL", "{PACKAGE}"}}
        if name.partition(".")[0] not in known:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
from {PACKAGE}.mini import scene
print(scene(1).image.mode, len(scene(1).questions) > 3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["RGB", "True"], done.stderr


@pytest.mark.parametrize("name", [n for n, path in modules(ROOT).items() if exported(path)])
def test_public_names_are_found_when_they_are_asked_for(name):
    package = importlib.import_module(name)
    names = exported(modules(ROOT)[name])
    assert {*names} <= {*dir(package)}
    assert all(getattr(package, each) is not None for each in names)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = package.nonsense


def test_the_paper_is_where_the_docstring_says():
    rows = re.findall(r"\| `(\w+)`: (.+) \|", importlib.import_module(f"{PACKAGE}.model").__doc__)
    assert {*PAPER} < {file for file, _ in rows}
    for file, names in rows:
        home = importlib.import_module(f"{PACKAGE}.model.{file}")
        assert all(hasattr(home, name) for name in re.findall(r"`(\w+)`", names)), file


# Faults ----------------------------------------------------------------------------------------

VIEW = f"../widgets/{WIDGETS}/view.py"

FAULTS = [
    # An import that goes up: at the top, inside a function, for a type, of a file or of a name...
    (check_order, "model/rope.py", "from ..engine.run import Run", "pixtral_mlx.engine.run"),
    (check_order, "engine/run.py", "def f():\n    from .. import pixtral", "pixtral_mlx.pixtral"),
    (check_order, "inputs/pdf.py", "if TYPE_CHECKING:\n    from ..cli import main", ".cli"),
    (check_order, "files.py", "from . import tables, worker", "pixtral_mlx.worker"),
    (check_order, "tables.py", "from .files import new_file", "pixtral_mlx.files"),
    (check_order, "cost/pace.py", "import pixtral_mlx.mini.scenes as s", "pixtral_mlx.mini.scenes"),
    (check_order, "mini/words.py", "import pixtral_mlx as px", ": pixtral_mlx"),
    (check_order, "mini/words.py", "from .. import load", ": pixtral_mlx"),
    # ... by a string, in a table, and of what stands above or beside the house.
    (check_order, "errors.py", 'import_module("pixtral_mlx.doctor")', "pixtral_mlx.doctor"),
    (check_order, "checks.py", '__import__("pixtral_mlx.cli.parser")', "pixtral_mlx.cli.parser"),
    (check_order, "model/tap.py", 'i.import_module("..mini", __package__)', "pixtral_mlx.mini"),
    (check_order, "doctor/check.py", 'options(run="..cli.batch:run")', "pixtral_mlx.cli.batch"),
    (check_order, "cost/__init__.py", 'lazily(__name__, {".engine.run": "Run"})', ".engine.run"),
    (check_order, "cli/parser.py", "import pixtral_mlx_widgets", "pixtral_mlx_widgets"),
    (check_order, "cli/explain.py", "from pixtral_mlx_widgets.page import png", "widgets.page"),
    (check_order, "cli/lab.py", 'import_module("pixtral_mlx_widgets")', "pixtral_mlx_widgets"),
    (check_order, "model/rope.py", "import torch.nn", "torch.nn"),
    (check_names, "engine/run.py", "import_module(name)", "import_module(name)"),
    (check_names, "engine/run.py", 'importlib.import_module(f".{name}")', "import_module(f"),
    (check_names, "engine/run.py", 'import_module(name="json")', "import_module(name='json')"),
    (check_circles, "engine/options.py", "def f():\n    from .run import Run", "engine.options"),
    (check_circles, "interpret/maps.py", "if X:\n    from .trace import Trace", "interpret.maps"),
    (check_circles, "model/config.py", "from .rope import Rope2D", "model.config"),
    (check_circles, "mini/scene_layout.py", "from . import scene", "pixtral_mlx.mini.scene_layout"),
    (check_model, "model/decoder.py", "from transformers import AutoModel", "transformers"),
    (check_model, "model/decoder.py", "def f():\n    from PIL import Image", "PIL"),
    (check_model, "model/decoder.py", "from ..files import new_file", "pixtral_mlx.files"),
    (check_widgets, VIEW, "from pixtral_mlx.engine.run import Run", "engine.run.Run"),
    (check_widgets, VIEW, "from pixtral_mlx.model import Rope1D", "pixtral_mlx.model.Rope1D"),
    (check_widgets, VIEW, "from pixtral_mlx import engine", "pixtral_mlx.engine"),
    (check_widgets, VIEW, "import pixtral_mlx.cost", "pixtral_mlx.cost"),
    (check_widgets, VIEW, "px.engine.Run", "pixtral_mlx.engine"),
    (check_widgets, VIEW, 'import_module("pixtral_mlx.worker")', "pixtral_mlx.worker"),
    (check_sizes, "hall.py", "", "hall is not in the order"),
    (check_sizes, VIEW, "\n" * 400, "pixtral_mlx_widgets.view: "),
    (check_sizes, "model/projector.py", "\n" * 300, "vision_language_model: "),
    (check_docstrings, "cost/clocks.py", "", "cost: clocks"),
    (check_public_names, "model/__init__.py", "if X:\n    from .rope import Rope1D", "Rope1D"),
    (check_public_names, "cost/__init__.py", 'lazily(__name__, {"chips": "Chip"})', "Chip"),
    (check_public_names, "cost/__init__.py", 'lazily(__name__, {"cost": "pace"})', "hides"),
]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the tree to put faults into."""
    root = tmp_path_factory.mktemp("house")
    for place in (PACKAGE, f"widgets/{WIDGETS}"):
        only_python = shutil.ignore_patterns("*.safetensors", "*.json", "*.pyc")
        shutil.copytree(ROOT / place, root / place, ignore=only_python)
    return root


@pytest.mark.parametrize(("check", "file", "line", "said"), FAULTS)
def test_a_fault_is_seen(house, check, file, line, said):
    path = house / PACKAGE / file
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{before}\n{line}\n", encoding="utf-8")
    try:
        assert any(said in found for found in check(house))
    finally:
        if before:
            path.write_text(before, encoding="utf-8")
        else:
            path.unlink()
