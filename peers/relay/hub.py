"""Who waits for new blobs of which mailbox, and reading them once for all who wait.

Knows mailboxes and whom to wake. Must not know connections or protocols. The one idea: a subscriber at rest costs a
place in a set and no task; when a blob arrives, those who stand at the same index share one read and one frame.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from peers.relay.messages import Blobs, encode
from peers.relay.store import Page, Store

Wake = Callable[[bytes], None]


class Pushed(NamedTuple):
    """A page as it is pushed: its frame, and what was put into it."""

    frame: bytes
    page: Page


class Hub:
    """Wakes subscribers. `changed` is what the store calls."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[bytes, set[Wake]] = {}
        self._reading: dict[bytes, dict[tuple[int, int], asyncio.Task[Pushed]]] = {}
        self.subscriptions = 0

    def add(self, mailbox: bytes, wake: Wake) -> None:
        """Call `wake(mailbox)` whenever something may be new there."""
        waiting = self._waiting.setdefault(mailbox, set())
        if not waiting:
            self._store.watch(mailbox, wanted=True)
        if wake not in waiting:
            waiting.add(wake)
            self.subscriptions += 1

    def remove(self, mailbox: bytes, wake: Wake) -> None:
        """Do so no longer."""
        waiting = self._waiting.get(mailbox, set())
        if wake in waiting:
            waiting.discard(wake)
            self.subscriptions -= 1
        if not waiting:
            self._waiting.pop(mailbox, None)
            self._store.watch(mailbox, wanted=False)

    def changed(self, mailbox: bytes) -> None:
        """Something may be new in a mailbox."""
        self._reading.pop(mailbox, None)  # a read that has begun may not see it: nobody else joins that
        for wake in tuple(self._waiting.get(mailbox, ())):
            wake(mailbox)

    async def read(self, mailbox: bytes, after: int, max_bytes: int) -> Pushed:
        """A page to push. Raises `Refused`."""
        reads = self._reading.setdefault(mailbox, {})
        key = after, max_bytes
        task = reads.get(key)
        if task is None:
            task = reads[key] = asyncio.create_task(self._read(mailbox, after, max_bytes))
            task.add_done_callback(lambda done: self._done(mailbox, key, done))
        return await asyncio.shield(task)

    async def _read(self, mailbox: bytes, after: int, max_bytes: int) -> Pushed:
        page = await self._store.read(mailbox, after, max_bytes)
        return Pushed(encode(Blobs(None, mailbox, page.first, page.blobs, page.end)), page)

    def _done(self, mailbox: bytes, key: tuple[int, int], task: "asyncio.Task[Pushed]") -> None:
        reads = self._reading.get(mailbox)
        if reads is not None and reads.get(key) is task:
            del reads[key]
            if not reads:
                del self._reading[mailbox]
        if not task.cancelled():
            task.exception()  # whoever waited has got it; nobody may be left
