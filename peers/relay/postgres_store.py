"""The store for a fleet: any number of relays on one PostgreSQL, or an engine that speaks its protocol.

Knows SQL and asyncpg. Must not know connections of clients. The one idea: a mailbox's row is its counter, and whoever
appends holds that row's lock until the blob is committed, so that indexes are without gaps and nobody can read a blob
before those in front of it. Appends that gather during a commit share the next transaction.

Other relays are told by NOTIFY, in a transaction of its own after the commit: a commit that notifies takes a lock of
the whole database server, and commits under it would wait for the disk one after the other. A message that gets lost
with a relay or a connection is made up for by polling.
"""

import asyncio
import contextlib
import logging
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from crdtlog.errors import Unsupported, Usage
from peers.relay.batching import Batcher, Kept, Placed, Waiting, expiring, page, place, unavailable
from peers.relay.messages import LIFE_BYTES, SMALLEST_BLOB
from peers.relay.refusals import Code, Refused, RefusedForNow
from peers.relay.store import POLL_SECONDS, Appended, Changed, Page, Quota, State, Store
from peers.relay.store import Usage as Held

if TYPE_CHECKING:
    import asyncpg

logger = logging.getLogger(__name__)

_VERSION = 1
_CHANNEL = "crdtlog_relay"
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS crdtlog_relay_version (version integer PRIMARY KEY)",
    """CREATE TABLE IF NOT EXISTS crdtlog_relay_mailbox (
        id bytea PRIMARY KEY,
        life bytea NOT NULL,
        first bigint NOT NULL,
        last bigint NOT NULL,
        blobs bigint NOT NULL,
        bytes bigint NOT NULL,
        oldest bigint,
        used bigint NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS crdtlog_relay_mailbox_oldest ON crdtlog_relay_mailbox (oldest)",
    """CREATE TABLE IF NOT EXISTS crdtlog_relay_blob (
        mailbox bytea NOT NULL,
        number bigint NOT NULL,
        at bigint NOT NULL,
        data bytea NOT NULL,
        PRIMARY KEY (mailbox, number)
    )""",
)
# What is encrypted does not compress; not every engine knows of it.
_STORAGE = "ALTER TABLE crdtlog_relay_blob ALTER COLUMN data SET STORAGE EXTERNAL"
_BEGIN_MAILBOXES = """
    INSERT INTO crdtlog_relay_mailbox (id, life, first, last, blobs, bytes, oldest, used)
    SELECT id, life, 1, 0, 0, 0, NULL, $3 FROM unnest($1::bytea[], $2::bytea[]) AS made (id, life) ORDER BY id
    ON CONFLICT (id) DO NOTHING
"""
# Everybody locks in the order of ids, so that no two batches can wait for each other.
_LOCK = """
    SELECT id, life, first, last, blobs, bytes, oldest FROM crdtlog_relay_mailbox
    WHERE id = ANY($1::bytea[]) ORDER BY id FOR UPDATE
