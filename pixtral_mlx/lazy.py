"""Names that are looked up when first used, so that an import loads nothing heavy."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .errors import explain_missing


def lazily(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that hands on names of its files.

    Arguments:
        package: its `__name__`.
        homes: {file: the names that it gives, separated by spaces}; the file itself if there is no
            name.
    """
    home_of = {
        name: home
        for home, names in homes.items()
        for name in names.split() or [home.rpartition(".")[2]]
    }

    def look_up(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            home = importlib.import_module(f".{home_of[name]}", package)
        except ModuleNotFoundError as error:
            if advice := explain_missing(error):
                raise ModuleNotFoundError(advice, name=error.name) from None
            raise
        return getattr(home, name) if homes[home_of[name]] else home

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home_of})

    return look_up, names
