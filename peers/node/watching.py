"""Noticing that somebody wrote a file: the operating system's file events, for all files of a daemon at once.

Knows directories and file names. Must not know what is in the files, nor decide whether a write matters: it wakes
whoever asked, a little too often rather than once too seldom. One thread watches all directories; where events do not
work (some network file systems), the caller's own slow polling is all there is.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

STEP_MS = 15
"""The watcher looks at this interval for events, and waits for one interval without any."""
DEBOUNCE_MS = 40
"""A file that is written without a pause still wakes us this often."""
RETRY_SECONDS = 30.0
SETTLE_SECONDS = 0.1


class Watcher:
    """Calls `wake` functions when files change; from `start` to `close`, inside one asyncio loop."""

    def __init__(self) -> None:
        self._wakes: dict[str, Callable[[], None]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, path: Path, wake: Callable[[], None]) -> None:
        """Call `wake` whenever the SQLite file at `path` (resolved) or its write-ahead log is written."""
        for name in _names(path):
            self._wakes[name] = wake
        self._changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name="file watcher")

    def remove(self, path: Path) -> None:
        """Stop watching a file."""
        for name in _names(path):
            self._wakes.pop(name, None)
        self._changed.set()

    async def close(self) -> None:
        """Stop watching everything."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self._changed = asyncio.Event()  # a set that grows ends this round and begins the next
            directories = sorted({str(Path(name).parent) for name in self._wakes})
            try:
                if directories:
                    await self._watch_round(directories)
                else:
                    await self._changed.wait()
            except (OSError, RuntimeError) as error:
                logger.warning(
                    "file events do not work (%s): changes are noticed within a second instead", error
                )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await self._changed.wait()

    async def _watch_round(self, directories: list[str]) -> None:
        from watchfiles import awatch

        changes = awatch(
            *directories,
            watch_filter=lambda _, path: path in self._wakes,
            step=STEP_MS,
            debounce=DEBOUNCE_MS,
            rust_timeout=60_000,
            recursive=False,
            stop_event=self._changed,
        )
        # What was written while nobody watched is found by looking once.
        asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._wake_all)
        async for found in changes:
            for wake in {self._wakes[path] for _, path in found if path in self._wakes}:
                wake()

    def _wake_all(self) -> None:
        for wake in set(self._wakes.values()):
            wake()


def _names(path: Path) -> tuple[str, str]:
    return str(path), f"{path}-wal"
