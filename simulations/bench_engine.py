"""What the engine costs, as ratios to plain SQLite in the same run: capture, drain, apply, exchange, file, wire.

Two devices on one machine without a network; entries are handed from one to the other as a session would. Every figure
is the time of the same rows through plain SQLite (same pragmas, same process) divided into the time through crdtlog.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import zstandard

import crdtlog
from crdtlog.device import load_device
from crdtlog.members import newcomer_of
from simulations.rows import INSERT, SCHEMA, Note, notes

_SINGLE_TRANSACTIONS = 2_000
_BATCH_BYTES = 1 << 20


@dataclass
class Figures:
    """Measured seconds by name, and figures that are no times."""

    seconds: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure what happens inside."""
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin

    def ratio(self, name: str, to: str, *, of: str | None = None) -> None:
        """Record how many times longer `of` (default: `name`) took than `to`."""
        self.ratios[name] = self.seconds[of or name] / self.seconds[to]


def plain(path: Path) -> sqlite3.Connection:
    """A file without crdtlog: write-ahead mode, autocommit, the table of notes."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(SCHEMA)
    return connection


def in_one_transaction(
    connection: sqlite3.Connection, sql: str, rows: list[tuple[object, ...]] | list[Note]
) -> None:
    """Run a statement for all rows and commit once."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(sql, rows)
    connection.execute("COMMIT")


def drain(db: crdtlog.Database) -> None:
    """Drain until nothing is captured."""
    while db.drain().more:
        pass


def pair(directory: Path, founder: crdtlog.Database, name: str) -> crdtlog.Database:
    """A second device with an empty file, as after pairing."""
    home = crdtlog.Home(directory / f"home-{name}").prepare()
    founder.add_member(newcomer_of(load_device(home, name=name), "admin"))
    return crdtlog.adopt(directory / f"{name}.db", founder.welcome(), home=home)


def lacking(db: crdtlog.Database) -> dict[bytes, int]:
    """The vector of a device."""
    return {writer: head.seq for writer, head in db.heads().items()}


def send(source: crdtlog.Database, target: crdtlog.Database, missing: dict[bytes, int]) -> int:
    """Hand over what is missing, in batches; returns the bytes of the entries."""
    position, size = 0, 0
    while True:
        batch = source.entries_after(position, missing, _BATCH_BYTES)
        position = batch.position
        waiting = [item.signed for item in batch.entries]
        size += sum(map(len, waiting))
        while waiting:
            waiting = waiting[target.apply(waiting).done :]
        if batch.end:
            return size


def file_bytes(connection: sqlite3.Connection, path: Path) -> int:
    """The size of a file once its write-ahead log is back in it."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def measure(directory: Path, count: int, say: Callable[[str], None]) -> Figures:
    """All of the engine's figures for that many rows, in a fresh directory."""
    figures = Figures()
    rows = notes(count)
    say(f"engine: {count:,} rows")
    with crdtlog.open(directory / "a.db", home=directory / "home-a", name="a") as a:
        a.execute(SCHEMA)
        a.track("notes")
        _inserts(figures, directory, rows, a)
        with pair(directory, a, "b") as b:
            with figures.timed("apply"):
                size = send(a, b, lacking(b))
            figures.ratio("apply", "plain insert")
            figures.ratios["wire"] = size / _packed_bytes(rows)
            _updates(figures, directory, a, b)
            _exchange(figures, directory, rows, a, b)
            _single(figures, directory, rows, a)
            assert a.verify().state == b.verify().state or a.pending()
    return figures


def _inserts(figures: Figures, directory: Path, rows: list[Note], a: crdtlog.Database) -> None:
    # Plain SQLite is measured before and after, as the machine's speed wanders.
    before = plain(directory / "plain-1.db")
    with figures.timed("plain insert 1"):
        in_one_transaction(before, INSERT, rows)
    with figures.timed("captured insert"):
        in_one_transaction(a.connection, INSERT, rows)
    with figures.timed("drain"):
        drain(a)
    after = plain(directory / "plain-2.db")
    with figures.timed("plain insert 2"):
        in_one_transaction(after, INSERT, rows)
    seconds = figures.seconds
    seconds["plain insert"] = (seconds["plain insert 1"] + seconds["plain insert 2"]) / 2
    figures.ratio("captured insert", "plain insert")
    figures.ratio("drain", "plain insert")
    figures.ratios["file"] = file_bytes(a.connection, a.path) / file_bytes(before, directory / "plain-1.db")


def _updates(figures: Figures, directory: Path, a: crdtlog.Database, b: crdtlog.Database) -> None:
    update = "UPDATE notes SET prio = prio + 1"
    with figures.timed("captured update"):
        a.execute(update)
    with figures.timed("drain of the update"):
        drain(a)
    with figures.timed("apply of the update"):
        send(a, b, lacking(b))
    for name in ("captured update", "drain of the update", "apply of the update"):
        figures.ratio(name, "plain insert")


def _exchange(
    figures: Figures, directory: Path, rows: list[Note], a: crdtlog.Database, b: crdtlog.Database
) -> None:
    """Both sides changed one column of every row while apart; each then applies the other's entries."""
    upsert = f"{INSERT} ON CONFLICT (id) DO UPDATE SET title = excluded.title"
    connection = sqlite3.connect(directory / "plain-1.db", isolation_level=None)
    changed = [row._replace(title="from b " + row.title) for row in rows]
    with figures.timed("plain upsert"):
        in_one_transaction(connection, upsert, changed)
    a.execute("UPDATE notes SET title = 'from a ' || title")
    b.execute("UPDATE notes SET title = 'from b ' || title")
    drain(a)
    drain(b)
    of_a, of_b = lacking(a), lacking(b)
    with figures.timed("exchange"):
        send(a, b, of_b)
        send(b, a, of_a)
    figures.seconds["exchange"] /= 2
    figures.ratio("exchange", "plain upsert")
    assert len(a.conflicts()) == len(rows), "every losing value must be kept"


def _single(figures: Figures, directory: Path, rows: list[Note], a: crdtlog.Database) -> None:
    connection = sqlite3.connect(directory / "plain-2.db", isolation_level=None)
    some = [
        row._replace(id=f"single {index} {row.id}") for index, row in enumerate(rows[:_SINGLE_TRANSACTIONS])
    ]
    half = len(some) // 2
    for name, target in (("plain single", connection), ("captured single", a.connection)):
        with figures.timed(name):
            for row in some[:half]:
                target.execute(INSERT, row)
    for name, target in (("captured single", a.connection), ("plain single", connection)):
        first = figures.seconds[name]
        with figures.timed(name):
            for row in some[half:]:
                target.execute(INSERT, row)
        figures.seconds[name] += first
    figures.ratio("captured single", "plain single")


def _packed_bytes(rows: list[Note]) -> int:
    """The rows as msgpack, compressed with zstd at its default level."""
    return len(zstandard.ZstdCompressor().compress(msgpack.packb(rows)))
