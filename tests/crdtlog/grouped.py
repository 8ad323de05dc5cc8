"""What tests of a group that changes have in common: a table, a write, a role, what was put aside."""

from crdtlog.database import Database

TABLE = ["CREATE TABLE t (id TEXT PRIMARY KEY, v)"]
MERGING = ["CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT, n INTEGER, tags TEXT, doc TEXT, plain)"]


def put(db: Database, key: str, value: object) -> None:
    """Write a row and take it into the log."""
    db.execute(
        "INSERT INTO t (id, v) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET v = excluded.v", (key, value)
    )
    db.drain_all()


def role(db: Database, of: Database) -> str | None:
    """A device's role in another one's eyes."""
    return {member.device: member.role for member in db.devices()}[of.device.id]


def aside(db: Database) -> list[tuple[object, ...]]:
    """What was written here and counts nowhere."""
    return db.execute('SELECT key, "column", value, deleted FROM crdtlog_aside').fetchall()
