"""Appends that are committed together: a commit costs as much for a thousand blobs as for one.

Knows counters and quotas of mailboxes, and how to wait. Must not know a database. The one idea: while one batch is
being committed, the next gathers; whoever waits gets an answer after the commit that holds its blob.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from peers.relay.refusals import Code, Refused, refused
from peers.relay.store import Appended, Page, Quota

logger = logging.getLogger(__name__)

BATCH_BLOBS = 1_000
BATCH_BYTES = 16 << 20
WAITING_BYTES = 128 << 20
"""More blobs than these bytes do not wait: whoever comes then is told to come back."""
STORE_RETRY_S = 2
FULL_RETRY_S = 3_600


class Waiting(NamedTuple):
    """An append that was asked for: into which mailbox, what, and when (Unix seconds)."""

    mailbox: bytes
    blob: bytes
    now: int


@dataclass(slots=True)
class Kept:
    """A mailbox's row: its life and counters, and the time of its oldest blob (None while it is empty)."""

    life: bytes
    first: int = 1
    last: int = 0
    blobs: int = 0
    bytes: int = 0
    oldest: int | None = None


Placed = Appended | Refused


def place(batch: Sequence[Waiting], kept: dict[bytes, Kept], quota: Quota, free_bytes: int) -> list[Placed]:
    """Give each append its index, or the reason why not, and count it in `kept`, which holds a row for each mailbox.

    `free_bytes` is what the whole store may still take.
    """
    return [_place(waiting, kept[waiting.mailbox], quota, free_bytes) for waiting in batch]


def _place(waiting: Waiting, row: Kept, quota: Quota, free_bytes: int) -> Placed:
    size = len(waiting.blob)
    if row.bytes + size > quota.mailbox_bytes or row.blobs >= quota.mailbox_blobs:
        return refused(Code.MAILBOX_FULL, "the mailbox is full", temporary=True, retry_after_s=FULL_RETRY_S)
    if size > free_bytes:
        return refused(Code.RELAY_FULL, "the relay is full", temporary=True, retry_after_s=FULL_RETRY_S)
    row.last += 1
    row.blobs += 1
    row.bytes += size
    if row.oldest is None:
        row.oldest = waiting.now
    return Appended(row.last, row.last == 1)


class Expiring(NamedTuple):
    """What expires of a mailbox: how many blobs and bytes; then the lowest index kept and that blob's time."""

    blobs: int
    bytes: int
    first: int
    oldest: int | None


def expiring(rows: Sequence[tuple[int, int, int]], last: int, cutoff: int) -> Expiring:
    """What of a mailbox's foremost (index, time, bytes) is older than `cutoff`.

    Only from the front, up to the first that is not: should a relay's clock be wrong, none is dropped before its time.
    The last of the rows given always stays, unless it is the mailbox's last.
    """
    blobs = size = 0
    for index, at, length in rows:
        if at >= cutoff or (blobs == len(rows) - 1 and index < last):
            return Expiring(blobs, size, index, at)
        blobs += 1
        size += length
    return Expiring(blobs, size, last + 1, None)


def page(first: int, last: int, rows: Iterable[tuple[int, bytes]], max_bytes: int) -> Page:
    """As many of the rows as fit, at least one."""
    taken: list[tuple[int, bytes]] = []
    size = 0
    for index, blob in rows:
        if taken and size + len(blob) > max_bytes:
            break
        taken.append((index, blob))
        size += len(blob)
    return Page(first, tuple(taken), not taken or taken[-1][0] >= last)


def unavailable(why: str) -> Refused:
    """The refusal of whatever needs a store that does not work at the moment."""
    return refused(
        Code.STORE, f"the relay's store {why}; try again", temporary=True, retry_after_s=STORE_RETRY_S
    )


Commit = Callable[[Sequence[Waiting]], Awaitable[Sequence[Placed]]]


class Batcher:
    """Gathers appends and commits them, one batch after the other, in the order in which they came."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._waiting: deque[tuple[Waiting, asyncio.Future[Appended]]] = deque()
        self._bytes = 0
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    def append(self, waiting: Waiting) -> "asyncio.Future[Appended]":
        """The answer to come. Raises `Refused` where too many wait."""
        if self._closed:
            raise unavailable("is being closed")
        if self._bytes and self._bytes + len(waiting.blob) > WAITING_BYTES:
            raise unavailable("is busy")
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append((waiting, answer))
        self._bytes += len(waiting.blob)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="appends")
        return answer

    async def close(self) -> None:
        """Commit what waits; take nothing more."""
        self._closed = True
        if self._worker is not None:
            await self._worker

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = self._next()
                try:
                    placed = await self._commit([waiting for waiting, _ in batch])
                except Refused as error:
                    placed = [error] * len(batch)
                except Exception as error:
                    logger.exception("a batch of appends failed")
                    placed = [unavailable(f"met a fault ({type(error).__name__})")] * len(batch)
                for (waiting, answer), result in zip(batch, placed, strict=True):
                    self._bytes -= len(waiting.blob)
                    _answer(answer, result)
        finally:
            self._worker = None

    def _next(self) -> list[tuple[Waiting, "asyncio.Future[Appended]"]]:
        batch = [self._waiting.popleft()]
        size = len(batch[0][0].blob)
        while self._waiting and len(batch) < BATCH_BLOBS:
            size += len(self._waiting[0][0].blob)
            if size > BATCH_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch


def _answer(answer: "asyncio.Future[Appended]", result: Placed) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):  # nobody waits for it any more
        if isinstance(result, Refused):
            answer.set_exception(result)
        else:
            answer.set_result(result)
