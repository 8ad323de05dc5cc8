"""The logs inside the file: every writer's entries, how far they are applied, and their contexts.

All logs share one local order, `position`, in which an entry always stands behind everything its context names: it is a
linear extension of causality, so sending entries in this order makes each of them deliverable on arrival.

What is *held* is passed on; of each log a beginning is *applied*, mostly all of it: the rest does not count, or rests
on what does not count (`membership`). Sessions exchange by what is held, contexts name what is applied.

Invariants:
 L1  each log is gapless: entry n+1 is stored only on top of entry n, whose hash it names (R9);
 L2  an entry is applied from the transaction on that merged it into documents and rows, or that drained it (R10);
 L3  an entry is stored only when its context is covered by what is held, and the hashes agree;
 L4  an entry is applied only when its context, and its log before it, is applied.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, cast

from crdtlog import clock, entry, proof
from crdtlog.decoded import Decoder
from crdtlog.entry import Entry, Signed
from crdtlog.errors import AnotherHistory, EntryRefused
from crdtlog.payload import Section
from crdtlog.values import Key, Value, pack, unpack
from crdtlog.versions import MAX_SEQ, Head, Named, context_difference, device_of
from crdtlog.writers import Called, Writer

#: Entries that are merged, `l`, of which more may be asked with AND.
APPLIED = "crdtlog__log l JOIN crdtlog__writer w ON w.id = l.writer WHERE l.seq <= w.applied"


class LogEntry(NamedTuple):
    """A stored entry: where it stands in the local order, its dot, and its signed bytes."""

    position: int
    writer: bytes
    seq: int
    kind: str
    signed: bytes


class Batch(NamedTuple):
    """Some stored entries, the position reached, and whether that is the end of the log."""

    entries: list[LogEntry]
    position: int
    end: bool


def not_given() -> EntryRefused:
    """What to say where a value is needed that a snapshot left out."""
    return EntryRefused(
        "an entry builds on values from before this device joined, which it was not given",
        "Join again, with a file of another name: run `crdtlog pair` on another device.",
    )


class Log:
    """The stored logs and a memory of their heads, valid while the caller holds the file's write lock."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.writers: dict[bytes, Writer] = {}
        self.by_number: dict[int, Writer] = {}
        self.ids: dict[int, bytes] = {}
        self._decoder = Decoder(self.signed)
        self._contexts: dict[bytes, tuple[int, list[tuple[int, list[tuple[bytes, int]]]]]] = {}
        #: what logs are called by the authors of others that know them by another name
        self.called = Called(connection)
        #: While rows are made anew from entries that are held: the position of the one at hand. What stands behind it
        #: has not happened yet.
        self.horizon = MAX_SEQ
        #: what came abridged with a snapshot, as the last such entry of each log; the last position of all that came
        self.given: dict[bytes, int] = {}
        self.given_position = 0
        self.load()

    def load(self) -> None:
        """Read all heads from the file."""
        self.writers.clear()
        self.by_number.clear()
        self.ids.clear()
        for number, writer, seq, digest, last, context, applied in self.connection.execute(
            "SELECT id, writer, seq, hash, last_stamp, context, applied FROM crdtlog__writer"
        ):
            context = dict(unpack(context))
            self._remember(Writer(number, writer, seq, digest, clock.from_sql(last), context, applied))
        for number, parent, first in self.connection.execute(
            "SELECT writer, parent, first FROM crdtlog__branch"
        ):
            self.by_number[number].parent, self.by_number[number].first = self.by_number[parent], first
        given = self.connection.execute("SELECT value FROM crdtlog__meta WHERE name = 'given'").fetchone()
        self.given_position, self.given = 0, {}
        if given is not None:
            self.given_position, vector = unpack(given[0])
            self.given = dict(vector)
        self.called.load(self.by_number)

    def forget(self) -> None:
        """Forget decoded entries: some may never have been, as when the transaction that wrote them was undone."""
        self._decoder.forget()
        self._contexts.clear()

    def _remember(self, writer: Writer) -> None:
        self.writers[writer.id] = writer
        self.by_number[writer.number] = writer
        self.ids[writer.number] = writer.id

    def heads(self) -> dict[bytes, Head]:
        """The last entry held of every log that has one."""
        return {writer.id: writer.head for writer in self.writers.values() if writer.seq >= writer.first}

    def applied(self) -> dict[bytes, int]:
        """The last entry applied of every log that has one."""
        return {
            writer.id: writer.applied for writer in self.writers.values() if writer.applied >= writer.first
        }

    def is_applied(self, writer: bytes, seq: int) -> bool:
        """Whether an entry is merged into documents and rows."""
        log = self.writers.get(writer)
        return log is not None and log.applied >= seq

    def lags(self) -> list[Writer]:
        """The logs of which not all that is held is applied."""
        return [writer for writer in self.writers.values() if writer.applied < writer.seq]

    def position(self) -> int:
        """The last position of the local order."""
        return int(
            self.connection.execute("SELECT coalesce(max(position), 0) FROM crdtlog__log").fetchone()[0]
        )

    def writer(self, writer_id: bytes) -> Writer:
        """The log of that writer, begun empty if it is new."""
        known = self.writers.get(writer_id)
        if known is not None:
            return known
        number = self.connection.execute(
            "INSERT INTO crdtlog__writer (writer, device, seq, hash, last_stamp, context, applied) "
            "VALUES (?, ?, 0, x'', ?, ?, 0)",
            (writer_id, device_of(writer_id), clock.to_sql(0), pack([])),
        ).lastrowid
        fresh = Writer(cast(int, number), writer_id)
        self._remember(fresh)
        return fresh

    def next_context(self, own: Writer) -> tuple[Named, ...]:
        """What the next own entry names newly: all that is applied, against the context of the entry before."""
        heads = {}
        for writer in self.writers.values():
            if writer.applied < writer.first:
                continue
            if writer.applied == writer.seq:
                heads[writer.id] = writer.head
            elif writer.applied > own.context.get(writer.id, 0):
                digest = self.hash_of(writer.number, writer.applied)
                assert digest is not None
                heads[writer.id] = Head(writer.applied, digest)
        return tuple(context_difference(heads, own.context, own.id))

    def check_succession(self, item: Entry, writer: Writer) -> None:
        """Require that an entry is the next of a log (L1). Raises `EntryRefused`."""
        if item.seq != writer.seq + 1:
            raise EntryRefused(
                f"entry {item.seq} arrived where {writer.seq + 1} is next (writer {item.writer.hex()[:12]})"
            )
        if item.previous != writer.hash:
            raise AnotherHistory(
                f"entry {item.seq} of writer {item.writer.hex()[:12]} breaks its log's hash chain"
            )

    def resolve(self, named: Named) -> Writer | None:
        """The log that holds the entry which a context names, whatever that is called here; None if it is not held."""
        known = self.writers.get(named.writer)
        if known is not None and self.is_at(known, named.seq, named.hash8):
            return known.owner(named.seq)
        device = device_of(named.writer)
        for other in self.writers.values():
            if (
                other.first <= named.seq
                and device_of(other.id) == device
                and self.is_at(other, named.seq, named.hash8)
            ):
                return other
        return None

    def is_at(self, writer: Writer, seq: int, hash8: bytes) -> bool:
        """Whether a log's history holds that entry."""
        digest = writer.hash if writer.seq == seq else self.hash_at(writer, seq)
        return digest is not None and digest[:8] == hash8

    def hash_at(self, writer: Writer, seq: int) -> bytes | None:
        """The hash of an entry of a log's history, if it is held."""
        return self.hash_of(writer.owner(seq).number, seq)

    def context_of(self, item: Entry) -> dict[bytes, int]:
        """All that the author of the next entry of a log had, that log up to the entry before included."""
        author = self.writers.get(item.writer)
        context = {
            **(author.context if author else {}),
            **{named.writer: named.seq for named in item.context},
        }
        if item.seq > 1:
            context[item.writer] = item.seq - 1
        return context

    def append(
        self,
        item: Entry,
        signed: Signed,
        writer: Writer,
        *,
        received_ms: int,
        rows: int,
        summary: str,
        applied: bool = True,
        original: bytes | None = None,
    ) -> None:
        """Store the next entry of a log and move its head (L1); the caller has checked it.

        One that is not `applied` is only held. `original` are the bytes as they were signed, if the entry is stored
        with other names in it (see `naming`).
        """
        if item.kind == "member" or not applied:
            # The first to evaluate who counts, the other to be merged later: contexts are else known of heads alone.
            self.connection.execute(
                "INSERT INTO crdtlog__context VALUES (?, ?, ?, ?)",
                (writer.number, item.seq, item.kind == "member", pack(sorted(self.context_of(item).items()))),
            )
        self.connection.execute(
            "INSERT INTO crdtlog__log (writer, seq, hash, kind, stamp, received_ms, rows, summary, signed) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                writer.number,
                item.seq,
                signed.hash,
                item.kind,
                clock.to_sql(item.last_stamp),
                received_ms,
                rows,
                summary,
                signed.bytes(),
            ),
        )
        if original is not None:
            self.connection.execute(
                "INSERT INTO crdtlog__original VALUES (?, ?, ?)", (writer.number, item.seq, original)
            )
        writer.seq, writer.hash, writer.last_stamp = (
            item.seq,
            signed.hash,
            max(item.last_stamp, writer.last_stamp),
        )
        if applied:
            writer.applied = item.seq
        for named in item.context:
            writer.context[named.writer] = named.seq
        self.connection.execute(
            "UPDATE crdtlog__writer SET seq = ?, hash = ?, last_stamp = ?, applied = ? WHERE id = ?",
            (writer.seq, writer.hash, clock.to_sql(writer.last_stamp), writer.applied, writer.number),
        )
        if item.context:
            self.connection.execute(
                "UPDATE crdtlog__writer SET context = ? WHERE id = ?",
                (pack(sorted(writer.context.items())), writer.number),
            )

    def note_given(self, settled: Mapping[bytes, int]) -> None:
        """All that is held came with a snapshot; up to those, others get no entries from here: they are abridged."""
        given = pack([self.position(), sorted(settled.items())])
        self.connection.execute("INSERT INTO crdtlog__meta VALUES ('given', ?)", (given,))
        self.load()

    def is_given(self, number: int, seq: int) -> bool:
        """Whether a held entry came abridged with a snapshot."""
        return self.given.get(self.ids[number], 0) >= seq

    def position_of(self, number: int, seq: int) -> int:
        """Where a held entry stands in the local order."""
        row = self.connection.execute(
            "SELECT position FROM crdtlog__log WHERE writer = ? AND seq = ?", (number, seq)
        ).fetchone()
        return int(row[0])

    def first_from(self, number: int, position: int) -> int:
        """The first entry of a log from a position of the local order on; one beyond its end if there is none."""
        row = self.connection.execute(
            "SELECT min(seq) FROM crdtlog__log WHERE writer = ? AND position >= ?", (number, position)
        ).fetchone()
        return int(row[0]) if row[0] is not None else self.by_number[number].seq + 1

    def note_waiting(self, writer: Writer, seq: int, why: str) -> None:
        """A held entry cannot be merged, though it counts."""
        self.connection.execute(
            "UPDATE crdtlog__log SET summary = ? WHERE writer = ? AND seq = ?",
            (f"waits: {why}", writer.number, seq),
        )

    def note_applied(self, writer: Writer, seq: int, rows: int, summary: str) -> None:
        """A held entry, the next of its log, has been merged now (L4)."""
        writer.applied = seq
        number = writer.number
        self.connection.execute("UPDATE crdtlog__writer SET applied = ? WHERE id = ?", (seq, number))
        self.connection.execute(
            "UPDATE crdtlog__log SET rows = ?, summary = ? WHERE writer = ? AND seq = ?",
            (rows, summary, number, seq),
        )
        self.connection.execute(
            "DELETE FROM crdtlog__context WHERE writer = ? AND seq = ? AND member = 0", (number, seq)
        )

    def context(self, writer: bytes, seq: int) -> dict[bytes, int]:
        """All that the author of a held entry had, its own log up to the entry before included."""
        log = self.writers[writer]
        if seq < log.first and log.parent is not None:
            return self.context(log.parent.id, seq)
        if seq == log.seq:
            context = dict(log.context)
        elif (kept := self._kept_context(log.number, seq)) is not None:
            return kept
        else:
            context = self.before(log)
            for at, named in self._named(log) if seq > 1 else self._named_by(log.number, 0, 1):
                if at > seq:
                    break
                context.update(named)
        if seq > 1:
            context[writer] = seq - 1
        return context

    def branch(self, name: bytes, parent: Writer, first: int) -> Writer:
        """The log of that name that leaves another one's history before that entry; begun if it is new."""
        log = self.writer(name)
        if log.parent is None and log.seq:
            raise EntryRefused("a log has the name that another one was to be given")
        if log.parent is None:
            log.parent, log.first = parent.owner(first - 1), first
            log.seq = log.applied = first - 1
            log.hash = (self.hash_at(log, first - 1) or b"") if first > 1 else b""
            log.context = self.before(log)
            self.connection.execute(
                "INSERT INTO crdtlog__branch VALUES (?, ?, ?)", (log.number, log.parent.number, first)
            )
            self.connection.execute(
                "UPDATE crdtlog__writer SET seq = ?, hash = ?, context = ?, applied = ? WHERE id = ?",
                (log.seq, log.hash, pack(sorted(log.context.items())), log.applied, log.number),
            )
        return log

    def before(self, log: Writer) -> dict[bytes, int]:
        """What a log had when its first own entry was written: nothing, if it left no other."""
        if log.parent is None or log.first == 1:
            return {}
        context = self.context(log.parent.id, log.first - 1)
        context[log.parent.owner(log.first - 1).id] = log.first - 1
        return context

    def _named(self, log: Writer) -> list[tuple[int, list[tuple[bytes, int]]]]:
        """What the entries of a log name, of those that name anything; read once."""
        last, found = self._contexts.get(log.id, (0, []))
        if last < log.seq:
            found += self._named_by(log.number, last, log.seq)
            self._contexts[log.id] = log.seq, found
        return found

    def _named_by(self, number: int, after: int, last: int) -> list[tuple[int, list[tuple[bytes, int]]]]:
        found = []
        for seq, signed in self.connection.execute(
            "SELECT seq, signed FROM crdtlog__log WHERE writer = ? AND seq > ? AND seq <= ? ORDER BY seq",
            (number, after, last),
        ):
            item = entry.decode(entry.split(signed).body)
            if item.context:
                found.append((seq, [(named.writer, named.seq) for named in item.context]))
        return found

    def keep_member_contexts(self) -> None:
        """Keep the contexts of membership records in a file that has none yet; reads the whole log."""
        contexts: dict[int, dict[bytes, int]] = {}
        for number, item in self.entries():
            context = contexts.setdefault(number, {})
            context.update((named.writer, named.seq) for named in item.context)
            if item.kind == "member":
                own = {item.writer: item.seq - 1} if item.seq > 1 else {}
                whole = pack(sorted({**context, **own}.items()))
                self.connection.execute(
                    "INSERT INTO crdtlog__context VALUES (?, ?, 1, ?)", (number, item.seq, whole)
                )

    def _kept_context(self, number: int, seq: int) -> dict[bytes, int] | None:
        row = self.connection.execute(
            "SELECT context FROM crdtlog__context WHERE writer = ? AND seq = ?", (number, seq)
        ).fetchone()
        return dict(unpack(row[0])) if row else None

    def member_entries(self) -> Iterator[tuple[bytes, dict[bytes, int], Entry]]:
        """The membership records held, in the local order: hash, context (see `context`), entry."""
        for digest, signed, context in self.connection.execute(
            "SELECT l.hash, l.signed, c.context FROM crdtlog__context c "
            "JOIN crdtlog__log l ON l.writer = c.writer AND l.seq = c.seq WHERE c.member = 1 ORDER BY l.position"
        ):
            yield digest, dict(unpack(context)), entry.decode(entry.split(signed).body)

    def cut(self, position: int) -> None:
        """Forget all entries from a position of the local order on; their logs end before them."""
        lost = self.connection.execute(
            "SELECT writer, min(seq) FROM crdtlog__log WHERE position >= ? GROUP BY writer", (position,)
        ).fetchall()
        self.connection.execute("DELETE FROM crdtlog__log WHERE position >= ?", (position,))
        for number, first in lost:
            log = self.by_number[number]
            kept = self.connection.execute(
                "SELECT hash, signed, stamp FROM crdtlog__log WHERE writer = ? ORDER BY seq", (number,)
            )
            digest, last_stamp = b"", clock.to_sql(0)
            context = self.before(log) if first > log.first else {}
            end = 0 if first == log.first else first - 1
            for held, signed, stamp in kept:
                digest, last_stamp = held, max(last_stamp, stamp)
                item = entry.decode(entry.split(signed).body)
                context.update((named.writer, named.seq) for named in item.context)
            self.connection.execute(
                "UPDATE crdtlog__writer SET seq = ?, hash = ?, last_stamp = ?, context = ?, applied = min(applied, ?) "
                "WHERE id = ?",
                (end, digest, last_stamp, pack(sorted(context.items())), end, number),
            )
            for table in ("crdtlog__context", "crdtlog__original", "crdtlog__said", "crdtlog__edge"):
                self.connection.execute(f"DELETE FROM {table} WHERE writer = ? AND seq >= ?", (number, first))
        # Where a log left another one is found anew with its first entry.
        self.connection.execute(
            "DELETE FROM crdtlog__branch WHERE writer IN (SELECT id FROM crdtlog__writer WHERE seq = 0)"
        )
        self.forget()
        self.load()

    def hash_of(self, number: int, seq: int) -> bytes | None:
        """The hash of a held entry."""
        row = self.connection.execute(
            "SELECT hash FROM crdtlog__log WHERE writer = ? AND seq = ?", (number, seq)
        ).fetchone()
        return row[0] if row else None

    def entries_after(self, position: int, lacking: Mapping[bytes, int], max_bytes: int) -> Batch:
        """Entries behind `position` that a holder of vector `lacking` lacks, in local (hence causal) order.

        Stops after `max_bytes` of entries, but gives at least one. Begins at the first entry that is lacking, so that
        the cost follows what is missing and not what is stored. Gives nothing to a holder who lacks what came here with
        a snapshot: all that is behind it builds on that.
        """
        if any(seq > lacking.get(writer, 0) for writer, seq in self.given.items()):
            return Batch([], position, True)
        position = max(position, self._before_first(lacking))
        found: list[LogEntry] = []
        size = 0
        cursor = self.connection.execute(
            "SELECT position, writer, seq FROM crdtlog__log WHERE position > ? ORDER BY position", (position,)
        )
        for at, number, seq in cursor:
            writer = self.ids.get(number)
            if writer is None:
                self.load()
                writer = self.ids[number]
            if seq > lacking.get(writer, 0):
                kind, signed = self._as_sent(at, number, seq)
                if found and size + len(signed) > max_bytes:
                    return Batch(found, position, False)
                found.append(LogEntry(at, writer, seq, kind, signed))
                size += len(signed)
            position = at
        return Batch(found, position, True)

    def _as_sent(self, position: int, number: int, seq: int) -> tuple[str, bytes]:
        """An entry's kind, and its bytes as they travel."""
        kind, digest = self.connection.execute(
            "SELECT kind, hash FROM crdtlog__log WHERE position = ?", (position,)
        ).fetchone()
        return kind, self.as_sent(self.by_number[number], seq, digest)

    def as_sent(self, log: Writer, seq: int, digest: bytes) -> bytes:
        """The bytes of the held entry of that hash as they travel: with the proof, if it is the first after a fork."""
        signed = self.original(log.number, seq)
        is_first = log.parent is not None and seq == log.first
        return proof.proven(self.connection, signed, digest) if is_first else signed

    def _before_first(self, lacking: Mapping[bytes, int]) -> int:
        """The position just before the first entry that is lacking; the log's end if none is."""
        firsts = []
        firsts_of = dict(self.connection.execute("SELECT writer, first FROM crdtlog__branch").fetchall())
        for number, writer in self.connection.execute("SELECT id, writer FROM crdtlog__writer").fetchall():
            row = self.connection.execute(
                "SELECT min(position) FROM crdtlog__log WHERE writer = ? AND seq > ? AND seq <= ?",
                (number, lacking.get(writer, 0), max(lacking.get(writer, 0) + 1, firsts_of.get(number, 1))),
            ).fetchone()
            if row[0] is not None:
                firsts.append(row[0])
        return min(firsts) - 1 if firsts else self.position()

    def original(self, number: int, seq: int) -> bytes:
        """The bytes of a held entry as its author signed them."""
        row = self.connection.execute(
            "SELECT signed FROM crdtlog__original WHERE writer = ? AND seq = ?", (number, seq)
        ).fetchone()
        return cast(bytes, row[0]) if row else self.signed(number, seq)

    def original_of(self, writer: bytes, seq: int) -> bytes:
        """The same of a log's history. Raises `EntryRefused` if it is not held."""
        if writer not in self.writers:
            raise EntryRefused(f"nothing of writer {writer.hex()[:12]} is held")
        number = self.writers[writer].owner(seq).number
        if self.is_given(number, seq):
            raise EntryRefused(f"entry {seq} of writer {writer.hex()[:12]} is not held as it was signed")
        return self.original(number, seq)

    def signed(self, number: int, seq: int) -> bytes:
        """The bytes of a held entry, with the names that its writers have here (see `naming`)."""
        row = self.connection.execute(
            "SELECT signed FROM crdtlog__log WHERE writer = ? AND seq = ?", (number, seq)
        ).fetchone()
        if row is None:
            raise EntryRefused(f"entry {seq} of writer {self.ids[number].hex()[:12]} is not held")
        return cast(bytes, row[0])

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """Every applied entry with its writer's local number, one at a time, as they were stored."""
        for number, signed in self.connection.execute(
            f"SELECT l.writer, l.signed FROM {APPLIED} ORDER BY l.position"
        ):
            yield number, entry.decode(entry.split(signed).body)

    def sections(self, number: int, seq: int) -> list[Section]:
        """The sections of a held data entry (the last few decoded are remembered)."""
        return self._decoder.decoded(number, seq).sections

    def written(
        self, number: int, seq: int, table: bytes, key: Key, collations: list[str]
    ) -> tuple[Section, int]:
        """Where that entry wrote a row: the section, and the row's place in it."""
        place = self._decoder.decoded(number, seq).place(table, key, collations)
        if place is None and self.is_given(number, seq):
            raise not_given()
        if place is None:
            raise EntryRefused(
                f"entry {seq} of writer {self.ids[number].hex()[:12]} does not hold the row asked for"
            )
        return place

    def written_values(
        self, number: int, seq: int, table: bytes, key: Key, collations: list[str]
    ) -> tuple[Key, dict[int, Value]]:
        """What that entry wrote of one row: the key as spelled there, and slot → value; patches are left out."""
        section, row = self.written(number, seq, table, key, collations)
        return section.key(row), section.values(row)

    def data_entries_after(self, dots: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The dots of all applied data entries behind the first of some in the local order, which is causal."""
        place = "SELECT position FROM crdtlog__log WHERE writer = ? AND seq = ?"
        first = min(self.connection.execute(place, dot).fetchone()[0] for dot in dots)
        return self.connection.execute(
            f"SELECT l.writer, l.seq FROM {APPLIED} AND l.kind = 'data' AND l.position > ? AND l.position < ? "
            "ORDER BY l.position",
            (first, self.horizon),
        ).fetchall()
