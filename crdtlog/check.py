"""Check and verify: that rows, documents and logs agree, and one digest of all documents.

`check` compares rows with documents (what triggers may have missed); `verify` walks every log, checking signatures,
chains and contexts anew, and computes `state`: a digest equal exactly when two devices' documents are (R13). The digest
is independent of anything private to a file: local writer numbers and hash seeds do not enter.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from crdtlog import capture, clock, document, entry, proof
from crdtlog.catalog import Tracked
from crdtlog.connection import Row, escaping_text
from crdtlog.device import verify_bytes
from crdtlog.document import Compact, Version
from crdtlog.entry import Entry
from crdtlog.errors import CrdtlogError
from crdtlog.mending import damaged_rows
from crdtlog.rows import Layout, document_key, joined_sql
from crdtlog.state import State
from crdtlog.values import Key, hash_rows, normal_key, pack
from crdtlog.versions import device_of

Progress = Callable[[str, int, int], None]
_ROWS = 2_000


class Difference(NamedTuple):
    """How many rows of a table differ from their documents, and in which way."""

    table: str
    without_document: int
    changed: int
    missing: int
    null_keys: int
    #: rows whose merge documents are not what the log says: a damaged file
    damaged: int = 0

    @property
    def total(self) -> int:
        """All rows that a drain would have to write."""
        return self.without_document + self.changed + self.missing


class Verified(NamedTuple):
    """Whether everything held, the digest of all documents (hex), and what did not hold."""

    ok: bool
    state: str
    entries: int
    rows: int
    problems: list[str]
    #: of the entries, those that came with a snapshot and without what stands no more: nobody's signature covers them
    given: int = 0


def no_progress(what: str, done: int, total: int) -> None:
    """Ignore progress."""


def differences(state: State, progress: Progress = no_progress) -> list[Difference]:
    """Compare every row with its document, and the documents of columns that merge with the log. Writes nothing."""
    damaged = damaged_rows(state)
    return [
        _difference(state, tracked, progress)._replace(damaged=damaged.get(tracked.name, 0))
        for tracked in state.tables.values()
        if not tracked.paused and state.misfit(tracked) is None
    ]


def _difference(state: State, tracked: Tracked, progress: Progress) -> Difference:
    layout = Layout.of(tracked)
    names = ", ".join(
        f"{name} AS {mark}" for name, mark in zip(tracked.key_names, tracked.marks, strict=True)
    )
    known = " AND ".join(f"{name} IS NOT NULL" for name in tracked.key_names)
    source = f"SELECT {names}, 0 AS at FROM main.{tracked.quoted} WHERE {known}"
    total = state.connection.execute(f"SELECT count(*) FROM main.{tracked.quoted}").fetchone()[0]
    fresh = changed = done = 0
    with escaping_text(state.connection):
        cursor = state.connection.execute(joined_sql(tracked, source))
        while rows := cursor.fetchmany(_ROWS):
            columns = list(zip(*rows, strict=True))
            digests = hash_rows(columns[layout.cells], len(rows), state.seed)
            for row, digest in zip(rows, digests, strict=True):
                if row[-7] is None or row[-4]:
                    fresh += 1
                elif row[-1] != digest:
                    changed += 1
            done += len(rows)
            progress(tracked.name, done, total)
    missing = state.connection.execute(
        f"SELECT count(*) FROM {tracked.rows_name} r LEFT JOIN main.{tracked.quoted} t "
        f"ON {tracked.same_key('r', 't', right_user=True)} WHERE r.dead = 0 AND t.{tracked.key_names[0]} IS NULL"
    ).fetchone()[0]
    return Difference(
        tracked.name, fresh, changed, missing, capture.rows_with_null_keys(state.connection, tracked)
    )


# --- verify -------------------------------------------------------------------------------------------------------


def verify(state: State, progress: Progress = no_progress) -> Verified:
    """Check all logs and digest all documents, in one snapshot. Writes nothing."""
    connection = state.connection
    connection.execute("BEGIN")
    try:
        state.refresh()
        problems, entries, given = _verify_logs(state, progress)
        digest = hashlib.sha256(b"crdtlog state 1")
        rows = 0
        for tracked in sorted(state.tables.values(), key=lambda item: item.table_id):
            rows += _digest_table(state, tracked, digest.update, problems, progress)
    finally:
        connection.execute("ROLLBACK")
    return Verified(not problems, digest.hexdigest(), entries, rows, problems, given)


def _verify_logs(state: State, progress: Progress) -> tuple[list[str], int, int]:
    """What does not hold, how many entries there are, and how many of them came abridged."""
    problems: list[str] = []
    group = state.group
    keys = dict(state.connection.execute("SELECT id, sign_key FROM crdtlog__device"))
    if not group.is_plain:  # let in by those who could not: they are no members, and what they signed is held
        keys = {d: key for d, key in group.sign_keys().items() if d not in group.found.members} | keys
    total = state.connection.execute("SELECT count(*) FROM crdtlog__log").fetchone()[0]
    heads: dict[int, tuple[int, bytes]] = {}
    vector: dict[bytes, int] = {}
    count = given = 0
    # Bytes are asked for as blobs, so that tampering is found here and not by the driver's decoding of text.
    for number, seq, stored_hash, signed, original in state.connection.execute(
        "SELECT l.writer, l.seq, CAST(l.hash AS BLOB), CAST(l.signed AS BLOB), CAST(o.signed AS BLOB) "
        "FROM crdtlog__log l LEFT JOIN crdtlog__original o ON o.writer = l.writer AND o.seq = l.seq "
        "ORDER BY l.position"
    ):
        count += 1
        log = state.log.by_number[number]
        writer = log.id
        name = f"entry {seq} of writer {writer.hex()[:12]}"
        before = heads.get(number) or (log.first - 1, state.log.hash_at(log, log.first - 1) or b"")
        key = keys.get(device_of(writer))
        try:
            parts = entry.split(original or signed)
            is_abridged = state.log.is_given(number, seq) and parts.hash != stored_hash
            given += is_abridged
            if is_abridged:
                problem = _verify_place(state, entry.decode(parts.body), before, vector)
            else:
                problem = _verify_entry(state, original or signed, key, before, vector, stored_hash)
            if original is not None and not problem:
                problem = _verify_names(state, signed, original, writer, vector)
        except CrdtlogError as error:
            problem = str(error)
        if problem:
            problems.append(f"{name}: {problem}")
        heads[number] = (seq, stored_hash)
        vector[writer] = seq
        progress("log", count, total)
    for writer, head in state.log.heads().items():
        if vector.get(writer) != head.seq:
            problems.append(
                f"writer {writer.hex()[:12]}: the log ends at {vector.get(writer)}, not at {head.seq}"
            )
    return problems + _verify_proofs(state, keys), count, given


def _verify_proofs(state: State, keys: Mapping[bytes, bytes]) -> list[str]:
    """Read once more what proves that logs are forked."""
    problems = []
    for point, digest, signed in proof.entries(state.connection):
        if not signed and state.log.given_position:
            continue  # it came with a snapshot, by its hash alone
        name = f"the proof of a fork at entry {point.seq} of writer {point.writer.hex()[:12]}"
        try:
            parts = entry.split(signed)
            item = entry.decode(parts.body)
            key = keys.get(device_of(point.writer))
            is_signed = key is not None and verify_bytes(key, entry.SIGN_DOMAIN, parts.body, parts.signature)
        except CrdtlogError as error:
            problems.append(f"{name}: {error}")
            continue
        if parts.hash != digest or (item.writer, item.seq, item.previous) != point or not is_signed:
            problems.append(f"{name}: it is not what its device signed")
    return problems


def _verify_names(
    state: State, stored: bytes, original: bytes, writer: bytes, vector: Mapping[bytes, int]
) -> str | None:
    """An entry that is stored with other names in it than its author's says the same."""
    item, signed = (entry.decode(entry.split(each).body) for each in (stored, original))
    if replace(signed, writer=writer, context=item.context, raw_size=0, packed=b"") != replace(
        item, raw_size=0, packed=b""
    ):
        return "it says something else than its author signed"
    if any(vector.get(named.writer, 0) < named.seq for named in item.context):
        return "it stands before what it builds on"
    found = [state.log.resolve(named) for named in signed.context]
    if any(
        log is None or covered.get(log.id, 0) < named.seq
        for covered in [state.log.context(writer, item.seq)]
        for log, named in zip(found, signed.context, strict=True)
    ):
        return "it builds on something else than its author signed"
    return None


