"""``python -m vitmed VERB``."""

import sys

from vitmed.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
