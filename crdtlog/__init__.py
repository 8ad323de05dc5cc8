"""crdtlog: one replicated SQLite file, and everything that happens inside it.

    with crdtlog.open("notes.db") as db:
        db.track("notes")
        db.execute("UPDATE notes SET title = ? WHERE id = ?", (title, key))

Any SQLite client may write the file; its changes are captured, logged and merged. Exchanging them with other devices is
the work of the package `peers`. Names are loaded when first used, so that importing the package costs nearly nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crdtlog.accept import Applied
    from crdtlog.database import Database, adopt
    from crdtlog.database import open_database as open
    from crdtlog.device import Device, Home
    from crdtlog.drain import Drained
    from crdtlog.errors import CrdtlogError
    from crdtlog.history import Written
    from crdtlog.members import Member
    from crdtlog.membership import Newcomer
    from crdtlog.opening import new_recovery
    from crdtlog.recovery import RecoveryKey
    from crdtlog.restore import Restored
    from crdtlog.snapshot import Snapshot
    from crdtlog.tracking import TableStatus
    from crdtlog.watch import Change

__all__ = [
    "Applied",
    "Change",
    "CrdtlogError",
    "Database",
    "Device",
    "Drained",
    "Home",
    "Member",
    "Newcomer",
    "RecoveryKey",
    "Restored",
    "Snapshot",
    "TableStatus",
    "Written",
    "adopt",
    "new_recovery",
    "open",
]

_HOMES = {
    "Applied": "accept",
    "Change": "watch",
    "CrdtlogError": "errors",
    "Database": "database",
    "Device": "device",
    "Drained": "drain",
    "Home": "device",
    "Member": "members",
    "Newcomer": "membership",
    "RecoveryKey": "recovery",
    "Restored": "restore",
    "Snapshot": "snapshot",
    "TableStatus": "tracking",
    "Written": "history",
    "adopt": "database",
    "new_recovery": "opening",
    "open": "database",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES[name]}")
    value = getattr(module, "open_database" if name == "open" else name)
    globals()[name] = value
    return value
