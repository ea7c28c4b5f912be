"""`python -m ptst.cli` is `ptst`."""

import sys

from ptst.cli import main

if __name__ == "__main__":
    sys.exit(main())
