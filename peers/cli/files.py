"""Opening files for commands.

Knows how a command gets at a file that must be a database already. Must not know what the command does with it.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peers.cli.output import warn

if TYPE_CHECKING:
    from crdtlog import Database

#: More captured changes than this take seconds to drain, too long for a command that only shows something.
QUICK_DRAIN_ROWS = 5_000


@contextmanager
def opened(file: Path) -> Iterator["Database"]:
    """The database in a file that has one already; errors as `crdtlog.open`. Nothing is drained at the end."""
    import crdtlog

    with closing(crdtlog.open(file, create=False)) as database:
        yield database


def drain(database: "Database") -> None:
    """Take in what any program has written, so that what a command shows is what the file holds."""
    database.drain_all()
    warn_paused(database)


def drain_if_quick(database: "Database") -> None:
    """Notice changed schemas and take in a few changes, but never make somebody wait who only looks."""
    from crdtlog.errors import ReadOnly, Temporary

    if database.pending() <= QUICK_DRAIN_ROWS:
        try:
            database.drain()
        except (ReadOnly, Temporary) as error:
            warn(f"{error}. What is shown may be a little old.")


def warn_paused(database: "Database") -> None:
    """Tell which tables are not exchanged at the moment, and why."""
    for table in database.tables():
        if table.paused:
            warn(f"Table {table.name} is paused, its changes are kept: {table.paused}")
