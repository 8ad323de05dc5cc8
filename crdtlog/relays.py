"""What a file remembers of relays: which ones its devices use, and how far each of their mailboxes was read.

Rests in the file and not in the home: a file that is restored from a backup remembers what it had read then, so that
reading goes on from there. The tables are made when the first relay is used.
"""

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from crdtlog import entry, forks, proof
from crdtlog.errors import CrdtlogError, EntryRefused, Malformed, TooLarge
from crdtlog.forks import Stand
from crdtlog.holding import read_entry
from crdtlog.state import State
from crdtlog.versions import Named, device_of

_TABLES = (
    "CREATE TABLE crdtlog__relay (url TEXT PRIMARY KEY, since_ms INTEGER) WITHOUT ROWID",
    "CREATE TABLE crdtlog__mailbox (relay TEXT, mailbox BLOB, state BLOB, PRIMARY KEY (relay, mailbox)) WITHOUT ROWID",
)


class Place(NamedTuple):
    """Where a signed entry stands that is in a mailbox, and what the log that holds it is called here, if one does.

    `is_whole` tells of a held one that its bytes are those which this device would send: with a proof, if one is due.
    """

    stand: Stand
    log: bytes = b""
    is_whole: bool = False


class Relays:
    """The relays of one open file."""

    def __init__(self, state: State) -> None:
        self._state = state

    def urls(self) -> list[str]:
        """The relays in use, the first one first."""
        if not _exist(self._state.connection):
            return []
        rows = self._state.connection.execute("SELECT url FROM crdtlog__relay ORDER BY since_ms, url")
        return [url for (url,) in rows]

    def add(self, url: str) -> None:
        """Use one more relay from now on."""
        with self._state.transaction():
            if not _exist(self._state.connection):
                for statement in _TABLES:
                    self._state.connection.execute(statement)
            self._state.connection.execute(
                "INSERT OR IGNORE INTO crdtlog__relay VALUES (?, ?)", (url, self._state.now_ms())
            )

    def forget(self, url: str) -> None:
        """Use a relay no more, and forget what was read of it."""
        if not _exist(self._state.connection):
            return
        with self._state.transaction():
            self._state.connection.execute("DELETE FROM crdtlog__relay WHERE url = ?", (url,))
            self._state.connection.execute("DELETE FROM crdtlog__mailbox WHERE relay = ?", (url,))

    def mailbox(self, url: str, mailbox: bytes) -> bytes | None:
        """What was last saved of a mailbox at a relay; None if nothing was."""
        row = self._state.connection.execute(
            "SELECT state FROM crdtlog__mailbox WHERE relay = ? AND mailbox = ?", (url, mailbox)
        ).fetchone()
        return row[0] if row else None

    def save(self, url: str, mailbox: bytes, saved: bytes) -> None:
        """Remember how far a mailbox at a relay was read; durable on return, unless the relay was forgotten."""
        with self._state.transaction():
            self._state.connection.execute(
                "INSERT OR REPLACE INTO crdtlog__mailbox SELECT url, ?, ? FROM crdtlog__relay WHERE url = ?",
                (mailbox, saved, url),
            )

    # --- what is asked of the log for mailboxes -------------------------------------------------------------------

    def place(self, signed: bytes) -> Place:
        """Where an entry stands, by its bytes as they are in a mailbox. For those not held the signature is verified.

        Raises `EntryRefused`, `Malformed`, `TooLarge` for one that can never be taken in.
        """
        state = self._state
        split, _ = proof.split(signed)
        item = entry.decode(split.body)
        stand, log = forks.stand(state.log, item, split.hash)
        if log is not None:
            # Its hash does not cover the signature, which somebody may have spoilt.
            if split.bytes() != state.log.original(log.number, item.seq):
                raise EntryRefused("its signature is not the one that is held")
            return Place(stand, log.id, signed == state.log.as_sent(log, item.seq, split.hash))
        read_entry(state, signed)
        if stand is Stand.BESIDE:
            forks.check_room(state, device_of(item.writer))
        return Place(stand)

    def places(self, entries: Iterable[bytes]) -> list[Place | CrdtlogError]:
        """Of each entry what `place` gives or raises."""
        self._state.refresh()
        found: list[Place | CrdtlogError] = []
        for signed in entries:
            try:
                found.append(self.place(signed))
            except (EntryRefused, Malformed, TooLarge) as error:
                found.append(error)
        return found

    def held(self, named: Iterable[Named]) -> set[Named]:
        """Those that are held, by their hashes, whatever their logs are called here."""
        self._state.refresh()
        return {each for each in named if self._state.log.resolve(each) is not None}

    def is_admitted(self) -> bool:
        """Whether the record that made this device a member is applied, and with it all that its author had."""
        row = self._state.connection.execute(
            "SELECT confirmed FROM crdtlog__device WHERE id = ?", (self._state.device.id,)
        ).fetchone()
        return bool(row and row[0])

    def seen(self) -> dict[bytes, dict[bytes, int]]:
        """What each device had when it wrote its last entry that is held here: device → writer → sequence number."""
        self._state.refresh()
        found: dict[bytes, dict[bytes, int]] = {}
        for writer in self._state.log.writers.values():
            if not writer.seq:
                continue
            seen = found.setdefault(device_of(writer.id), {})
            for other, seq in (*writer.context.items(), (writer.id, writer.seq)):
                seen[other] = max(seq, seen.get(other, 0))
        return found


def _exist(connection: sqlite3.Connection) -> bool:
    return (
        connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'crdtlog__mailbox'").fetchone()
        is not None
    )