def _verify_entry(
    state: State,
    signed: bytes,
    sign_key: bytes | None,
    before: tuple[int, bytes],
    vector: dict[bytes, int],
    stored_hash: bytes,
) -> str | None:
    parts = entry.split(signed)
    if signed != parts.bytes() or parts.hash != stored_hash:
        return "its bytes are not those that were stored"
    if sign_key is None:
        return "its author is not a member"
    if not verify_bytes(sign_key, entry.SIGN_DOMAIN, parts.body, parts.signature):
        return "its signature is wrong"
    return _verify_place(state, entry.decode(parts.body), before, vector)


def _verify_place(
    state: State, item: Entry, before: tuple[int, bytes], vector: Mapping[bytes, int]
) -> str | None:
    if item.database != state.database:
        return "it belongs to another database"
    if (item.seq, item.previous) != (before[0] + 1, before[1]):
        return "it does not continue its log"
    far = [named for named in item.context if vector.get(named.writer, 0) < named.seq]
    found = [state.log.resolve(named) for named in far]
    if any(log is None or vector.get(log.id, 0) < named.seq for log, named in zip(found, far, strict=True)):
        return "it stands before what it builds on"
    return None


def _digest_table(
    state: State, tracked: Tracked, update: Callable[[bytes], None], problems: list[str], progress: Progress
) -> int:
    """Feed every document of a table, in key order, into the digest."""
    update(pack([tracked.table_id, tracked.name]))
    if reason := state.misfit(tracked):
        problems.append(f"table {tracked.name}: its rows cannot be compared with their documents ({reason})")
        return 0
    layout = Layout.of(tracked)
    source = f"SELECT {', '.join(tracked.marks)}, 0 AS at FROM {tracked.rows_name}"
    order = ", ".join(f"r.{mark}" for mark in tracked.marks)
    total = state.connection.execute(f"SELECT count(*) FROM {tracked.rows_name}").fetchone()[0]
    known: dict[Compact, bytes] = {}
    done = 0
    with escaping_text(state.connection):
        losers = _losers(state, tracked)
        cursor = state.connection.execute(f"{joined_sql(tracked, source)} ORDER BY {order}")
        while rows := cursor.fetchmany(_ROWS):
            for row in rows:
                key = normal_key(row[: layout.at], tracked.collations)
                update(_document_bytes(state, tracked, key, row, known, losers))
                if bool(row[layout.present]) == bool(row[-4]):
                    problems.append(
                        f"table {tracked.name}: a row and its document disagree (run `crdtlog check`)"
                    )
            done += len(rows)
            progress(tracked.name, done, total)
    return done


