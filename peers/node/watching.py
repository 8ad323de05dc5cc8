"""Noticing that somebody wrote a file: the operating system's file events, for all files of a daemon at once.

Knows directories and file names. Must not know what is in the files, nor decide whether a write matters: it wakes
whoever asked, a little too often rather than once too seldom. On Linux the system tells (inotify), so that nothing runs
while nobody writes; elsewhere, or where it cannot, the files' sizes and times are looked at again and again. Where
neither shows a write (some network file systems), the caller's own slow polling is all there is.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.02
"""A file that is written without a pause wakes us this often."""
LOOK_SECONDS = 0.05
"""So often files are looked at where the system does not tell of writes."""
RETRY_SECONDS = 30.0
SETTLE_SECONDS = 0.1


class Watcher:
    """Calls `wake` functions when files change; from `start` to `close`, inside one asyncio loop."""

    def __init__(self) -> None:
        self._wakes: dict[str, Callable[[], None]] = {}
        # Set when there is something to do: the system tells of writes, or the set of files is another (`_is_other`).
        self._woken = asyncio.Event()
        self._is_other = False
        self._task: asyncio.Task[None] | None = None

    def add(self, path: Path, wake: Callable[[], None]) -> None:
        """Call `wake` whenever the SQLite file at `path` (resolved) or its write-ahead log is written."""
        for name in _names(path):
            self._wakes[name] = wake
        self._begin_again()
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name="file watcher")

    def remove(self, path: Path) -> None:
        """Stop watching a file."""
        for name in _names(path):
            self._wakes.pop(name, None)
        self._begin_again()

    async def close(self) -> None:
        """Stop watching everything."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _begin_again(self) -> None:
        self._is_other = True
        self._woken.set()

    async def _watch(self) -> None:
        said = ""
        while True:
            self._is_other = False
            # What was written while nobody watched is found by looking once.
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._wake_all)
            try:
                if sys.platform == "linux":
                    await self._told()
                else:
                    await self._look()
            except OSError as error:
                if str(error) != said:  # tried again every now and then, and told once
                    said = str(error)
                    logger.warning("file events do not work (%s): files are looked at instead", error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await self._look()

    async def _told(self) -> None:
        """Wake by what the system tells, until the set of files is another. Raises OSError where it cannot tell."""
        from inotify_simple import INotify, flags

        loop = asyncio.get_running_loop()
        written = flags.MODIFY | flags.CLOSE_WRITE
        mask = written | flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.ONLYDIR
        with INotify() as source:
            directories = {str(Path(name).parent) for name in self._wakes}
            watched = {source.add_watch(directory, mask): directory for directory in directories}
            while not self._is_other:
                loop.add_reader(source.fileno(), self._woken.set)
                try:
                    await self._woken.wait()
                finally:
                    loop.remove_reader(source.fileno())
                self._woken.clear()
                events = source.read(timeout=0)
                if any(event.mask & flags.Q_OVERFLOW for event in events):
                    self._wake_all()
                self._wake(f"{watched[event.wd]}/{event.name}" for event in events if event.wd in watched)
                if any(event.mask & flags.IGNORED for event in events):
                    raise OSError("a directory was moved or removed")
                await asyncio.sleep(PAUSE_SECONDS)

    async def _look(self) -> None:
        """Wake by what files look like, until the set of files is another."""
        before = {name: _look_of(name) for name in self._wakes}
        while not self._is_other:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
            now = {name: _look_of(name) for name in self._wakes}
            self._wake(name for name in now if now[name] != before.get(name))
            before = now

    def _wake(self, names: Iterable[str]) -> None:
        for wake in {self._wakes[name] for name in names if name in self._wakes}:
            wake()

    def _wake_all(self) -> None:
        self._wake(list(self._wakes))


def _names(path: Path) -> tuple[str, str]:
    return str(path), f"{path}-wal"


def _look_of(name: str) -> object:
    try:
        status = Path(name).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
