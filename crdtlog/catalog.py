"""The tables, views and names that crdtlog keeps inside the user's file.

Internal names begin with `crdtlog__`, the views people may use with `crdtlog_`. Everything stored here works for any
SQLite from 3.24 on, with no function or extension of ours (rule R1's ground): old clients must still open the file.
`Tracked` knows one tracked table: its description, its slots, and the names of what stands beside it.
"""

import sqlite3
from dataclasses import dataclass, field
from functools import cached_property

from crdtlog import document
from crdtlog.clock import SQL_MS_BIAS
from crdtlog.schema import Column, Table, quote

FORMAT = 3

_TABLES = """
CREATE TABLE crdtlog__meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE crdtlog__device (
    id BLOB PRIMARY KEY, name TEXT, role TEXT, sign_key BLOB, receive_key BLOB, certificate BLOB, added_by BLOB,
    removed_by BLOB, confirmed INTEGER, seen_ms INTEGER) WITHOUT ROWID;
CREATE TABLE crdtlog__writer (
    id INTEGER PRIMARY KEY, writer BLOB UNIQUE, device BLOB, seq INTEGER, hash BLOB, last_stamp INTEGER, context BLOB,
    applied INTEGER);
CREATE TABLE crdtlog__context (
    writer INTEGER, seq INTEGER, member INTEGER, context BLOB, PRIMARY KEY (writer, seq)) WITHOUT ROWID;
CREATE TABLE crdtlog__aside (
    id INTEGER PRIMARY KEY, at_ms INTEGER, tab INTEGER, key, slot INTEGER, value, gone INTEGER, reason TEXT);
CREATE TABLE crdtlog__log (
    position INTEGER PRIMARY KEY, writer INTEGER, seq INTEGER, hash BLOB, kind TEXT, stamp INTEGER,
    received_ms INTEGER, rows INTEGER, summary TEXT, signed BLOB, UNIQUE (writer, seq));
CREATE TABLE crdtlog__original (
    writer INTEGER, seq INTEGER, signed BLOB, PRIMARY KEY (writer, seq)) WITHOUT ROWID;
CREATE TABLE crdtlog__fork (
    hash BLOB PRIMARY KEY, writer BLOB, seq INTEGER, previous BLOB, signed BLOB) WITHOUT ROWID;
CREATE TABLE crdtlog__branch (writer INTEGER PRIMARY KEY, parent INTEGER, first INTEGER);
CREATE TABLE crdtlog__said (
    writer INTEGER, seq INTEGER, name BLOB, meant INTEGER, PRIMARY KEY (writer, seq, name)) WITHOUT ROWID;
CREATE TABLE crdtlog__edge (
    document BLOB, writer INTEGER, lane BLOB, seq INTEGER, clock INTEGER,
    PRIMARY KEY (document, writer, lane)) WITHOUT ROWID;
CREATE TABLE crdtlog__table (
    id INTEGER PRIMARY KEY, table_id BLOB UNIQUE, name TEXT, description BLOB, misfit TEXT, held TEXT,
    reconcile_ms INTEGER);
CREATE TABLE crdtlog__loser (
    tab INTEGER, key, slot INTEGER, writer INTEGER, seq INTEGER, stamp INTEGER, hidden INTEGER, value,
    PRIMARY KEY (tab, key, slot, writer, seq)) WITHOUT ROWID;
CREATE TABLE crdtlog__merge (
    tab INTEGER, key, slot INTEGER, writer INTEGER, seq INTEGER, kind INTEGER, state BLOB, versions BLOB, problem TEXT,
    aside BLOB,
    PRIMARY KEY (tab, key, slot, writer, seq, kind)) WITHOUT ROWID;
CREATE TABLE crdtlog__kind (
    tab INTEGER, slot INTEGER, writer INTEGER, seq INTEGER, stamp INTEGER, kind INTEGER,
    PRIMARY KEY (tab, slot, writer, seq)) WITHOUT ROWID;
CREATE TABLE crdtlog__column (tab INTEGER, slot INTEGER, name TEXT, PRIMARY KEY (tab, slot)) WITHOUT ROWID;
CREATE TABLE crdtlog__held (device BLOB, writer INTEGER, seq INTEGER, PRIMARY KEY (device, writer)) WITHOUT ROWID;
CREATE TABLE crdtlog__address (device BLOB, address TEXT, seen_ms INTEGER, PRIMARY KEY (device, address)) WITHOUT ROWID;
"""


