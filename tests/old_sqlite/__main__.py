"""Build the SQLite 3.24.0 client, or say why that is not possible here."""

import sys

from tests.old_sqlite import SHELL, VERSION, build
from tests.outside import CannotHave

if __name__ == "__main__":
    fresh = not SHELL.exists()
    try:
        if fresh:
            print(f"building SQLite {VERSION} for the tests (once)", file=sys.stderr)
        build()
    except CannotHave as error:
        sys.exit(f"SQLite {VERSION} cannot be built here, its tests are skipped: {error}")
