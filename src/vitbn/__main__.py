"""`python -m vitbn` is the `vitbn` command."""

import sys

from vitbn.cli import main

if __name__ == "__main__":  # processes of a run on several devices import this file too
    sys.exit(main())
