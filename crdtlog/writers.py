"""One writer's log as the file knows it, and what logs are called by the authors of others.

A log that left another one at a fork has a name that its author does not use (see `naming`); where an author's names
mean other logs than here, that is remembered.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

from crdtlog.versions import Head


@dataclass(slots=True)
class Writer:
    """One log: local number, global id, last entry, and the context of that entry as writer id → sequence number.

    `applied` is the number of the last entry that is merged into documents and rows. A log that left another one at a
    fork (see `forks`) has entries of its own from `first` on; those before are its `parent`'s.
    """

    number: int
    id: bytes
    seq: int = 0
    hash: bytes = b""
    last_stamp: int = 0
    context: dict[bytes, int] = field(default_factory=dict)
    applied: int = 0
    first: int = 1
    parent: "Writer | None" = None

    def owner(self, seq: int) -> "Writer":
        """The log in which that entry of this log's history is stored."""
        log = self
        while seq < log.first and log.parent is not None:
            log = log.parent
        return log

    @property
    def head(self) -> Head:
        """The log's last entry."""
        return Head(self.seq, self.hash)


class Called:
    """Of some logs, from which entry on their author says a name and means a log of another one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._said: dict[int, list[tuple[int, bytes, Writer]]] = {}

    def load(self, by_number: Mapping[int, Writer]) -> None:
        """Read all of it from the file."""
        self._said = {}
        for number, seq, name, meant in self._connection.execute(
            "SELECT writer, seq, name, meant FROM crdtlog__said ORDER BY seq"
        ):
            self._said.setdefault(number, []).append((seq, name, by_number[meant]))

    def by(self, log: Writer, seq: int) -> dict[bytes, Writer]:
        """The names by which the author of an entry calls other logs than are called so here."""
        found = self.by(log.parent, min(seq, log.first - 1)) if log.parent is not None else {}
        for at, name, meant in self._said.get(log.number, ()):
            if at <= seq:
                found[name] = meant
        return found

    def is_other(self, log: Writer) -> bool:
        """Whether a log's author ever called another log by a name that means something else here."""
        return log.number in self._said

    def note(self, log: Writer, seq: int, name: bytes, meant: Writer, here: Writer | None) -> None:
        """From that entry on, a log's author means another log by a name, or again the one `here` that is called so."""
        if self.by(log, seq).get(name, here) is not meant:
            self._said.setdefault(log.number, []).append((seq, name, meant))
            self._connection.execute(
                "INSERT OR REPLACE INTO crdtlog__said VALUES (?, ?, ?, ?)",
                (log.number, seq, name, meant.number),
            )
