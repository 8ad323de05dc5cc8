"""What the engine knows of an open file: its tables, its logs, who writes, and when a cached fact is stale.

Drain, apply and check are functions over this state; `transaction` is the one way to change the file. Whoever holds the
write lock sees a state that matches the file: other processes may have drained or applied since.
"""

import gc
import math
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from crdtlog import capture, catalog, entry
from crdtlog.catalog import Tracked
from crdtlog.clock import stamps_for
from crdtlog.connection import translated
from crdtlog.device import Device
from crdtlog.document import Rank, rank_by
from crdtlog.entry import Entry, Signed
from crdtlog.epochs import Keys
from crdtlog.errors import CrdtlogError, EntryRefused, NoSuchTable, Untrackable
from crdtlog.group import Group, role_counts
from crdtlog.kinds import REGISTER, TEXT, documents
from crdtlog.log import Log
from crdtlog.membership import Genesis, decode_genesis
from crdtlog.remembered import Remembered
from crdtlog.schema import Places, difference, from_wire, read_table
from crdtlog.values import unpack
from crdtlog.writers import Writer

if TYPE_CHECKING:
    from crdtlog.merging import OwnEdit
    from crdtlog.texts import TextDocuments
    from crdtlog.values import Value

#: What one call works out with merge documents under the lock takes no longer.
_UNDER_LOCK_MS = 20.0

_SINCE_TRACKED = Places("now", "when it was tracked")


