"""Where a relay keeps blobs: what every store promises, whichever database is behind it.

Knows the promises. Must not know sockets, signatures or rates. The one idea: a mailbox is a counter and a run of blobs;
an index is given once, in order and without gaps, and only when the blob under it is durable.

Promises, which `tests/contracts/relay_store.py` checks on every store:

- `append` returns after the blob survives a crash of the relay, the store and the machine. Appends to one mailbox that
  were begun in an order through one store object get their indexes in that order. One that raises `Refused` has left
  no blob behind, except that of `Code.STORE` nobody may know: the blob may be there, under some index.
- Indexes of a mailbox are 1, 2, 3 … over all stores that share one database. Whoever reads a blob can read all before
  it that are kept.
- `changed(mailbox)` is called in the event loop after new blobs of a watched mailbox can be read, by whichever relay
  they came. It may be called too often. Should a message between relays be lost, it is called within `POLL_SECONDS`.
- Blobs are dropped from the front, and never before their time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

POLL_SECONDS = 10.0
"""So long a new blob may remain unnoticed by other relays on the same database if no message of it arrives."""

Changed = Callable[[bytes], None]


class Quota(NamedTuple):
    """What one mailbox may hold, and the whole store (in bytes of blobs)."""

    mailbox_bytes: int = 256 << 20
    mailbox_blobs: int = 100_000
    store_bytes: int = 1 << 40


class State(NamedTuple):
    """A mailbox: its life (16 random bytes drawn when it began), and the lowest and highest index kept."""

    life: bytes
    first: int
    last: int


class Page(NamedTuple):
    """Blobs that were read: the lowest index kept, (index, blob) in order, and whether nothing more is there."""

    first: int
    blobs: tuple[tuple[int, bytes], ...]
    end: bool


class Appended(NamedTuple):
    """The index that a blob was given, and whether it was the first ever of its mailbox."""

    number: int
    created: bool


class Usage(NamedTuple):
    """What a store holds. May be some minutes old."""

    mailboxes: int
    blobs: int
    bytes: int


class Store(ABC):
    """A store of mailboxes. All times are Unix seconds.

    Every method but `start` and `watch` raises `Refused` with `Code.STORE`, temporary, while the database cannot be
    reached or written.
    """

    @abstractmethod
    async def start(self, changed: Changed) -> None:
        """Open the store, and make what it needs. Raises `CrdtlogError` if it cannot be used at all."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was begun, and close."""

    @abstractmethod
    async def append(self, mailbox: bytes, blob: bytes, now: int) -> Appended:
        """Put a blob at the end of a mailbox, which begins with it if need be.

        Raises `Refused`: `MAILBOX_FULL` or `RELAY_FULL` (temporary: blobs expire), `STORE`.
        """

    @abstractmethod
    async def read(self, mailbox: bytes, after: int, max_bytes: int) -> Page:
        """Blobs with an index above `after`, of `max_bytes` together: at least one if there is any."""

    @abstractmethod
    async def state(self, mailbox: bytes, now: int) -> State | None:
        """What is kept of a mailbox, None if nothing was ever appended.

        Asking counts as using: an empty mailbox is not forgotten (see `expire`).
        """

    @abstractmethod
    def watch(self, mailbox: bytes, *, wanted: bool) -> None:
        """Begin or cease to call `changed` for a mailbox."""

    @abstractmethod
    async def usage(self) -> Usage:
        """What the whole store holds."""

    @abstractmethod
    async def expire(self, now: int, ttl_s: int) -> int:
        """Drop blobs that are older, and return how many.

        Mailboxes that are empty, and were neither used nor watched for twice that time, are forgotten: their next blob
        has index 1, and they have another life.
        """

    @abstractmethod
    async def check(self) -> None:
        """Return if the store answers."""
