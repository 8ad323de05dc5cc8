"""Locks between processes of one home: one daemon, and one process that speaks for a database to other devices.

Knows `flock` and nothing else. The one idea: a lock belongs to an open file, so the kernel frees it when its process
dies, however it dies; what is written in the file (a process id) only helps to say who holds it. Lock files stay.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from crdtlog.device import Home, private_directory
from crdtlog.errors import Locked


class Lock:
    """An exclusive lock, held from construction to `release`; also a context manager. Raises `Locked` if it is taken.

    `what` says in a few words what the other process does that only one may do, `hint` what to do about it.
    """

    def __init__(self, path: Path, what: str, hint: str) -> None:
        import fcntl

        private_directory(path.parent)
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise Locked(f"{what} (process {holder})", hint) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let go of the lock; doing it twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def daemon_lock(home: Home) -> Lock:
    """The lock of the one daemon of a home. Raises `Locked`, naming the process that has it."""
    return Lock(
        home.run / "daemon.lock",
        "a daemon runs in this home already",
        "Use that one (`crdtlog status` shows what it does), or end it first.",
    )


def network_lock(home: Home, database: bytes, path: Path) -> Lock:
    """The lock of the one process that exchanges a database's entries with other devices. Raises `Locked`.

    Draining and applying need no such lock: SQLite's own orders them.
    """
    return Lock(
        home.run / f"{database.hex()[:32]}.lock",
        f"another crdtlog process is exchanging {path} with other devices",
        "Wait until it is done, or end it.",
    )
