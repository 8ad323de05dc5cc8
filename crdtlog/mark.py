"""What of its own log a device may have told others: a mark outside of the file, in its home (R11).

Before own entries are sent, their hashes are appended to the mark, durably. A log that goes on behind its mark is
normal. One that does not hold what the mark names is a restored or copied file's: others may know other entries under
its numbers, so it must go on as a new writer. Copies of one file that one home opens share the mark, so that of two
that write apart only the first goes on.

One file for each writer: for each of its entries, from the first on, the first 8 bytes of its hash, and a checksum of
these and its number.
"""

import fcntl
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from crdtlog.device import Home, private_directory
from crdtlog.errors import KeysUnusable

_HASH_BYTES = 8
_BYTES = _HASH_BYTES + 4


class Mark:
    """The mark of one database in one home. `hash_of` tells the hash of an entry of a log by its number, if held."""

    def __init__(self, home: Home, database: bytes) -> None:
        self._home = home
        self._database = database.hex()

    def read(self, writer: bytes, hash_of: Callable[[int], bytes | None]) -> tuple[int, bool]:
        """How many entries of a writer's log others may know, and whether they may know others than those.

        Raises `KeysUnusable` if the mark cannot be read.
        """
        path = self._path(writer)
        if not path.exists():
            return 0, False
        with self._locked(path) as (file, last):
            # Each entry names the one before it: a log that holds one of these holds all before it.
            low, high = 0, last
            while low < high:
                middle = (low + high + 1) // 2
                if _read(file, path, middle) == _start(hash_of(middle)):
                    low = middle
                else:
                    high = middle - 1
            return low, low < last

    def advance(
        self,
        writer: bytes,
        hash_of: Callable[[int], bytes | None],
        behind: Callable[[int], Sequence[bytes]],
    ) -> int | None:
        """Have the mark stand at a log's end, durable on return; None if others may know another entry.

        `behind` gives the hashes of the entries behind a number. Returns how many entries others may know now.
        """
        path = self._path(writer)
        with self._locked(path) as (file, last):
            if last and _read(file, path, last) != _start(hash_of(last)):
                return None
            news = behind(last)
            if news:
                _write(
                    file, b"".join(map(_record, range(last + 1, last + 1 + len(news)), news)), last * _BYTES
                )
                os.fsync(file)
            return last + len(news)

    def _path(self, writer: bytes) -> Path:
        private_directory(self._home.state / "marks")
        return private_directory(self._home.state / "marks" / self._database) / writer.hex()

    @contextmanager
    def _locked(self, path: Path) -> Iterator[tuple[int, int]]:
        """The mark's file, locked against other processes of this home, and how many entries it names.

        What a crash left of an entry is written over.
        """
        is_new = not path.exists()
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise KeysUnusable(
                f"{path} cannot be opened: {error.strerror}",
                "It tells what this device has sent: make it readable.",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if is_new:
                _sync_directory(path.parent)
            last = os.fstat(file).st_size // _BYTES
            while last and not _is_whole(os.pread(file, _BYTES, (last - 1) * _BYTES), last):
                last -= 1
            yield file, last
        finally:
            os.close(file)


def _start(digest: bytes | None) -> bytes:
    return b"" if digest is None else digest[:_HASH_BYTES]


def _record(seq: int, digest: bytes) -> bytes:
    return digest[:_HASH_BYTES] + zlib.crc32(digest[:_HASH_BYTES], seq).to_bytes(4, "big")


def _is_whole(record: bytes, seq: int) -> bool:
    return record == _record(seq, record)


def _read(file: int, path: Path, seq: int) -> bytes:
    record = os.pread(file, _BYTES, (seq - 1) * _BYTES)
    if not _is_whole(record, seq):
        raise KeysUnusable(
            f"{path} is damaged",
            "It tells what this device has sent. Delete it only if the database was not restored from a backup.",
        )
    return record[:_HASH_BYTES]


def _write(file: int, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, at)
        left, at = left[written:], at + written


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
