"""The command line, a file for each command."""

from .parser import main

__all__ = ["main"]