def _time(stamp: str) -> str:
    """SQL for a stored stamp as ISO 8601 in UTC with milliseconds."""
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', (({stamp} >> 16) + {SQL_MS_BIAS}) / 1000.0, 'unixepoch')"


_VIEWS = f"""
CREATE VIEW crdtlog_devices AS
    SELECT lower(hex(d.id)) AS id, d.name AS name, d.role AS role,
           d.id = (SELECT value FROM crdtlog__meta WHERE name = 'device') AS self,
           (SELECT coalesce(sum(w.seq), 0) FROM crdtlog__writer w WHERE w.device = d.id) -
           (SELECT coalesce(sum(b.first - 1), 0) FROM crdtlog__branch b JOIN crdtlog__writer w ON w.id = b.writer
            WHERE w.device = d.id) AS entries,
           (SELECT {_time("max(w.last_stamp)")} FROM crdtlog__writer w
            WHERE w.device = d.id AND w.seq > 0) AS last_write,
           strftime('%Y-%m-%dT%H:%M:%fZ', d.seen_ms / 1000.0, 'unixepoch') AS last_seen
    FROM crdtlog__device d;
CREATE VIEW crdtlog_log AS
    SELECT {_time("l.stamp")} AS at, coalesce(d.name, lower(hex(w.device))) AS device, l.seq AS sequence,
           l.kind AS kind, l.summary AS summary, lower(hex(w.writer)) AS writer, l.position AS position
    FROM crdtlog__log l JOIN crdtlog__writer w ON w.id = l.writer LEFT JOIN crdtlog__device d ON d.id = w.device
    ORDER BY l.stamp, l.position;
CREATE VIEW crdtlog_conflicts AS
    SELECT t.name AS "table", c.key AS key, n.name AS "column", c.value AS value,
           coalesce(d.name, lower(hex(w.device))) AS device, {_time("c.stamp")} AS at,
           lower(hex(w.writer)) || ':' || c.seq AS dot
    FROM crdtlog__loser c JOIN crdtlog__table t ON t.id = c.tab JOIN crdtlog__writer w ON w.id = c.writer
         LEFT JOIN crdtlog__device d ON d.id = w.device
         LEFT JOIN crdtlog__column n ON n.tab = c.tab AND n.slot = c.slot
    WHERE c.hidden = 0;
CREATE VIEW crdtlog_aside AS
    SELECT t.name AS "table", a.key AS key, n.name AS "column", a.value AS value, a.gone AS deleted,
           strftime('%Y-%m-%dT%H:%M:%fZ', a.at_ms / 1000.0, 'unixepoch') AS at, a.reason AS reason
    FROM crdtlog__aside a JOIN crdtlog__table t ON t.id = a.tab
         LEFT JOIN crdtlog__column n ON n.tab = a.tab AND n.slot = a.slot
    ORDER BY a.id;
"""


