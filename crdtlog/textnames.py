"""The clients of a text's document, as an entry's author calls them and as they are called here (see `naming`).

A client is a writer editing one document (`kinds.yjs`), and has a name made of both. What stands at a fork has other
names for both here; and two copies of a home go on as one client, from one clock. Where a log that left another one
first wrote into a document is kept (`crdtlog__edge`), in its author's clocks: from there on the client is that log's.
"""

import hashlib
from typing import NamedTuple

from crdtlog.kinds import yjs, yjsnames
from crdtlog.log import Log
from crdtlog.texts import split_lane, with_lane
from crdtlog.values import Key, pack
from crdtlog.writers import Writer

Dot = tuple[bytes, int]


class Place(NamedTuple):
    """A cell."""

    table: bytes
    key: Key
    slot: int


class Clients:
    """How one entry's author calls the clients of a document, and how they are called here.

    `begun` is the write that began the document, in the author's names and in ours; `names` are the names by which the
    author calls logs that have another one here, its own included.
    """

    def __init__(self, log: Log, place: Place, begun: tuple[Dot, Dot], names: dict[bytes, Writer]) -> None:
        self._log = log
        self._theirs, self._ours = begun
        self._names = names
        self._document = hashlib.sha256(pack([*place[:1], list(place.key), place.slot, *self._ours])).digest()

    def renamed(self, patch: bytes, own: Writer, seq: int) -> bytes:
        """A patch in an entry of the log `own`. Raises `Malformed`."""
        lane, update = split_lane(patch)
        clock = yjsnames.first_clock(update)
        if clock is not None and own.parent is not None:
            self._note_edge(own, lane, seq, clock)
        pieces = self._pieces(lane)
        return with_lane(lane, yjsnames.renamed(update, pieces)) if pieces else patch

    def _pieces(self, lane: bytes) -> dict[int, list[tuple[int, int]]]:
        edges = self._edges()
        lanes = {b"", lane, *(known for _, known in edges)}
        found: dict[int, list[tuple[int, int]]] = {}
        if self._theirs != self._ours:
            found[yjs.start_client(self._theirs)] = [(0, yjs.start_client(self._ours))]
            for log in self._log.writers.values():
                for each in lanes:
                    found[self._client(log.id, each)] = [(0, yjs.edit_client(self._ours, log.id + each))]
        for name, log in self._names.items():
            for each in lanes:
                found[self._client(name, each)] = self._history(log, each, edges)
        return found

    def _edges(self) -> dict[tuple[int, bytes], int]:
        """Where logs that left others first wrote into the document, by number and lane."""
        rows = self._log.connection.execute(
            "SELECT writer, lane, clock FROM crdtlog__edge WHERE document = ?", (self._document,)
        )
        return {(number, lane): clock for number, lane, clock in rows}

    def _note_edge(self, log: Writer, lane: bytes, seq: int, clock: int) -> None:
        """A log that left another one writes into the document; the first time counts."""
        self._log.connection.execute(
            "INSERT OR IGNORE INTO crdtlog__edge VALUES (?, ?, ?, ?, ?)",
            (self._document, log.number, lane, seq, clock),
        )

    def _client(self, name: bytes, lane: bytes) -> int:
        return yjs.edit_client(self._theirs, name + lane)

    def _history(
        self, log: Writer, lane: bytes, edges: dict[tuple[int, bytes], int]
    ) -> list[tuple[int, int]]:
        """From which clock on a client is which log's, the log that others left first."""
        found: list[tuple[int, int]] = []
        at: Writer | None = log
        while at is not None:
            edge = 0 if at.parent is None else edges.get((at.number, lane))
            if edge is not None:
                found.append((edge, yjs.edit_client(self._ours, at.id + lane)))
            at = at.parent
        return found[::-1]
