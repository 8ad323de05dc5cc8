"""The program `crdtlog`, logging everything that it or any library has to say. Started by tests with `-m`."""

import logging
import sys

from peers.cli import main

if __name__ == "__main__":
    logging.basicConfig(level=logging.NOTSET, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    main()
