"""Fetch Yjs, or say why that is not possible here."""

import sys

from tests.outside import CannotHave
from tests.yjs import MODULES, fetch

if __name__ == "__main__":
    try:
        if not MODULES.exists():
            print("fetching Yjs for the tests (once)", file=sys.stderr)
        fetch()
    except CannotHave as error:
        sys.exit(f"Yjs cannot be had here, its tests are skipped: {error}")
