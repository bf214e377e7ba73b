"""`python convert.py SRC DST ...` in a checkout: the same as `pixtral-mlx convert SRC DST ...`."""

import sys

from pixtral_mlx.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
