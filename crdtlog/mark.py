"""What of its own log a device may have told others: a mark outside of the file, in its home (R11).

Before an own entry is sent, the log's end is written to the mark, durably. A file whose log ends behind its mark is
normal. A log that does not hold the mark's entry is a restored or copied file's: others may know other entries under
its numbers, so it must go on as a new writer. Copies of one file that one home opens share the mark, so that of two
that write apart only the first goes on.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from crdtlog.device import Home, private_directory, read_private, write_private
from crdtlog.entry import HASH_BYTES
from crdtlog.errors import KeysUnusable, Malformed
from crdtlog.values import pack, unpack
from crdtlog.versions import MAX_SEQ, WRITER_BYTES, Head

_MAX_BYTES = 1 << 20
#: Writers of this device whose marks are kept, the last ones that sent something; and how many marks of each.
_MOST = 500
_TRAIL = 16


Fits = Callable[[Head], bool]
"""Whether a log holds an entry."""


class Mark:
    """The mark of one database in one home."""

    def __init__(self, home: Home, database: bytes) -> None:
        self._home = home
        self._name = f"{database.hex()}.mark"

    def read(self, writer: bytes, fits: Fits) -> tuple[int, bool]:
        """The last entry of a writer's log that others may know (0: none), and whether they may know others than it.

        Raises `KeysUnusable` if the mark cannot be read.
        """
        trail = self._marks().get(writer, [])
        known = next((head.seq for head in reversed(trail) if fits(head)), 0)
        return known, bool(trail) and known != trail[-1].seq

    def advance(self, writer: bytes, head: Head, fits: Fits) -> bool:
        """Have the mark stand at the log's end, durable on return; False if others may know another entry."""
        with self._locked():
            marks = self._marks()
            trail = marks.pop(writer, [])
            if trail and not fits(trail[-1]):
                return False
            if not trail or trail[-1] != head:
                marks[writer] = [*trail, head][-_TRAIL:]
                items = [[name, list(map(list, some))] for name, some in list(marks.items())[-_MOST:]]
                write_private(self._path, pack(items))
            return True

    @property
    def _path(self) -> Path:
        return private_directory(self._home.state / "marks") / self._name

    def _marks(self) -> dict[bytes, list[Head]]:
        try:
            return _decoded(unpack(read_private(self._path, _MAX_BYTES)))
        except FileNotFoundError:
            return {}
        except Malformed:
            raise KeysUnusable(
                f"{self._path} is damaged",
                "It tells what this device has sent. Delete it only if the database was not restored from a backup.",
            ) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the mark, among the processes of this home."""
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _decoded(items: object) -> dict[bytes, list[Head]]:
    if not isinstance(items, list):
        raise Malformed("marks are an array")
    marks: dict[bytes, list[Head]] = {}
    for item in items:
        match item:
            case [bytes(writer), [*trail]] if len(writer) == WRITER_BYTES:
                marks[writer] = [_head(head) for head in trail]
            case _:
                raise Malformed("marks are of writers")
    return marks


def _head(item: object) -> Head:
    match item:
        case [int(seq), bytes(digest)] if 0 < seq <= MAX_SEQ and len(digest) == HASH_BYTES:
            return Head(seq, digest)
    raise Malformed("a mark is a sequence number and a hash")