"""
_APPEND = """
    WITH added AS (
        INSERT INTO crdtlog_relay_blob (mailbox, number, at, data)
        SELECT mailbox, number, at, data
        FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bytea[]) AS given (mailbox, number, at, data)
    )
    UPDATE crdtlog_relay_mailbox AS kept
    SET last = given.last, blobs = given.blobs, bytes = given.bytes, oldest = given.oldest, used = $10
    FROM unnest($5::bytea[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
        AS given (id, last, blobs, bytes, oldest)
    WHERE kept.id = given.id
"""
# The running total keeps blobs that would not fit from being sent by the database; the first always comes.
_READ = """
    SELECT kept.first, kept.last, found.number, found.data
    FROM crdtlog_relay_mailbox AS kept
    LEFT JOIN LATERAL (
        SELECT number, data FROM (
            SELECT number, data, octet_length(data) AS size, sum(octet_length(data)) OVER (ORDER BY number) AS total
            FROM (
                SELECT number, data FROM crdtlog_relay_blob
                WHERE mailbox = $1 AND number > $2 ORDER BY number LIMIT $4
            ) AS next
        ) AS summed
        WHERE total <= $3 OR total = size
    ) AS found ON true
    WHERE kept.id = $1 ORDER BY found.number
"""
# An acknowledged blob is durable, on a synchronous standby too, whatever the server's default is. Said when connecting,
# as the pool resets what is set later.
_SESSION = {"application_name": "crdtlog relay", "synchronous_commit": "on"}
_DAY_S = 86_400
_EXPIRE_MAILBOXES = 20
_EXPIRE_BLOBS = 1_000
_POOL = 8
_COMMAND_S = 15.0
_CONNECT_S = 5.0
_RETRY_S = 1.0
_POLL_MAILBOXES = 5_000
_NOTICE_KEY_BYTES = 12
_NOTICE_KEYS = 400  # of 16 characters and a comma each: a notice has at most 8,000 bytes
_CONFLICT_RETRIES = 5
_USAGE_S = 60.0
_MAX_KNOWN = 200_000
_ADVISORY_LOCK = 0x63726474_72656C61
_Item = TypeVar("_Item")


class PostgresStore(Store):
    """Mailboxes in a PostgreSQL database, shared with any number of other relays."""

    def __init__(self, url: str, quota: Quota | None = None, *, poll_s: float = POLL_SECONDS) -> None:
        self._url = url
        self._quota = quota or Quota()
        self._poll_s = poll_s
        self._batcher = Batcher(self._commit)
        self._changed: Changed = lambda mailbox: None
        self._watched: dict[bytes, int | None] = {}  # the highest index that was read, as far as we know
        self._by_key: dict[str, set[bytes]] = {}
        self._known: set[bytes] = set()  # mailboxes that have a row
        self._unsent: set[str] = set()
        self._news = asyncio.Event()
        # When thousands of subscribers wake at once, their reads wait here and not for the pool, whose patience ends;
        # and appends need not wait behind them.
        self._reads = asyncio.Semaphore(_POOL - 3)
        self._pool: asyncpg.Pool | None = None
        self._listening: asyncio.Task[None] | None = None
        self._usage = Held(0, 0, 0)
        self._usage_at = float("-inf")

    async def start(self, changed: Changed) -> None:
        """Raises `Refused` (no connection), `Unsupported` (newer tables, no asyncpg), `Usage` (a wrong URL)."""
        asyncpg = _asyncpg()
        self._changed = changed
        async with _available(starting=True):
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=0,  # what keeps a least number would tell of every failure itself, with tracebacks
                max_size=_POOL,
                command_timeout=_COMMAND_S,
                timeout=_CONNECT_S,
                server_settings=_SESSION,
            )
            async with self._pool.acquire() as connection:
                await _prepare_tables(connection)
        await self.usage()
        self._listening = asyncio.create_task(self._listen(), name="relay listens")

    async def close(self) -> None:
        """Commit what waits, tell the others, and close the connections."""
        await self._batcher.close()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            self._listening = None
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await pool.close()
            except _faults():
                pool.terminate()

    async def append(self, mailbox: bytes, blob: bytes, now: int) -> Appended:
        """See `Store`."""
        appended = await self._batcher.append(Waiting(mailbox, blob, now))
        if mailbox in self._watched:
            self._watched[mailbox] = appended.number
            self._changed(mailbox)
        return appended

    async def read(self, mailbox: bytes, after: int, max_bytes: int) -> Page:
        """See `Store`."""
        async with self._reads, self._connection() as connection:
            few = max_bytes // SMALLEST_BLOB + 1
            rows = await connection.fetch(_READ, mailbox, after, max_bytes, few)
        if not rows:
            return Page(1, (), True)
        first, last = rows[0][0], rows[0][1]
        found = page(first, last, ((row[2], row[3]) for row in rows if row[2] is not None), max_bytes)
        if found.end:
            self._saw(mailbox, last)
        return found

    async def state(self, mailbox: bytes, now: int) -> State | None:
        """See `Store`."""
        async with self._reads, self._connection() as connection:
            row = await connection.fetchrow(
                "SELECT life, first, last, used FROM crdtlog_relay_mailbox WHERE id = $1", mailbox
            )
            if row is None or row[2] == 0:
                return None
            if row[3] < now - _DAY_S:
                await self._touch(connection, [mailbox], now)
        return State(row[0], row[1], row[2])

    def watch(self, mailbox: bytes, *, wanted: bool) -> None:
        """See `Store`."""
        key = _key(mailbox)
        if wanted:
            self._watched.setdefault(mailbox, None)
            self._by_key.setdefault(key, set()).add(mailbox)
        elif mailbox in self._watched:
            del self._watched[mailbox]
            self._by_key[key].discard(mailbox)
            if not self._by_key[key]:
                del self._by_key[key]

    async def usage(self) -> Held:
        """What was counted within the last minute, and what this relay has changed since."""
        now = asyncio.get_running_loop().time()
        if now - self._usage_at > _USAGE_S:
            async with self._connection() as connection:
                row = await connection.fetchrow(
                    "SELECT count(*) FILTER (WHERE last > 0), coalesce(sum(blobs), 0)::bigint,"
                    " coalesce(sum(bytes), 0)::bigint FROM crdtlog_relay_mailbox"
                )
            self._usage, self._usage_at = Held(*row), now
        return self._usage

    async def expire(self, now: int, ttl_s: int) -> int:
        """In small transactions; what another relay is expiring is passed over."""
        dropped = 0
        async with self._connection() as connection:
            for some in _chunks(tuple(self._watched), _POLL_MAILBOXES):
                await self._touch(connection, some, now)
            while step := await self._expire(connection, now - ttl_s):
                dropped += step
            gone = await connection.fetch(
                "DELETE FROM crdtlog_relay_mailbox WHERE oldest IS NULL AND used < $1 RETURNING last",
                now - 2 * ttl_s,
            )
        self._count(-sum(row[0] > 0 for row in gone), 0, 0)
        await self.usage()
        return dropped

    async def check(self) -> None:
        """The database answers."""
        async with self._connection() as connection:
            await connection.fetchval("SELECT 1")

    # --- connections --------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _connection(self) -> "AsyncIterator[asyncpg.pool.PoolConnectionProxy]":
        pool = self._pool
        if pool is None:
            raise unavailable("is closed")
        async with _available(), pool.acquire(timeout=_CONNECT_S) as connection:
            yield connection

    # --- appending --------------------------------------------------------------------------------------------------

    async def _commit(self, batch: Sequence[Waiting]) -> Sequence[Placed]:
        asyncpg = _asyncpg()
        placed = None
        for _ in range(_CONFLICT_RETRIES):
            async with self._connection() as connection:
                with contextlib.suppress(asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                    placed = await self._write(connection, batch)
            if placed is not None:
                break
        if placed is None:
            raise unavailable("is busy")
        self._count_appended(batch, placed)
        self._tell(
            waiting.mailbox
            for waiting, result in zip(batch, placed, strict=True)
            if isinstance(result, Appended)
        )
        return placed

    async def _write(self, connection: Any, batch: Sequence[Waiting]) -> list[Placed] | None:
        """One transaction; None if a mailbox was forgotten meanwhile and must be made again."""
        mailboxes = sorted({waiting.mailbox for waiting in batch})
        now = max(waiting.now for waiting in batch)
        if missing := [mailbox for mailbox in mailboxes if mailbox not in self._known]:
            lives = [secrets.token_bytes(LIFE_BYTES) for _ in missing]
            await connection.execute(_BEGIN_MAILBOXES, missing, lives, now)
            if len(self._known) > _MAX_KNOWN:
                self._known.clear()
        async with connection.transaction():
            rows = await connection.fetch(_LOCK, mailboxes)
            self._known.update(mailboxes)
            if len(rows) < len(mailboxes):
                self._known.difference_update(mailboxes)
                return None
            before = {row[0]: row[3] for row in rows}
            kept = {row[0]: Kept(*row[1:]) for row in rows}
            placed = place(batch, kept, self._quota, self._quota.store_bytes - self._usage.bytes)
            blobs = [
                (waiting.mailbox, result.number, waiting.now, waiting.blob)
                for waiting, result in zip(batch, placed, strict=True)
                if isinstance(result, Appended)
            ]
            counted = [
                (mailbox, row.last, row.blobs, row.bytes, row.oldest)
                for mailbox, row in kept.items()
                if row.last != before[mailbox]
            ]
            if blobs:
                await connection.execute(_APPEND, *_columns(blobs), *_columns(counted), now)
        return placed

    def _count_appended(self, batch: Sequence[Waiting], placed: Sequence[Placed]) -> None:
        for waiting, result in zip(batch, placed, strict=True):
            if isinstance(result, Appended):
                self._count(result.created, 1, len(waiting.blob))

    def _count(self, mailboxes: int, blobs: int, size: int) -> None:
        usage = self._usage
        self._usage = Held(usage.mailboxes + mailboxes, usage.blobs + blobs, usage.bytes + size)

    # --- expiring -----------------------------------------------------------------------------------------------------

    async def _expire(self, connection: Any, cutoff: int) -> int:
        dropped = 0
        async with connection.transaction():
            found = await connection.fetch(
                "SELECT id, last FROM crdtlog_relay_mailbox WHERE oldest < $1 ORDER BY oldest LIMIT $2"
                " FOR UPDATE SKIP LOCKED",
                cutoff,
                _EXPIRE_MAILBOXES,
            )
            for mailbox, last in found:
                rows = await connection.fetch(
                    "SELECT number, at, octet_length(data) FROM crdtlog_relay_blob"
                    " WHERE mailbox = $1 ORDER BY number LIMIT $2",
                    mailbox,
                    _EXPIRE_BLOBS + 1,
                )
                gone = expiring(rows, last, cutoff)
                await connection.execute(
                    "DELETE FROM crdtlog_relay_blob WHERE mailbox = $1 AND number < $2", mailbox, gone.first
                )
                await connection.execute(
                    "UPDATE crdtlog_relay_mailbox SET first = $2, blobs = blobs - $3, bytes = bytes - $4, oldest = $5"
                    " WHERE id = $1",
                    mailbox,
                    gone.first,
                    gone.blobs,
                    gone.bytes,
                    gone.oldest,
                )
                dropped += gone.blobs
                self._count(0, -gone.blobs, -gone.bytes)
        return dropped

    async def _touch(self, connection: Any, mailboxes: Sequence[bytes], now: int) -> None:
        # Passing over locked rows, as waiting for them in no order could be waiting for each other.
        await connection.execute(
            "UPDATE crdtlog_relay_mailbox SET used = $2 WHERE id IN ("
            "SELECT id FROM crdtlog_relay_mailbox WHERE id = ANY($1::bytea[]) AND used < $3 FOR UPDATE SKIP LOCKED)",
            mailboxes,
            now,
            now - _DAY_S,
        )

    # --- news between relays --------------------------------------------------------------------------------------

    def _saw(self, mailbox: bytes, last: int) -> None:
        """Somebody has read a mailbox to that index."""
        if mailbox not in self._watched:
            return
        known = self._watched[mailbox]
        if known is None or last > known:
            self._watched[mailbox] = last
            if known is not None:  # the others have not been told
                self._changed(mailbox)

    def _tell(self, mailboxes: Iterable[bytes]) -> None:
        self._unsent.update(map(_key, mailboxes))
        self._news.set()

    def _on_notice(self, connection: Any, pid: int, channel: str, payload: object) -> None:
        if pid == connection.get_server_pid():
            return  # our own news; whoever waits here was told already
        for key in str(payload).split(","):
            for mailbox in tuple(self._by_key.get(key, ())):
                self._changed(mailbox)

    async def _listen(self) -> None:
        """Hear and tell news on a connection of its own; when it breaks, poll and connect again."""
        asyncpg = _asyncpg()
        is_said = False
        while True:
            connection = None
            try:
                connection = await asyncpg.connect(self._url, timeout=_CONNECT_S, command_timeout=_COMMAND_S)
                lost = asyncio.Event()
                connection.add_termination_listener(partial(self._lose, lost))
                await connection.add_listener(_CHANNEL, self._on_notice)
                if is_said:
                    logger.warning("news of other relays are heard again")
                    is_said = False
                while not lost.is_set():
                    # On this connection, so that one which is dead without saying so is noticed.
                    await self._poll(connection)
                    await self._send_news(connection, lost)
            except _faults() as error:
                if not is_said:
                    logger.warning("no news of other relays are heard, they are polled: %s", _short(error))
                    is_said = True
            except Exception:  # a defect, which must not leave subscribers without news
                logger.exception("listening to other relays failed")
            finally:
                if connection is not None:
                    connection.terminate()
            await self._poll_without_news()

    def _lose(self, lost: asyncio.Event, connection: Any) -> None:
        lost.set()
        self._news.set()

    async def _send_news(self, connection: Any, lost: asyncio.Event) -> None:
        """Tell others what was appended here, until it is time to poll."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._poll_s
        while not lost.is_set() and (left := end - loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._news.wait()
            self._news.clear()
            keys, self._unsent = sorted(self._unsent), set()
            if keys:
                notices = [",".join(some) for some in _chunks(keys, _NOTICE_KEYS)]
                await connection.execute(
                    "SELECT pg_notify($1, notice) FROM unnest($2::text[]) AS notice", _CHANNEL, notices
                )

    async def _poll_without_news(self) -> None:
        await asyncio.sleep(_RETRY_S)
        self._unsent.clear()  # who did not hear polls, too
        with contextlib.suppress(Refused):
            async with self._connection() as connection:
                await self._poll(connection)

    async def _poll(self, connection: Any) -> None:
        """Look for news in all mailboxes that are watched."""
        for some in _chunks(tuple(self._watched), _POLL_MAILBOXES):
            rows = await connection.fetch(
                "SELECT id, last FROM crdtlog_relay_mailbox WHERE id = ANY($1::bytea[])", some
            )
            for mailbox, last in rows:
                known = self._watched.get(mailbox, last)
                if known is None or last > known:
                    self._watched[mailbox] = last
                    self._changed(mailbox)


# --- sessions and tables --------------------------------------------------------------------------------------------


def _asyncpg() -> Any:
    try:
        import asyncpg
    except ImportError as error:
        raise Unsupported(
            "a relay on PostgreSQL needs the package asyncpg, which is not installed",
            "Run: pip install 'crdtlog[relay-postgres]'",
        ) from error
    return asyncpg


def _faults() -> tuple[type[Exception], ...]:
    """What the database, and the way to it, may have against a statement.

    An internal error is what asyncpg makes of a connection that ends between two statements.
    """
    asyncpg = _asyncpg()
    return OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError


@contextlib.asynccontextmanager
async def _available(*, starting: bool = False) -> AsyncIterator[None]:
    """Whatever the database or the way to it has against a statement is temporary: it was not, or may not be, done."""
    asyncpg = _asyncpg()
    try:
        yield
    except (asyncpg.InvalidCatalogNameError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        if starting:
            raise Usage(f"the relay's store cannot be used: {_short(error)}", "Check --store.") from error
        raise unavailable("does not let the relay in") from error
    except _faults() as error:
        if starting:
            raise RefusedForNow(
                Code.STORE,
                f"the relay's store cannot be reached: {_short(error)}",
                hint="See whether PostgreSQL runs there, and --store.",
            ) from error
        logger.warning("the relay's store cannot work: %s", _short(error))
        raise unavailable("does not answer") from error


def _short(error: BaseException) -> str:
    """What went wrong, in a line that names no values: those of statements stand in details."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


async def _prepare_tables(connection: Any) -> None:
    """Make the tables where there are none, or see that we know them. Raises `Unsupported`."""
    if await _version_of(connection) is None:
        asyncpg = _asyncpg()
        # Relays that start at once would make them at once, and disturb one another; not every engine has such locks.
        with contextlib.suppress(asyncpg.PostgresError):
            await connection.execute("SELECT pg_advisory_lock($1)", _ADVISORY_LOCK)
        try:
            if await _version_of(connection) is None:
                for statement in _SCHEMA:
                    await connection.execute(statement)
                with contextlib.suppress(asyncpg.PostgresError):
                    await connection.execute(_STORAGE)
                # Last: with it, all of them are there.
                await connection.execute(
                    "INSERT INTO crdtlog_relay_version (version) VALUES ($1) ON CONFLICT DO NOTHING", _VERSION
                )
        finally:
            with contextlib.suppress(asyncpg.PostgresError):
                await connection.execute("SELECT pg_advisory_unlock($1)", _ADVISORY_LOCK)
    if (await _version_of(connection) or 0) > _VERSION:
        raise Unsupported(
            "the relay's tables were made by a newer crdtlog", "Update crdtlog on this machine."
        )


async def _version_of(connection: Any) -> int | None:
    """The version of the tables, None where there are none."""
    try:
        found: int | None = await connection.fetchval("SELECT max(version) FROM crdtlog_relay_version")
    except _asyncpg().UndefinedTableError:
        return None
    return found


def _key(mailbox: bytes) -> str:
    """How a mailbox is named in notices: they have little room, and it need not be unique."""
    return b64encode(mailbox[:_NOTICE_KEY_BYTES]).decode()


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _chunks(items: Sequence[_Item], size: int) -> Iterable[Sequence[_Item]]:
    return (items[at : at + size] for at in range(0, len(items), size))