def create(connection: sqlite3.Connection) -> None:
    """Create the internal tables and the views in a file that has none, inside the caller's transaction."""
    for statement in (*_TABLES.split(";\n"), *_VIEWS.split(";\n")):
        if statement.strip():
            connection.execute(statement)
    create_row_status(connection, [])


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring a file of an earlier format to today's, inside the caller's transaction.

    Format 1 had no merge documents; format 2 applied all that it held, and knew no removed members and no forks.
    """
    statements = {
        name: statement
        for statement in _TABLES.split(";\n")
        for name in [statement.partition(" (")[0].rpartition(" ")[2]]
    }
    for name in ("original", "fork", "branch", "said", "edge"):
        connection.execute(statements[f"crdtlog__{name}"])
    if get_meta(connection, "format") == 1:
        connection.execute(statements["crdtlog__merge"])
        connection.execute(statements["crdtlog__kind"])
    devices = "id, name, role, sign_key, receive_key, certificate, added_by, confirmed, seen_ms"
    writers = "id, writer, device, seq, hash, last_stamp, context"
    for name, columns, more in (
        ("crdtlog__device", devices, ""),
        ("crdtlog__writer", f"{writers}, applied", ", seq"),
    ):
        kept = columns.removesuffix(", applied") + more
        rows = connection.execute(f"SELECT {kept} FROM {name}").fetchall()
        connection.execute(f"DROP TABLE {name}")
        connection.execute(statements[name])
        marks = ", ".join("?" * len(columns.split(", ")))
        connection.executemany(f"INSERT INTO {name} ({columns}) VALUES ({marks})", rows)
    connection.execute(statements["crdtlog__context"])
    connection.execute(statements["crdtlog__aside"])
    for view in filter(str.strip, _VIEWS.split(";\n")):
        name = view.partition(" AS\n")[0].rpartition(" ")[2]
        connection.execute(f"DROP VIEW IF EXISTS {name}")
        connection.execute(view)
    set_meta(connection, "first_epoch", get_meta(connection, "epoch"))
    set_meta(connection, "format", FORMAT)


def create_row_status(connection: sqlite3.Connection, tables: "list[Tracked]") -> None:
    """Make `crdtlog_row_status` anew: one line for each row of the tracked tables."""
    connection.execute("DROP VIEW IF EXISTS crdtlog_row_status")
    select = " UNION ALL ".join(table.row_status_sql for table in tables) or _NO_ROWS
    connection.execute(
        f"""CREATE VIEW crdtlog_row_status AS
        SELECT r."table" AS "table", r.key AS key, {_time("r.stamp")} AS changed_at,
               coalesce(d.name, lower(hex(w.device))) AS device,
               (SELECT count(*) FROM crdtlog__device o
                WHERE o.id = w.device OR o.id = (SELECT value FROM crdtlog__meta WHERE name = 'device')
                   OR EXISTS (SELECT 1 FROM crdtlog__held h
                              WHERE h.device = o.id AND h.writer = r.writer AND h.seq >= r.seq)) AS devices,
               0 AS on_relay
        FROM ({select}) r JOIN crdtlog__writer w ON w.id = r.writer LEFT JOIN crdtlog__device d ON d.id = w.device"""
    )


_NO_ROWS = 'SELECT NULL AS "table", NULL AS key, 0 AS writer, 0 AS seq, 0 AS stamp WHERE 0'


def exists(connection: sqlite3.Connection) -> bool:
    """Whether the file has crdtlog's tables."""
    return (
        connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'crdtlog__meta'").fetchone() is not None
    )


