"""The program `crdtlog` with a text worker that reads nothing first, so that poison reaches the library for real.

Started by tests as Daemon's `module`. Everything but that worker is the program as people run it.
"""

from unittest import mock

from peers.cli import main
from tests.crdtlog.unguarded import Unguarded

if __name__ == "__main__":
    with mock.patch("crdtlog.texts.TextWorker", Unguarded):
        main()
