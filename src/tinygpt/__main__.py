"""Run the command line: ``python -m tinygpt`` does what ``tinygpt`` does."""

import sys

from tinygpt.cli import main

if __name__ == "__main__":
    sys.exit(main())