def get_meta(connection: sqlite3.Connection, name: str) -> object:
    """One of the file's settings, or None."""
    row = connection.execute("SELECT value FROM crdtlog__meta WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def set_meta(connection: sqlite3.Connection, name: str, value: object) -> None:
    """Write one of the file's settings."""
    connection.execute("INSERT OR REPLACE INTO crdtlog__meta VALUES (?, ?)", (name, value))


@dataclass
class Tracked:
    """One tracked table: `number` is local to the file, `table_id` (8 bytes) the same on every device.

    A paused table's changes are kept and not exchanged: `misfit` says how its schema differs from the description,
    `held` what a person has to decide first. `reconcile_ms` is not 0 when all of its rows must be compared
    with their documents, and what differs counts as changed at that time; negative while that waits for the first
    catch-up after joining.
    """

    number: int
    table_id: bytes
    table: Table
    misfit: str | None = None
    held: str | None = None
    reconcile_ms: int = 0
    #: the codes of mergeable columns' kinds, by slot
    kinds: dict[int, int] = field(default_factory=dict)

    @property
    def paused(self) -> str | None:
        """Why the table's changes are not exchanged now, or None."""
        return self.misfit or self.held

    @property
    def waiting(self) -> str | None:
        """What has to come before all of its rows are taken in; see `TableStatus`."""
        if not self.reconcile_ms:
            return None
        return "unfinished" if self.reconcile_ms > 0 else "first exchange"

    @property
    def name(self) -> str:
        """The table's name."""
        return self.table.name

    @cached_property
    def quoted(self) -> str:
        """The table's name, quoted."""
        return quote(self.table.name)

    @cached_property
    def rows_name(self) -> str:
        """The table of compact documents beside it."""
        return f"crdtlog__row_{self.number}"

    @cached_property
    def capture_name(self) -> str:
        """The table in which triggers note its changed keys."""
        return f"crdtlog__capture_{self.number}"

    @cached_property
    def keys(self) -> tuple[Column, ...]:
        """Its key columns in key order."""
        return self.table.key_columns

    @cached_property
    def key_names(self) -> list[str]:
        """Its key columns' names, quoted."""
        return [quote(column.name) for column in self.keys]

    @cached_property
    def marks(self) -> list[str]:
        """What the key columns are called in internal tables: k1, k2, …"""
        return [f"k{index}" for index in range(1, len(self.keys) + 1)]

    @cached_property
    def collations(self) -> list[str]:
        """The key columns' collations."""
        return [column.key_collation for column in self.keys]

    @cached_property
    def respelled(self) -> bool:
        """Whether one key can be spelled in several ways, so that the spelling itself is a register."""
        return any(
            column.key_collation != "BINARY" or self.table.affinity(column) == "BLOB" for column in self.keys
        )

    @cached_property
    def plain_key(self) -> bool:
        """Whether the key is one column whose text is its own name."""
        return len(self.keys) == 1 and self.collations == ["BINARY"]

    @cached_property
    def cells(self) -> list[tuple[int, Column]]:
        """The columns that are registers, as (slot, column) in slot order; a column's slot never changes."""
        return [
            (position + document.FIRST_COLUMN, column)
            for position, column in enumerate(self.table.columns)
            if column.generated is None and (self.respelled or not column.key)
        ]

    @cached_property
    def cell_slots(self) -> list[int]:
        """The slots of `cells`."""
        return [slot for slot, _ in self.cells]

    @cached_property
    def cell_names(self) -> list[str]:
        """The quoted names of `cells`."""
        return [quote(column.name) for _, column in self.cells]

    @cached_property
    def slots(self) -> list[int]:
        """Every slot of a row's document but liveness: its birth, where rows have one, and its columns."""
        return [document.BIRTH, *self.cell_slots] if self.table.integer_key else self.cell_slots

    @cached_property
    def affinities(self) -> list[str]:
        """The affinity of each of `cells`."""
        return [self.table.affinity(column) for _, column in self.cells]

    def affinity(self, slot: int) -> str:
        """The affinity of one of `cells`."""
        return self.affinities[self.cell_slots.index(slot)]

    @cached_property
    def key_affinities(self) -> list[str]:
        """The affinity of each key column."""
        return [self.table.affinity(column) for column in self.keys]

    @cached_property
    def key_declarations(self) -> str:
        """The key columns as internal tables declare them: with the affinity and collation of the originals."""
        return ", ".join(
            f"{mark} {kind} COLLATE {collation}"
            for mark, kind, collation in zip(self.marks, self.key_affinities, self.collations, strict=True)
        )

    def same_key(self, left: str, right: str, *, left_user: bool = False, right_user: bool = False) -> str:
        """SQL that two aliases hold the same key; `*_user` marks an alias of the user's own table."""
        lefts = self.key_names if left_user else self.marks
        rights = self.key_names if right_user else self.marks
        return " AND ".join(
            f"{left}.{a} = {right}.{b}{collate}"
            for a, b, collate in zip(lefts, rights, self._explicit_collations, strict=True)
        )

    @cached_property
    def _explicit_collations(self) -> list[str]:
        """A key's collation, spelled out where it is not the default of its column."""
        return [
            "" if column.collation == column.key_collation else f" COLLATE {column.key_collation}"
            for column in self.keys
        ]

    @cached_property
    def where_key(self) -> str:
        """SQL that picks one row of the user's table by its key, with a placeholder for each column."""
        return " AND ".join(
            f"{name} = ?{collate}"
            for name, collate in zip(self.key_names, self._explicit_collations, strict=True)
        )

    @cached_property
    def rowid(self) -> str | None:
        """A name of the rowid of the user's table, by which a row that was read is found again sooner than by its key.

        None if the table has none, if it is the key itself, or if columns of the person's own have all its names.
        """
        if self.table.without_rowid or self.table.integer_key:
            return None
        taken = {column.name.lower() for column in self.table.columns}
        return next((name for name in ("rowid", "_rowid_", "oid") if name not in taken), None)

    @cached_property
    def where_document(self) -> str:
        """SQL that picks one row's document by its key, with a placeholder for each column."""
        return " AND ".join(f"{mark} = ?" for mark in self.marks)

    @cached_property
    def row_status_sql(self) -> str:
        """One branch of `crdtlog_row_status`."""
        name = self.table.name.replace("'", "''")
        return (
            f"SELECT '{name}' AS \"table\", {_key_sql(self.marks)} AS key, w AS writer, s AS seq, at AS stamp "
            f"FROM {self.rows_name} WHERE dead = 0"
        )


def _key_sql(marks: list[str]) -> str:
    """SQL for a key as `values.key_text` writes it."""
    if len(marks) == 1:
        return f"CASE typeof({marks[0]}) WHEN 'blob' THEN {_json_sql(marks[0])} ELSE {marks[0]} END"
    return "'[' || " + " || ', ' || ".join(_json_sql(mark) for mark in marks) + " || ']'"


def _json_sql(mark: str) -> str:
    text = f"'\"' || replace(replace({mark}, '\\', '\\\\'), '\"', '\\\"') || '\"'"
    return (
        f"CASE typeof({mark}) WHEN 'blob' THEN '{{\"hex\": \"' || lower(hex({mark})) || '\"}}' "
        f"WHEN 'text' THEN {text} ELSE {mark} END"
    )


def create_beside(connection: sqlite3.Connection, tracked: Tracked) -> None:
    """Create the document and capture tables of a newly tracked table."""
    rest = (
        "w INTEGER NOT NULL, s INTEGER NOT NULL, at INTEGER NOT NULL, dead INTEGER NOT NULL, "
        "losers INTEGER NOT NULL, strata BLOB, hashes BLOB"
    )
    if tracked.table.integer_key:
        connection.execute(f"CREATE TABLE {tracked.rows_name} (k1 INTEGER PRIMARY KEY, {rest})")
    else:
        connection.execute(
            f"CREATE TABLE {tracked.rows_name} ({tracked.key_declarations}, {rest}, "
            f"PRIMARY KEY ({', '.join(tracked.marks)})) WITHOUT ROWID"
        )
    connection.execute(
        f"CREATE TABLE {tracked.capture_name} (seq INTEGER PRIMARY KEY, at REAL, {tracked.key_declarations})"
    )
    connection.executemany(
        "INSERT INTO crdtlog__column VALUES (?, ?, ?)",
        [(tracked.number, slot, column.name) for slot, column in tracked.cells],
    )


def drop_beside(connection: sqlite3.Connection, tracked: Tracked) -> None:
    """Remove what `create_beside` made, and the table's losing versions."""
    connection.execute(f"DROP TABLE IF EXISTS {tracked.rows_name}")
    connection.execute(f"DROP TABLE IF EXISTS {tracked.capture_name}")
    for name in ("loser", "merge", "kind", "column"):
        connection.execute(f"DELETE FROM crdtlog__{name} WHERE tab = ?", (tracked.number,))
