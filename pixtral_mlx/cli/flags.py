"""Flags of the command line, made from the options that classes declare, and read back."""

import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from ..checks import Option, listed, options_of


def add_options(parser: Any, kind: type, *names: str, defaults: Mapping[str, Any] | None = None):
    """A flag for each option: `--max-tokens`, and `--no-orient` for what is on by default.

    Values are checked by the class and not by argparse, so that a mistake has one wording.

    Arguments:
        parser: or a group of one.
        kind: the class that declares them.
        names: of the fields, in this order; none: all of them.
        defaults: those of the command, where they differ from the class's.
    """
    declared = options_of(kind)
    for name in names or declared:
        option, default = declared[name]
        default = (defaults or {}).get(name, default)
        flag, text = name.replace("_", "-"), _on_command_line(option.help, declared)
        if option.kind is bool and default:
            parser.add_argument(f"--no-{flag}", action="store_true", help=f"do not {text}")
        elif option.kind is bool:
            parser.add_argument(f"--{flag}", action="store_true", help=text)
        elif option.repeated:
            parser.add_argument(
                f"--{flag}", action="append", default=[], metavar=option.unit,
                help=f"{text}; repeatable",
            )  # fmt: skip
        else:
            parser.add_argument(
                f"--{flag}", type=option.kind, default=default, metavar=_metavar(option),
                help=text + _notes(option, default),
            )  # fmt: skip


def given_options(arguments: Namespace, kind: type) -> dict[str, Any]:
    """The options of a class by name, as far as the command has flags for them."""
    found = {}
    for name, (option, default) in options_of(kind).items():
        if option.kind is bool and default and hasattr(arguments, f"no_{name}"):
            found[name] = not getattr(arguments, f"no_{name}")
        elif hasattr(arguments, name):
            found[name] = getattr(arguments, name)
    return found


def _on_command_line(text: str, declared: Mapping[str, Any]) -> str:
    """Python's words as flags: `dtype` is --dtype, and None is what happens without the flag."""

    def flag(found: re.Match[str]) -> str:
        return f"--{found[1].replace('_', '-')}" if found[1] in declared else found[0]

    return re.sub(r"`(\w+)`", flag, text).replace("None: ", "default: ")


def _metavar(option: Option) -> str | None:
    """The unit, or all words that there are, or what argparse makes of the name."""
    if option.choices and option.kind is str and not option.unit:
        return f"{{{','.join(option.choices)}}}"
    return option.unit or None


def _notes(option: Option, default: Any) -> str:
    """ " (4 or 8)", " (default 256)"."""
    named = option.choices and not str(_metavar(option)).startswith("{")
    notes = [listed(option.choices)] if named else []
    if default is not None:
        notes.append(f"default {default:g}" if option.kind is float else f"default {default}")
    return f" ({'; '.join(notes)})" if notes else ""
