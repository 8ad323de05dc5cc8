"""Everything of crdtlog that touches another machine or the person: identity, pairing, sync, daemon, command line.

    db = peers.open_shared("notes.db", code="417-abandon-zebra-lucky")

is the one call that gets a Python program a shared database. Importing the package loads nothing else.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peers.node.joining import open_shared

__all__ = ["open_shared"]


def __getattr__(name: str) -> object:
    if name == "open_shared":
        from peers.node.joining import open_shared

        return open_shared
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
