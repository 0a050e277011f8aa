"""`python -m duckward`: the command line of `duckward.cli`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
