"""`python -m neuroserve`: the `neuroserve` command."""

import sys

from neuroserve.cli import main

if __name__ == "__main__":
    sys.exit(main())
