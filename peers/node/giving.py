"""Giving a device that was let in without history what stands now: once for each that asks, from this device's file.

Knows when a device is to be given a snapshot. Must not know how it travels. The one idea: it is made whole, of one
moment, before any of it is sent, so that the file is not kept busy by a slow connection.
"""

import asyncio
import tempfile
from typing import IO

from crdtlog.database import Database
from crdtlog.errors import Busy
from crdtlog.log import Batch, LogEntry
from crdtlog.values import pack, unpack
from peers.node.files import SharedFile

MEMORY_BYTES = 16 << 20
"""A larger snapshot rests in a temporary file, which nobody else can open, while it is sent."""
ATTEMPTS = 20
PAUSE_SECONDS = 0.1


class Snapshot:
    """A snapshot on its way, as a log of its own."""

    def __init__(self) -> None:
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 (closed by `close`)
        self._places: list[tuple[int, int]] = []

    def add(self, part: LogEntry) -> None:
        """Have one more part."""
        packed = pack([part.writer, part.seq, part.kind, part.signed])
        self._places.append((self._spool.tell(), len(packed)))
        self._spool.write(packed)

    def batch(self, after: int, max_bytes: int) -> Batch:
        """Some parts behind the first `after`, at least one if there is any; its position counts parts."""
        found: list[LogEntry] = []
        size = 0
        for at, length in self._places[after:]:
            if found and size + length > max_bytes:
                break
            self._spool.seek(at)
            found.append(LogEntry(0, *unpack(self._spool.read(length))))
            size += length
        done = after + len(found)
        return Batch(found, done, done == len(self._places))

    def close(self) -> None:
        """Forget all of it."""
        self._spool.close()


async def snapshot(file: SharedFile) -> Snapshot | None:
    """A snapshot of a file; None if others may know other entries of this device than the file holds (R11).

    Raises `Busy` if programs write without a pause, `TablePaused`.
    """
    attempt = 0
    await file.flush_held()  # what others have needs not go along
    while True:
        await file.drain()
        try:
            return await file.run(_made)
        except Busy:
            attempt += 1
            if attempt == ATTEMPTS:
                raise
        await asyncio.sleep(PAUSE_SECONDS)


def _made(engine: Database) -> Snapshot | None:
    made = Snapshot()
    try:
        for part in engine.snapshot_parts():
            made.add(part)
        if engine.confirm():  # what is sent must be marked before
            return made
    except BaseException:
        made.close()
        raise
    made.close()
    return None
