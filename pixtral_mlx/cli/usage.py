"""Words of a command line: whole options, names of files, and one line for a mistake."""

import argparse
import difflib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and whose flags are made when they are asked for.

    Options are written in full, so that one that comes with a later version never changes what an
    abbreviation means.

    Arguments:
        fill: called with the parser before it reads its first word.
    """

    def __init__(self, *args: Any, fill: Callable[[Any], None] | None = None, **kwargs: Any):
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self._fill = fill

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; a subcommand's words come by here, too."""
        fill, self._fill = self._fill, None
        if fill is not None:
            fill(self)
        if args is not None:
            self._check(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End with one line on stderr and status 2."""
        self.exit(2, f"{self.prog}: {one_line(message)} (see {self.prog} --help)\n")

    def _check(self, words: Sequence[str]) -> None:
        """Name the option that is meant where there is none of that name; argparse would first
        miss what is required, or write into a file `utput` for `-output`."""
        known = self._option_string_actions
        for word in words:
            if word == "--" or (self._subparsers and not word.startswith("-")):
                return  # what follows is no option, or a command's own
            name = word.partition("=")[0]
            if not name.startswith("-") or name in known:
                continue
            meant = _meant(name, known)
            # A value may begin with a dash if there is a blank in it, or be a number below zero.
            unknown = name.startswith("--") and " " not in word
            if meant or unknown:
                ask = f": did you mean {' or '.join(meant)}?" if meant else ""
                self.error(f"there is no option {name}{ask}")


def _meant(name: str, known: Iterable[str]) -> list[str]:
    """The options whose names are nearest to one that does not exist, at most three."""
    long = [option for option in known if option.startswith("--")]
    if not name.startswith("--"):
        return [option for option in long if len(name) > 2 and option == f"-{name}"]
    begun = [option for option in long if option.startswith(name) and name != "--"]
    return (begun or difflib.get_close_matches(name.replace("_", "-"), long, 3, 0.7))[:3]


def file_name(text: str) -> str:
    """A name as it was typed, `~` at its start put in the place of the home folder: shells leave
    it alone in `--model=~/models/pixtral`."""
    return os.path.expanduser(text)


def one_line(text: str) -> str:
    """Without line ends, and without what would steer a terminal (names come from anywhere)."""
    return "".join(c if c.isprintable() else "?" for c in re.sub(r"\s+", " ", text).strip())
