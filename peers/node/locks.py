"""Locks between processes: one daemon in a home, and one process that speaks for a database, and a file, to others.

Knows `flock` and nothing else. The one idea: a lock belongs to an open file, so the kernel frees it when its process
dies, however it dies; what is written in the file (a process id) only helps to say who holds it. Lock files stay.
"""

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from crdtlog.device import Home, private_directory
from crdtlog.errors import KeysUnusable, Locked


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


class NetworkLock:
    """Two locks in one: of a database within its home, and of its file, whatever home serves it."""

    def __init__(self, home: Home, database: bytes, path: Path) -> None:
        self._database = Lock(
            home.run / f"{database.hex()[:32]}.lock",
            f"another crdtlog process is exchanging {path} with other devices",
            "Wait until it is done, or end it.",
        )
        try:
            self._file = _file_lock(path)
        except BaseException:
            self._database.release()
            raise

    def release(self) -> None:
        """Let go of both; doing it twice is harmless."""
        self._file.release()
        self._database.release()


def network_lock(home: Home, database: bytes, path: Path) -> NetworkLock:
    """The lock of the one process that exchanges a file's entries with other devices. Raises `Locked`, `KeysUnusable`.

    Draining and applying need no such lock: SQLite's own orders them.
    """
    return NetworkLock(home, database, path)


def _file_lock(path: Path) -> Lock:
    """Against a copied home that serves the same file.

    The file itself is only looked at: to close a descriptor of it would drop the locks that SQLite holds on it.
    """
    status = path.stat()
    return Lock(
        _common_directory() / f"{status.st_dev}-{status.st_ino}.lock",
        f"another crdtlog process, of another home, is exchanging {path} with other devices",
        "Serve the file from one home only: end the other process, and delete its home if it is a copy.",
    )


def _common_directory() -> Path:
    """A private directory that all homes of one user share. Raises `KeysUnusable` if somebody else made it."""
    directory = private_directory(Path(tempfile.gettempdir()) / f"crdtlog-{os.geteuid()}")
    if directory.is_symlink() or directory.stat().st_uid != os.geteuid():
        raise KeysUnusable(
            f"The directory {directory}, in which crdtlog keeps locks, was made by another user.",
            "Have it removed, or set TMPDIR to a directory of your own.",
        )
    return directory
