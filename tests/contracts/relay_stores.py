"""Every store of a relay, made fresh for one test each."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

from peers.relay.sqlite_store import SqliteStore
from peers.relay.store import Quota, Store


class Maker(Protocol):
    """Makes stores over one database, which outlives them: `await maker(quota)` is started."""

    shared: bool
    """Whether several stores may use the database at once."""

    def opened(
        self, quota: Quota | None = None, changed: Callable[[bytes], None] | None = None
    ) -> contextlib.AbstractAsyncContextManager[Store]:
        """A store, which is closed at the end."""


class SqliteMaker:
    """SQLite in a file of the test's."""

    shared = False

    def __init__(self, directory: Path) -> None:
        self.path = directory / "relay.db"

    @contextlib.asynccontextmanager
    async def opened(
        self, quota: Quota | None = None, changed: Callable[[bytes], None] | None = None
    ) -> AsyncIterator[Store]:
        """See `Maker`."""
        store = SqliteStore(self.path, quota)
        await store.start(changed or (lambda mailbox: None))
        try:
            yield store
        finally:
            await store.close()
