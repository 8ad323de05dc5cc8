"""What this device may tell others of its own log, and what it does when they may know another (R11).

Joins the mark outside of the file (`mark`) with the log inside, and with writing anew (`reauthoring`).
"""

from collections.abc import Callable

from crdtlog.clock import stamp_ms
from crdtlog.device import Home, new_writer
from crdtlog.drain import Drainer
from crdtlog.mark import Mark
from crdtlog.reauthoring import reauthor
from crdtlog.state import State

_MOST_UNCONFIRMED = 10_000
_CLOCK_TOLERANCE_MS = 5 * 60 * 1000


class Telling:
    """The own log of one open file, as far as others may know it."""

    def __init__(self, state: State, home: Home) -> None:
        self._state = state
        self._mark = Mark(home, state.database)
        #: a writer of this device, and how many of its entries others may know
        self._confirmed = (b"", 0)

    def is_behind(self) -> bool:
        """Whether others may know more of this log, or another, than it holds: to be asked when a file is opened."""
        own = self._state.writer
        known, is_behind = self._mark.read(own.id, self._hash_of)
        self._confirmed = (own.id, known)
        return is_behind

    def confirm(self) -> bool:
        """See `Database.confirm`."""
        self._state.refresh()
        own = self._state.writer
        if self._confirmed != (own.id, own.seq):
            known = self._mark.advance(own.id, self._hash_of, self._hashes_behind)
            if known is None:
                return False
            self._confirmed = (own.id, known)
        return True

    def unconfirmed(self) -> dict[int, bytes]:
        """See `Database.unconfirmed`."""
        own = self._state.writer
        writer, known = self._confirmed
        return dict(
            self._state.connection.execute(
                "SELECT seq, hash FROM crdtlog__log WHERE writer = ? AND seq > ? ORDER BY seq DESC LIMIT ?",
                (own.number, known if writer == own.id else 0, _MOST_UNCONFIRMED),
            )
        )

    def begin_anew_if_ahead(self, peer_ms: int, drain_all: Callable[[], object]) -> bool:
        """See `Database.begin_anew_if_ahead`."""
        state = self._state
        state.refresh()
        if stamp_ms(state.writer.last_stamp) <= max(state.now_ms(), peer_ms) + _CLOCK_TOLERANCE_MS:
            return False
        drain_all()
        with state.transaction():
            state.become(new_writer(state.device))
        return True

    def begin_anew(self, drainer: Drainer) -> int:
        """See `Database.begin_anew`; everything captured has been drained."""
        state = self._state
        state.warm(state.tables.values())
        known, _ = self._mark.read(state.writer.id, self._hash_of)
        with state.transaction():
            return reauthor(state, drainer, known + 1, new_writer(state.device))

    def _hash_of(self, seq: int) -> bytes | None:
        return self._state.log.hash_of(self._state.writer.number, seq)

    def _hashes_behind(self, seq: int) -> list[bytes]:
        sql = "SELECT hash FROM crdtlog__log WHERE writer = ? AND seq > ? ORDER BY seq"
        return [digest for (digest,) in self._state.connection.execute(sql, (self._state.writer.number, seq))]
