"""Words of a command line: whole options, names of files, and one line for a mistake."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from ..errors import one_line
from .wrap import fitted


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and whose flags are made when they are asked for.

    Options are written in full, so that one that comes with a later version never changes what an
    abbreviation means; the few with a single letter keep it.

    Arguments:
        fill: called with the parser before it reads its first word.
        words: the argument that takes several words, if they may stand between options too.
        finish: called with the parser and what it found.
    """

    def __init__(
        self,
        *args: Any,
        fill: Callable[[Any], None] | None = None,
        words: str = "",
        finish: Callable[[Any, argparse.Namespace], None] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self._fill, self._words, self._finish = fill, words, finish

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; a subcommand's words come by here, too."""
        fill, self._fill = self._fill, None
        if fill is not None:
            fill(self)
        args = sys.argv[1:] if args is None else args
        self._check(args)
        found, left = super().parse_known_args(args, namespace)
        end = left.index("--") if "--" in left else len(left)
        if self._words and all(map(_is_word, left[:end])):
            (action,) = (action for action in self._actions if action.dest == self._words)
            more = (self._get_value(action, word) for word in left[:end] + left[end + 1 :])
            setattr(found, self._words, [*getattr(found, self._words), *more])
            left = []
        if self._finish is not None and not left:
            self._finish(self, found)
        return found, left

    def error(self, message: str) -> NoReturn:
        """End with one line on stderr and status 2."""
        line = f"{self.prog}: {one_line(message)} (see {self.prog} --help)"
        self.exit(2, f"{fitted(line, sys.stderr)}\n")

    def _check(self, words: Sequence[str]) -> None:
        """Name the option that is meant where there is none of that name; argparse would first
        miss what is required, or write into a file `utput` for `-output`."""
        known = self._option_string_actions
        for word in words:
            if self._subparsers and not word.startswith("-"):
                return self._check_command(word)
            if word == "--":
                return  # what follows is no option
            name = word.partition("=")[0]
            if not name.startswith("-") or name in known:
                continue
            meant = _meant(name, known)
            # A value may begin with a dash if there is a blank in it, or be a number below zero.
            unknown = name.startswith("--") and " " not in word
            if meant or unknown:
                self._refuse("option", name, meant)

    def _check_command(self, word: str) -> None:
        """Name the command that is meant; what follows it is its own."""
        commands = next(list(a.choices or ()) for a in self._actions if a.dest == "command")
        if word not in commands:
            self._refuse("command", word, difflib.get_close_matches(word.lower(), commands))

    def _refuse(self, kind: str, name: str, meant: Sequence[str]) -> NoReturn:
        ask = f": did you mean {' or '.join(meant)}?" if meant else ""
        self.error(f"there is no {kind} {name}{ask}")


def _is_word(text: str) -> bool:
    """Whether argparse took it for no option: a lone dash, and whatever has a blank in it."""
    return not text.startswith("-") or text == "-" or " " in text


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
