"""`python -m pixtral_mlx.cli`, as before there were rooms."""

import sys

from .parser import main

if __name__ == "__main__":
    sys.exit(main())
