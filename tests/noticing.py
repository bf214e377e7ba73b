"""For mistakes made on purpose: the tests that are there to notice them, called as functions."""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType


@functools.cache
def load_tests(name: str) -> ModuleType:
    """A test file as a module.

    Tests cannot import one another, since only helpers are on the path; so it is loaded by where it
    stands, apart from the module that pytest runs.

    Arguments:
        name: of the file, from here and without its ending: "interpret/test_compare".

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"noticing.{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