class State:
    """An open, initialised file. `now_ms` is the wall clock in Unix milliseconds, injected for simulations."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        device: Device,
        keys: Keys,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self.connection = connection
        self.path = path
        self.device = device
        self.keys = keys
        #: the secrets of the epochs, by id
        self.epochs = keys.load()
        self.now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self.database = cast(bytes, catalog.get_meta(connection, "database"))
        self.seed = cast(int, catalog.get_meta(connection, "seed"))
        self.tables: dict[bytes, Tracked] = {}
        self.log = Log(connection)
        first_epoch = cast(bytes, catalog.get_meta(connection, "first_epoch"))
        self.group = Group(self.log, self.database, device.id, first_epoch)
        #: whether entries may be held that can be merged, or something of ours has to be said of the group
        self.must_settle = bool(self.log.lags())
        #: whether that is to be done at once, however long it takes: rows stand as they were some entries ago
        self.must_finish = False
        self.undone = 0
        #: rows of this device's that were put aside since it was opened, as what it had written does not count
        self.taken_back = 0
        self._generation: object = None
        self._position = -1
        self._schema_version = -1
        self._texts: TextDocuments | None = None
        self._documents: dict[int, Remembered] = {}
        self._most_ms = math.inf
        #: edits that were made on documents themselves, by (table, row's name, slot), each a function of the write's
        #: stamp: the drain under way takes them
        self.prepared: dict[tuple[int, Value, int], Callable[[int], OwnEdit]] = {}
        self._reload()

    @property
    def founding(self) -> Genesis:
        """The record whose hash is the database's id: its founder, and the recovery key's public half."""
        return decode_genesis(cast(bytes, catalog.get_meta(self.connection, "genesis")))

    # --- freshness ------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One write transaction: waits for the lock, refreshes what is cached, commits durably or undoes everything."""
        with translated(self.path), no_collection():
            taken_back = self.taken_back
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                self._refresh()
                yield
                self._position = self.log.position()
                self.connection.execute("COMMIT")
            except BaseException:
                self.undone += 1
                self.taken_back = taken_back
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                # What was read or noted inside is undone with it, a schema found changed included.
                self._position, self._generation, self._schema_version = -1, None, -1
                self.log.forget()
                self.group.forget()
                raise

    def refresh(self) -> None:
        """Bring the cached facts up to date without a write (for readers)."""
        if catalog.get_meta(self.connection, "generation") != self._generation:
            self._reload()
            self._others_wrote()
        elif self.log.position() != self._position:
            self.log.load()
            self._position = self.log.position()
            self._others_wrote()

    def _others_wrote(self) -> None:
        """The log is not as this process left it, or a transaction was undone."""
        self.group.forget()
        self.epochs = self.keys.load()
        self.must_settle = bool(self.log.lags())

    def _refresh(self) -> None:
        self.refresh()
        if self.schema_changed():
            self._check_schema()

    def schema_changed(self) -> bool:
        """Whether somebody changed the schema since it was last checked, which the next transaction does."""
        version = self.connection.execute("PRAGMA schema_version").fetchone()[0]
        return bool(version != self._schema_version)

    def _reload(self) -> None:
        self.tables = {}
        for number, table_id, description, misfit, held, reconcile_ms in self.connection.execute(
            "SELECT id, table_id, description, misfit, held, reconcile_ms FROM crdtlog__table ORDER BY id"
        ):
            table = from_wire(unpack(description))
            self.tables[table_id] = Tracked(number, table_id, table, misfit, held, reconcile_ms)
        self._generation = catalog.get_meta(self.connection, "generation")
        self.log.load()
        self._load_kinds()
        self._position = self.log.position()

    def _load_kinds(self) -> None:
        """The kinds of columns: of choices that were made apart, the latest counts on every device."""
        by_number = {tracked.number: tracked for tracked in self.tables.values()}
        rows = self.connection.execute(
            "SELECT tab, slot, writer, seq, stamp, kind FROM crdtlog__kind"
        ).fetchall()
        for number, slot, _, _, _, kind in sorted(
            rows, key=lambda row: (row[4], self.log.ids[row[2]], row[3])
        ):
            kinds = by_number[number].kinds
            kinds[slot] = kind
            if kind == REGISTER:
                del kinds[slot]

    def bump(self) -> None:
        """Tell every process that the set of tables, devices or their condition changed."""
        self.connection.execute("UPDATE crdtlog__meta SET value = value + 1 WHERE name = 'generation'")
        self._reload()
        self._schema_version = self.connection.execute("PRAGMA schema_version").fetchone()[0]

    # --- the schema under us --------------------------------------------------------------------------------------

    def _check_schema(self) -> None:
        """Somebody changed the schema: put triggers back, mark rebuilt tables for reconciling, pause changed ones."""
        changed = False
        for tracked in self.tables.values():
            reason = self.misfit(tracked)
            if reason is None and capture.install(self.connection, tracked):
                self.mark_for_reconcile(tracked)
                changed = True
            if reason != tracked.misfit:
                self.connection.execute(
                    "UPDATE crdtlog__table SET misfit = ? WHERE id = ?", (reason, tracked.number)
                )
                self.mark_for_reconcile(tracked)
                changed = True
        if changed:
            self.bump()
        self._schema_version = self.connection.execute("PRAGMA schema_version").fetchone()[0]

    def set_reconcile(self, tracked: Tracked, at_ms: int) -> None:
        """Have all rows of the table compared with their documents (0: done); an earlier time that waits is kept."""
        sql = "UPDATE crdtlog__table SET reconcile_ms = ? WHERE id = ?"
        self.connection.execute(sql if not at_ms else sql + " AND reconcile_ms = 0", (at_ms, tracked.number))

    def mark_for_reconcile(self, tracked: Tracked) -> None:
        """Have all rows compared; what differs counts as changed now, also by a clock that stands at 0."""
        self.set_reconcile(tracked, max(1, self.now_ms()))

    def hold(self, tracked: Tracked, reason: str | None) -> None:
        """Stop exchanging the table's changes until a person has decided, or go on (None)."""
        self.connection.execute("UPDATE crdtlog__table SET held = ? WHERE id = ?", (reason, tracked.number))

    def misfit(self, tracked: Tracked) -> str | None:
        """Why the table as it is now cannot be read or written under its description; None if it can."""
        try:
            now = read_table(self.connection, tracked.name)
        except (NoSuchTable, Untrackable) as error:
            return str(error)
        return difference(now, tracked.table, _SINCE_TRACKED)

    # --- looking things up ----------------------------------------------------------------------------------------

    @property
    def writer(self) -> Writer:
        """This device's current log."""
        return self.log.writer(cast(bytes, catalog.get_meta(self.connection, "writer")))

    def become(self, writer: bytes) -> None:
        """Go on as another writer, inside the caller's transaction."""
        catalog.set_meta(self.connection, "writer", writer)
        self.bump()

    @property
    def epoch(self) -> bytes:
        """The id of the epoch that own entries are written under."""
        return cast(bytes, catalog.get_meta(self.connection, "epoch"))

    def role(self, device: bytes) -> str | None:
        """What a device may do; None for one that does not belong (any more)."""
        row = self.connection.execute("SELECT role FROM crdtlog__device WHERE id = ?", (device,)).fetchone()
        return row[0] if row else None

    @property
    def may_write(self) -> bool:
        """Whether what is written here counts elsewhere."""
        return role_counts(self.role(self.device.id))

    @property
    def awaits_snapshot(self) -> bool:
        """Whether this device was let in without history, and has not been given what there is now."""
        return bool(catalog.get_meta(self.connection, "awaits"))

    def is_withheld(self, device: bytes, writer: bytes, seq: int) -> bool:
        """Whether an entry of a log's history is from before a device was let in without history."""
        known = self.log.writers.get(writer)
        return known is not None and any(
            name in self.log.writers and last >= seq and self.log.writers[name].owner(seq) is known.owner(seq)
            for name, last in self.group.withheld.get(device, {}).items()
        )

    def require_writer(self) -> None:
        """Raise `EntryRefused` if what is written here counts nowhere."""
        role = self.role(self.device.id)
        if role is None:
            raise EntryRefused(
                "this device was removed from the database, or has left it",
                "It can join again, with a file of another name: run `crdtlog pair` on an admin's device.",
            )
        if not role_counts(role):
            raise EntryRefused("this device may only read", "An admin can change that: crdtlog role.")

    def device_name(self, device: bytes) -> str:
        """What people call a device: its member's name, or the beginning of its id."""
        row = self.connection.execute("SELECT name FROM crdtlog__device WHERE id = ?", (device,)).fetchone()
        return str(row[0]) if row else device.hex()[:12]

    def documents(self, kind: int) -> Remembered:
        """The merge documents of a kind. Raises `Malformed` for a code of no kind."""
        found = self._documents.get(kind)
        if found is None:
            made = self.texts if kind == TEXT else documents(kind)
            found = self._documents[kind] = Remembered(made, lambda: self._most_ms)
        return found

    @property
    def texts(self) -> "TextDocuments":
        """The documents of kind `text`, with their worker."""
        if self._texts is None:
            from crdtlog.texts import TextDocuments

            self._texts = TextDocuments()
        return self._texts

    @contextmanager
    def quick(self, *, patient: bool = True) -> Iterator[None]:
        """Within, what takes long with merge documents and was not done before signals `WorkFirst`.

        Without patience, only what nobody can tell how long it takes.
        """
        self._most_ms = _UNDER_LOCK_MS if patient else sys.float_info.max
        try:
            yield
        finally:
            self._most_ms = math.inf

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Within, nothing signals `WorkFirst`: for what is rare, and would be done once more after each signal."""
        most, self._most_ms = self._most_ms, math.inf
        try:
            yield
        finally:
            self._most_ms = most

    def forget_answers(self) -> None:
        """What was worked out with merge documents ahead of the lock is of no use any more."""
        for found in self._documents.values():
            found.forget()

    def warm(self, tables: Iterable[Tracked]) -> None:
        """Start what merging columns of these tables need, before the write lock is taken; see `trouble`."""
        if any(TEXT in tracked.kinds.values() for tracked in tables):
            self.texts.warm()

    @property
    def trouble(self) -> str:
        """Why texts cannot be merged for now, as far as it was tried; empty if nothing is wrong."""
        return self._texts.trouble if self._texts is not None else ""

    def close(self) -> None:
        """Close the file, and end what was started for it."""
        if self._texts is not None:
            self._texts.close()
        self.connection.close()

    def rank(self) -> Rank:
        """How versions are ordered when concurrent."""
        return rank_by(self.log.ids)

    def table(self, name: str) -> Tracked:
        """The tracked table of that name (SQLite's names ignore ASCII case). Raises `NoSuchTable`."""
        for tracked in self.tables.values():
            if tracked.name == name:
                return tracked
        for tracked in self.tables.values():
            if tracked.name.lower() == name.lower():
                return tracked
        known = ", ".join(tracked.name for tracked in self.tables.values()) or "none"
        raise NoSuchTable(
            f"no tracked table {name!r}; tracked: {known}", f"Track it: crdtlog track {self.path} {name}"
        )

    # --- own entries ----------------------------------------------------------------------------------------------

    def append_own(
        self,
        kind: str,
        raw: bytes,
        *,
        stamps: tuple[int, int] | None = None,
        rows: int = 0,
        summary: str = "",
    ) -> Signed:
        """Sign and store the next entry of this device's log, inside the caller's transaction.

        Its context is exactly what is applied here (nothing is pending when anything is applied), so a context never
        claims to have seen what the person had not.
        """
        if self.awaits_snapshot:
            raise EntryRefused(
                "this device has not been given the database's rows yet",
                f"Run: crdtlog sync {self.path} while an admin's device can be reached.",
            )
        own = self.writer
        now = self.now_ms()
        if stamps is None:
            (only,) = stamps_for([now / 86_400_000 + 2440587.5], last=own.last_stamp, now_ms=now)
            stamps = (only, only)
        item = Entry(
            self.database,
            own.id,
            own.seq + 1,
            own.hash,
            self.log.next_context(own),
            stamps[0],
            stamps[1],
            kind,
            self.epoch,
            len(raw),
            entry.compress(raw),
        )
        signed = entry.sign(item, self.device)
        if kind == "member":
            self.group.take(self.group.record(item, signed.hash, self.log.context_of(item), item))
        self.log.append(item, signed, own, received_ms=now, rows=rows, summary=summary)
        return signed


@contextmanager
def savepoint(state: State, *, whole: bool = False) -> Iterator[None]:
    """Within a transaction: an error undoes what was done inside alone, or (`whole`) leaves that to the transaction."""
    if whole:
        yield
        return
    state.connection.execute("SAVEPOINT inner")
    try:
        yield
    except BaseException:
        state.connection.execute("ROLLBACK TO inner")
        state.connection.execute("RELEASE inner")
        state.bump()
        state.group.forget()
        raise
    state.connection.execute("RELEASE inner")


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's cycle collector from walking a batch's thousands of tuples again and again; they form no cycles."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def describe(error: CrdtlogError) -> str:
    """An error as one line: what happened and what to do."""
    return f"{error} {error.hint}".strip()
