"""The command line: one file for each command, named like the command.

It reads and writes the terminal; the rooms that it calls do neither. What the commands share:

`parser`: the words after `pixtral-mlx`, and one line for whatever goes wrong
`arguments`: words and flags that several commands share
`usage`: options in full, `~`, and one line for a mistake
`streams`: streams and signals, as shells and pipes leave them
`wrap`: lines as wide as the terminal
`flags`: flags made from options that are declared elsewhere, and read back
`settings`: what a person has chosen for every command
`training`: the flags of `tune` and `fuse`
`documents`: the flags of `extract`
`measuring`: the flags of `bench` and `doctor`
`question`: the model, the options and the question, read from the flags
`stdin`: what a pipe brings
`status`: one line that says what is going on
`typed_names`: names as people type them and terminals write them
`row_formats`: rows as JSON lines or CSV
`row_file`: a file of rows that goes on after a kill

The commands:

`demo`: the whole job on pixtral-mini
`convert`: any checkpoint in, a quantized folder out
`generate`: one question about pictures
`batch`: one question about many files
`extract`: documents to data, a row for each, with what a person needs to check them
`explain`: an answer, and where the model looked for every word
`lab`: JupyterLab on the course
`live`: a page in which a small model runs
`live_page`: what that page holds
`chat`: a conversation
`serve`: the model for other programs, and a page for people
`models`: the models on this machine, and the default one
`tune`: an adapter from rows of pictures, questions and answers
`fuse`: an adapter added to the weights of its model
`inspect`: what is in a model, or what becomes of a picture
`inspect_pages`: what becomes of the pages of a PDF
`bench`: how fast a model is here
`doctor`: whether this machine is ready
"""

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, see `parser.main`; Ctrl-C while the parser is imported is one line too."""
    try:
        from .parser import main as run
    except KeyboardInterrupt:
        print("pixtral-mlx: interrupted", file=sys.stderr, flush=True)
        os._exit(130)
    return run(argv)
