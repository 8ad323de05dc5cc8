"""One replicated file inside an asyncio program: a thread that owns its `Database`, and a task that tends it.

Knows the engine and when to call it. Must not know other devices, sessions or sockets. The one idea: everything that
touches the file happens in one thread, in short holds of the write lock with pauses between them (R4), and after each
hold whoever listens is told what the file holds now.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from crdtlog import database
from crdtlog.database import Database
from crdtlog.device import Home
from crdtlog.errors import CrdtlogError, WrongDevice
from crdtlog.members import Member
from crdtlog.proof import Fork
from crdtlog.versions import Head
from peers.node import locks
from peers.node.wording import sentences

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 30.0
"""File events can be lost: this often the file is looked at anyway."""
NOTE_SECONDS = 1.0
"""What others acknowledge is written down together after so long."""
RETRY_SECONDS = 1.0
RECHECK_SECONDS = (0.004, 0.01, 0.02, 0.06, 0.15)
"""An event comes when bytes are written, the commit may follow after a slow sync: look again after these pauses."""
PAUSE_SECONDS = 0.005
"""Between two holds of the write lock, so that other programs get their turn (R4)."""
BREATHER_SECONDS = 0.028
BREATHER_SHARE = 0.5
BREATHER_AFTER_SECONDS = 0.05
"""A longer pause comes after the lock was held so long in sum. SQLite lets a program that waits try again after 1, 2,
5, 10, 15, 20, 25, 25, 25, then 50 and 100 ms: whoever waits meets this pause before its tries are further apart than it
is long, so that waiting is not a matter of luck. On a busy machine holds take longer, and so does waking up: hence the
share of the time held."""
HOLD_MS = 20
MAX_HELD_WRITERS = 4_096
"""Of so many logs is remembered what another device holds."""
MANY_PENDING = 5_000
"""With more captures than this waiting, draining goes step by step before anything is applied."""
PAUSED_RETRY_SECONDS = 30.0


class Facts(NamedTuple):
    """What a file holds after the last hold of its lock: log ends, members, its writer and epochs (current first).

    `removed` are the devices that do not belong any more, `meeting` is the key by which members find one another,
    `is_safe` whether nobody removed knows the current one's.
    `unconfirmed` are the hashes of own entries that others cannot know, if the file is in order. `taken_back` counts
    the own rows that were put aside since the file was opened. `awaits_snapshot` says that this device was let in
    without history and has nothing yet; `spared` what does not belong into an epoch's mailbox.
    """

    heads: Mapping[bytes, Head]
    members: tuple[Member, ...]
    removed: tuple[Member, ...]
    writer: bytes
    epochs: Mapping[bytes, bytes]
    meeting: bytes
    is_safe: bool
    unconfirmed: Mapping[int, bytes]
    forks: tuple[Fork, ...]
    taken_back: int
    awaits_snapshot: bool = False
    spared: Mapping[bytes, Mapping[bytes, int]] = MappingProxyType({})


class SharedFile:
    """An open file. Made by `open_shared_file`, ended by `close`; all methods belong to one event loop.

    `on_change(before, after)` is called with the facts whenever a log grew or the members changed, `on_rows(count)`
    when rows that were written here went into the log, `on_problem(text)` when the file cannot be worked with for now,
    `on_lost(reason)` when it is not there any more.
    """

    def __init__(
        self,
        engine: Database,
        executor: ThreadPoolExecutor,
        lock: locks.NetworkLock,
        facts: Facts,
        held: dict[bytes, dict[bytes, int]],
    ) -> None:
        self.path = engine.path
        self.real_path = engine.path.resolve()
        self.database = engine.id
        self.device = engine.device
        self.facts = facts
        self.held = held
        self.on_change: Callable[[Facts, Facts], None] = lambda before, after: None
        self.on_rows: Callable[[int], None] = lambda count: None
        self.on_lost: Callable[[str], None] = lambda reason: None
        self._trouble = ""
        self.on_problem: Callable[[str], None] = lambda problem: None
        self._engine = engine
        self._executor = executor
        self._lock = lock
        self._inode = self.real_path.stat().st_ino
        self._turn = asyncio.Lock()
        self._held_until = 0.0
        self._held_seconds = 0.0  # since the last pause that was long enough for everybody
        self._draining = asyncio.Lock()
        self._woken = asyncio.Event()
        self._foreign_commit = asyncio.Event()
        self._must_drain = True
        self._held_news: dict[bytes, dict[bytes, int]] = {}
        self._running: set[asyncio.Task[object]] = set()
        self._noted = asyncio.Event()
        self._tenders: list[asyncio.Task[None]] = []

    # --- in the file's thread -------------------------------------------------------------------------------------

    async def run(self, work: Callable[[Database], T]) -> T:
        """Call `work` with the database in the file's thread. For reading; see `hold` for writing."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, self._engine)

    async def hold(
        self, work: Callable[[Database], T], on_unheard: Callable[[BaseException], None] | None = None
    ) -> T:
        """Call `work`, which may take the write lock for some milliseconds, at our turn; tell what has changed.

        Whoever waits for it may be cancelled: the work is finished and told all the same. If it fails then,
        `on_unheard` is told of the error.
        """
        task = asyncio.create_task(self._hold(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

        def ended_alone(task: asyncio.Task[T]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                (on_unheard or self._unheard)(error)

        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.add_done_callback(ended_alone)
            raise
        return task.result()

    def _unheard(self, error: BaseException) -> None:
        """What cannot be done now shows again at the next try; a fault of ours is worth a line."""
        level = logging.DEBUG if isinstance(error, CrdtlogError) else logging.WARNING
        logger.log(level, "%s: after its waiter was gone, work failed: %r", self.path.name, error)

    async def _hold(self, work: Callable[[Database], T]) -> T:
        async with self._turn:
            await self._let_others()
            began = time.monotonic()
            try:
                result, facts = await self.run(lambda engine: (work(engine), _facts(engine)))
            finally:
                self._held_until = time.monotonic()
                self._held_seconds += self._held_until - began
            before, self.facts = self.facts, facts
            if before != facts:
                self.on_change(before, facts)
            return result

    async def _let_others(self) -> None:
        """Leave the write lock free for as long as is due."""
        breather = max(BREATHER_SECONDS, BREATHER_SHARE * self._held_seconds)
        due = breather if self._held_seconds >= BREATHER_AFTER_SECONDS else PAUSE_SECONDS
        since = time.monotonic() - self._held_until
        if since < due:
            await asyncio.sleep(due - since)
        if max(since, due) >= breather:
            self._held_seconds = 0.0

    # --- draining and applying ------------------------------------------------------------------------------------

    async def drain(self) -> int:
        """Take everything captured into the log, step by step; the number of changed rows."""
        rows = 0
        async with self._draining:
            while True:
                self._must_drain = False
                try:
                    step = await self.hold(Database.drain)
                except BaseException:
                    self._must_drain = True
                    raise
                rows += step.rows
                if step.rows:
                    self.on_rows(step.rows)
                if step.told:
                    self.on_problem(step.told)
                if step.trouble and step.trouble != self._trouble:
                    self.on_problem(f"{step.trouble}; texts are sent whole until it can")
                self._trouble = step.trouble
                if not step.more:
                    return rows

    async def begin_anew(self) -> None:
        """Go on as a new writer, as others may know other entries of our log than this file holds (R11)."""
        self.on_problem(_anew(await self.hold(Database.begin_anew)))

    async def apply(
        self,
        signed: list[bytes],
        on_rows: Callable[[int], None],
        on_unheard: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Merge entries of other devices, in slices; returns when all of them are durable.

        What is done is taken out of the list, so that after an error it holds what is left. `on_rows` is told each
        slice's rows, `on_unheard` of an error that comes when the caller was cancelled already. Raises
        `EntryRefused`, `Malformed`, `TooLarge`, `TablePaused`.
        """
        while signed:
            applied = await self.hold(
                lambda engine: None if engine.must_drain(MANY_PENDING) else engine.apply(signed, HOLD_MS),
                on_unheard,
            )
            if applied is None:
                await self.drain()
                continue
            del signed[: applied.done]
            if applied.rows:
                on_rows(applied.rows)

    async def schema_may_have_changed(self) -> None:
        """Return when somebody has written the file, or some time has passed: a paused table may fit again."""
        self._foreign_commit.clear()
        try:
            async with asyncio.timeout(PAUSED_RETRY_SECONDS):
                await self._foreign_commit.wait()
        except TimeoutError:
            return

    # --- what others hold -----------------------------------------------------------------------------------------

    def note_held(self, device: bytes, vector: Mapping[bytes, int]) -> None:
        """Another device has acknowledged this; it is written down within about a second."""
        self._noted.set()
        for known in (self.held.setdefault(device, {}), self._held_news.setdefault(device, {})):
            for writer, seq in vector.items():
                # What a peer names may be invented; there is room for more logs than honest devices ever begin.
                if seq > known.get(writer, 0) and (writer in known or len(known) < MAX_HELD_WRITERS):
                    known[writer] = seq

    async def flush_held(self) -> None:
        """Write down what was noted."""
        news, self._held_news = self._held_news, {}
        for device, vector in news.items():
            await self.hold(_recording(device, vector))

    # --- tending --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to notice what others write into the file."""
        if self._engine.written_anew is not None:
            self.on_problem(_anew(self._engine.written_anew))
        self._tenders = [
            asyncio.create_task(self._forever(self._look), name=f"draining {self.path.name}"),
            asyncio.create_task(self._forever(self._write_held), name=f"noting in {self.path.name}"),
        ]

    def wake(self) -> None:
        """Somebody may have written the file."""
        self._woken.set()

    async def close(self) -> None:
        """Stop, and close the file. What is captured but not drained stays captured."""
        for task in self._tenders:
            task.cancel()
        await asyncio.gather(*self._tenders, return_exceptions=True)
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
        try:
            await self.flush_held()
        except CrdtlogError as error:
            logger.warning("%s: %s", self.path.name, error)
        await self.run(Database.close)
        self._executor.shutdown()
        self._lock.release()

    async def _forever(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step; what goes wrong is told once, and tried again."""
        said = None
        while True:
            problem = None
            try:
                await step()
            except CrdtlogError as error:
                problem = sentences(error, error.hint)
            except Exception as error:
                logger.exception("%s could not be looked after", self.path)
                problem = f"an internal fault: {error!r}"
            if problem != said and problem is not None:
                self.on_problem(problem)
            said = problem
            if problem is not None:
                await asyncio.sleep(RETRY_SECONDS)

    async def _look(self) -> None:
        """Wait for an event or the next poll; drain if another connection has committed, or is about to."""
        pauses = list(RECHECK_SECONDS) if await self._wait(POLL_SECONDS) else []
        if reason := self._why_lost():
            self.on_lost(reason)
        while not await self._drained_if_due() and pauses:
            if await self._wait(pauses.pop(0)):
                pauses = list(RECHECK_SECONDS)

    async def _drained_if_due(self) -> bool:
        if await self.run(Database.data_changed):
            self._foreign_commit.set()
            self._must_drain = True
        if not self._must_drain:
            return False
        await self.drain()
        return True

    async def _wait(self, seconds: float) -> bool:
        """Wait to be woken; False if it took longer."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    async def _write_held(self) -> None:
        await self._noted.wait()
        await asyncio.sleep(NOTE_SECONDS)
        self._noted.clear()
        await self.flush_held()

    def _why_lost(self) -> str | None:
        try:
            inode = self.real_path.stat().st_ino
        except FileNotFoundError:
            return "the file is gone"
        return None if inode == self._inode else "another file has taken its place"


async def open_shared_file(
    path: Path, home: Home, served: Mapping[bytes, Path] = MappingProxyType({})
) -> SharedFile:
    """Open a file that is a crdtlog database already, and take the lock of the one that exchanges its entries.

    `served` are the files of this process by their databases' ids: of one database there is no second. Raises what
    `crdtlog.open` raises, `WrongDevice` (a second one) and `Locked`.
    """
    executor = ThreadPoolExecutor(1, thread_name_prefix=path.name)

    def opened() -> tuple[Database, locks.NetworkLock, Facts, dict[bytes, dict[bytes, int]]]:
        engine = database.open_database(path, home=home, create=False)
        try:
            if (other := served.get(engine.id)) is not None:
                raise _a_second(path, other)
            lock = locks.network_lock(home, engine.id, path)
        except BaseException:
            engine.close()
            raise
        return engine, lock, _facts(engine), engine.held()

    try:
        engine, lock, facts, held = await asyncio.get_running_loop().run_in_executor(executor, opened)
    except BaseException:
        executor.shutdown(wait=False)
        raise
    return SharedFile(engine, executor, lock, facts, held)


def _a_second(path: Path, other: Path) -> WrongDevice:
    names = (path.name, other.name) if path.name != other.name else (str(path), str(other))
    return WrongDevice(
        f"{names[0]} is of the same database as {names[1]}, which is served here already",
        f"A device exchanges one of them. If it is to be this one, end the daemon, then: crdtlog up {path}",
    )


def _anew(count: int) -> str:
    again = f" (entries written anew: {count})" if count else ""
    return (
        f"the file was restored from a backup, or copied: its log goes on as a new one{again}, and what others still "
        "have of the old one comes back"
    )


def _facts(engine: Database) -> Facts:
    devices = engine.devices()
    return Facts(
        engine.heads(),
        tuple(device for device in devices if device.role is not None),
        tuple(device for device in devices if device.role is None),
        engine.writer,
        engine.epochs(),
        engine.epoch_keys.meeting,
        engine.epoch_keys.is_safe,
        engine.unconfirmed(),
        tuple(engine.forks()),
        engine.taken_back,
        engine.awaits_snapshot,
        engine.epoch_keys.spared(),
    )


def _recording(device: bytes, vector: Mapping[bytes, int]) -> Callable[[Database], None]:
    return lambda engine: engine.record_held(device, vector)
