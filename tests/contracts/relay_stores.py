"""Every store of a relay, made fresh for one test each."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

from peers.relay.postgres_store import PostgresStore
from peers.relay.sqlite_store import SqliteStore
from peers.relay.store import POLL_SECONDS, Quota, Store


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


class PostgresMaker:
    """A database of a real PostgreSQL."""

    shared = True

    def __init__(self, url: str) -> None:
        self.url = url

    @contextlib.asynccontextmanager
    async def opened(
        self,
        quota: Quota | None = None,
        changed: Callable[[bytes], None] | None = None,
        poll_s: float = POLL_SECONDS,
    ) -> AsyncIterator[Store]:
        """See `Maker`."""
        store = PostgresStore(self.url, quota, poll_s=poll_s)
        await store.start(changed or (lambda mailbox: None))
        try:
            yield store
        finally:
            await store.close()
