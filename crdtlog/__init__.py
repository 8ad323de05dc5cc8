"""crdtlog: one replicated SQLite file, and everything that happens inside it.

    with crdtlog.open("notes.db") as db:
        db.track("notes")
        db.execute("UPDATE notes SET title = ? WHERE id = ?", (title, key))

Any SQLite client may write the file; its changes are captured, logged and merged. Exchanging them with other devices is
the work of the package `peers`.
"""

from crdtlog.database import Applied, Database, Member, TableStatus, adopt
from crdtlog.database import open_database as open
from crdtlog.device import Device, Home
from crdtlog.drain import Drained
from crdtlog.errors import CrdtlogError
from crdtlog.membership import Newcomer

__all__ = [
    "Applied",
    "CrdtlogError",
    "Database",
    "Device",
    "Drained",
    "Home",
    "Member",
    "Newcomer",
    "TableStatus",
    "adopt",
    "open",
]
