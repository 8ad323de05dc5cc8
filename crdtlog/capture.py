"""Capture: plain-SQL triggers that note which rows changed, whoever writes.

A trigger appends (sequence, julian day, key) to the table's capture table; values are read later, at drain. The
triggers name key columns only, because SQLite refuses `ALTER TABLE … DROP COLUMN` when a trigger names the column, and
use nothing newer than SQLite 3.24. A capture table *is* the durable list of keys whose rows may differ from their
documents: a key leaves it only in the transaction that made the two agree. Applying an entry fires the same triggers;
as nothing is pending then (apply comes after drain), the applying transaction empties the table again.
"""

import sqlite3

from crdtlog.catalog import Tracked


def trigger_statements(tracked: Tracked) -> dict[str, str]:
    """The triggers of a tracked table, by name."""
    prefix = f"crdtlog__{tracked.number}"
    note_new, note_old = _note(tracked, "NEW"), _note(tracked, "OLD")
    keys = ", ".join(tracked.key_names)
    # Compared as the key compares them, which need not be how the column does.
    moved = " OR ".join(
        f"OLD.{name} IS NOT NEW.{name}"
        + f" COLLATE {column.key_collation}" * (column.collation != column.key_collation)
        for name, column in zip(tracked.key_names, tracked.keys, strict=True)
    )
    new_known, old_known = _known(tracked, "NEW"), _known(tracked, "OLD")
    when_new = f"WHEN {new_known} " if new_known else ""
    when_old = f"WHEN {old_known} " if old_known else ""
    and_old = f" AND {old_known}" if old_known else ""
    bodies = {
        f"{prefix}_insert": f"AFTER INSERT ON {tracked.quoted} {when_new}BEGIN {note_new} END",
        f"{prefix}_update": f"AFTER UPDATE ON {tracked.quoted} {when_new}BEGIN {note_new} END",
        f"{prefix}_rekey": f"AFTER UPDATE OF {keys} ON {tracked.quoted} WHEN ({moved}){and_old} BEGIN {note_old} END",
        f"{prefix}_delete": f"AFTER DELETE ON {tracked.quoted} {when_old}BEGIN {note_old} END",
    }
    return {name: f'CREATE TRIGGER "{name}" {body}' for name, body in bodies.items()}


def _note(tracked: Tracked, which: str) -> str:
    values = ", ".join(f"{which}.{name}" for name in tracked.key_names)
    columns = ", ".join(tracked.marks)
    return f"INSERT INTO {tracked.capture_name} (at, {columns}) VALUES (julianday('now'), {values});"


def _known(tracked: Tracked, which: str) -> str:
    """A condition that the key holds no NULL, where the table allows NULL in it; such rows are not tracked."""
    if tracked.table.integer_key or tracked.table.without_rowid:
        return ""
    nullable = [
        name for name, column in zip(tracked.key_names, tracked.keys, strict=True) if not column.not_null
    ]
    return " AND ".join(f"{which}.{name} IS NOT NULL" for name in nullable)


def install(connection: sqlite3.Connection, tracked: Tracked) -> bool:
    """Put the triggers in place where they are missing or differ; True if any was."""
    statements = trigger_statements(tracked)
    present: dict[str, str] = dict(
        connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE ? ESCAPE '\\'",
            (f"crdtlog\\_\\_{tracked.number}\\_%",),
        )
    )
    changed = False
    for name, sql in statements.items():
        if present.get(name) == sql:
            continue
        if name in present:
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute(sql)
        changed = True
    return changed


def remove(connection: sqlite3.Connection, tracked: Tracked) -> None:
    """Take the triggers away."""
    for name in trigger_statements(tracked):
        connection.execute(f'DROP TRIGGER IF EXISTS "{name}"')


def pending(connection: sqlite3.Connection, tracked: Tracked) -> bool:
    """Whether any change of the table waits to be drained."""
    return connection.execute(f"SELECT 1 FROM {tracked.capture_name} LIMIT 1").fetchone() is not None


def pending_rows(connection: sqlite3.Connection, tracked: Tracked) -> int:
    """About how many changes of the table wait (an upper bound on the distinct rows)."""
    low, high = connection.execute(f"SELECT min(seq), max(seq) FROM {tracked.capture_name}").fetchone()
    return 0 if low is None else int(high - low + 1)


def rows_with_null_keys(connection: sqlite3.Connection, tracked: Tracked) -> int:
    """How many rows cannot be tracked because their key holds NULL."""
    unknown = " OR ".join(f"{name} IS NULL" for name in tracked.key_names)
    return int(connection.execute(f"SELECT count(*) FROM {tracked.quoted} WHERE {unknown}").fetchone()[0])