def _losers(state: State, tracked: Tracked) -> dict[bytes, list[Row]]:
    losers: dict[bytes, list[Row]] = {}
    for name, slot, writer, seq, stamp, value in state.connection.execute(
        "SELECT key, slot, writer, seq, stamp, value FROM crdtlog__loser WHERE tab = ? AND slot > 0",
        (tracked.number,),
    ):
        losers.setdefault(pack(name), []).append(
            (slot, state.log.ids[writer], seq, clock.from_sql(stamp), value)
        )
    return losers


def _document_bytes(
    state: State,
    tracked: Tracked,
    key: Key,
    row: Row,
    known: dict[Compact, bytes],
    losers: dict[bytes, list[Row]],
) -> bytes:
    """A document's canonical bytes: its key, every slot's versions by global names, and their values.

    A dead row's values may not be in the file, showing ones least of all; the dots that name them determine them.
    """
    writer, seq, at, dead, _, strata, _ = row[-7:]
    compact = Compact(writer, seq, clock.from_sql(at), bool(dead), strata or b"")
    versions = known.get(compact)
    if versions is None:
        versions = known[compact] = _version_bytes(state, tracked, compact)
    values = None if dead else list(row[Layout.of(tracked).cells])
    lost = sorted(losers.get(pack(document_key(tracked, key)), []), key=lambda loser: loser[:3])
    losing = [[*loser[:-1], None if dead else loser[-1]] for loser in lost]
    return hashlib.sha256(pack([list(key), versions, values, losing])).digest()


def _version_bytes(state: State, tracked: Tracked, compact: Compact) -> bytes:
    whole = document.expand(compact, tracked.slots)

    def name(version: Version) -> list[object]:
        return [state.log.ids[version.writer], version.seq, version.stamp]

    liveness = sorted([*name(version), alive] for version, alive in whole.liveness.items())
    return pack([liveness, [name(whole.showing[slot]) for slot in tracked.slots]])
