"""Which entries a mailbox is known to hold, and at which indexes, in few numbers.

Knows dots and indexes. Must not know entries. The one idea: entries of one log that were appended one after the other
are one run with the index of its first; when the relay drops blobs from the front, runs that began there count as lost
as a whole: that is at worst some more to upload.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from crdtlog.errors import Malformed
from crdtlog.values import check_ints
from crdtlog.versions import MAX_SEQ, WRITER_BYTES

MAX_RUN = 256


class Holding:
    """Runs `[first, last, lowest index]` of each log, ascending and apart."""

    def __init__(self) -> None:
        self._runs: dict[bytes, list[list[int]]] = {}
        self._begins: Mapping[bytes, int] = {}
        self._vector: dict[bytes, int] | None = {}
        self._spared: Mapping[bytes, int] = {}
        self.changes = 0
        """Counts what was noted or lost."""

    def spare(self, vector: Mapping[bytes, int]) -> None:
        """The entries up to these do not belong into the mailbox, and count as being there."""
        if vector != self._spared:
            self._spared = dict(vector)
            self._changed()

    def note(self, writer: bytes, seq: int, index: int) -> bool:
        """The entry is in the mailbox, at that index; False if that was known."""
        runs = self._runs.setdefault(writer, [])
        place = bisect_right(runs, [seq, MAX_SEQ, MAX_SEQ])
        before = runs[place - 1] if place else None
        if before is not None and seq <= before[1]:
            return False
        is_next = before is not None and seq == before[1] + 1 and index >= before[2]
        if before is not None and is_next and seq - before[0] < MAX_RUN:
            before[1] = seq
        else:
            runs.insert(place, [seq, seq, index])
        self._changed()
        return True

    def __bool__(self) -> bool:
        return any(self._runs.values())

    def has(self, writer: bytes, seq: int) -> bool:
        """Whether the entry is known to be there."""
        if seq <= self._spared.get(writer, 0):
            return True
        runs = self._runs.get(writer, [])
        place = bisect_right(runs, [seq, MAX_SEQ, MAX_SEQ])
        return place > 0 and seq <= runs[place - 1][1]

    def logs(self) -> list[bytes]:
        """The logs of which something is there."""
        return [writer for writer, runs in self._runs.items() if runs]

    def vector(self) -> Mapping[bytes, int]:
        """Of each log, up to which entry it is there without a gap from the first."""
        if self._vector is None:
            self._vector = {
                writer: _reach(
                    self._runs.get(writer, ()),
                    max(self._begins.get(writer, 1) - 1, self._spared.get(writer, 0)),
                )
                for writer in self._runs.keys() | self._begins.keys() | self._spared.keys()
            }
        return self._vector

    def begin(self, begins: Mapping[bytes, int]) -> None:
        """Some logs begin with a later entry than the first: what is before it is another log's."""
        self._begins = begins
        self._changed()

    def lose_before(self, index: int) -> None:
        """The relay has dropped what was below that index."""
        for writer, runs in list(self._runs.items()):
            kept = [run for run in runs if run[2] >= index]
            if len(kept) != len(runs):
                self._runs[writer] = kept
                self._changed()

    def clear(self) -> None:
        """Nothing is known to be there."""
        self._runs.clear()
        self._changed()

    def dump(self) -> list[object]:
        """What `load` reads."""
        return [[writer, [list(run) for run in runs]] for writer, runs in sorted(self._runs.items())]

    @classmethod
    def load(cls, dumped: object) -> "Holding":
        """What was dumped. Raises `Malformed` for anything else."""
        found = cls()
        if not isinstance(dumped, list):
            raise Malformed("logs with their runs are an array")
        for item in dumped:
            match item:
                case [bytes(writer), list(runs)] if len(writer) == WRITER_BYTES:
                    found._runs[writer] = _checked(runs)
                case _:
                    raise Malformed("a log with its runs is a pair")
        found._changed()
        return found

    def _changed(self) -> None:
        self._vector = None
        self.changes += 1


def _reach(runs: Iterable[Sequence[int]], before: int) -> int:
    reached = before
    for first, last, _ in runs:
        if first > reached + 1:
            break
        reached = max(reached, last)
    return reached


def _checked(runs: list[object]) -> list[list[int]]:
    """Runs that ascend and are apart. Raises `Malformed`."""
    found: list[list[int]] = []
    for run in runs:
        first, last, index = (*check_ints(run, 1, MAX_SEQ, "run"), 0, 0, 0)[:3]
        if not (found[-1][1] if found else 0) < first <= last or not index:
            raise Malformed("runs of a log ascend, with three numbers each")
        found.append([first, last, index])
    return found
