"""Locks between processes: one daemon in a home, and one process that speaks for a database, and a file, to others.

Knows `flock` and nothing else. The one idea: a lock belongs to an open file, so the kernel frees it when its process
dies, however it dies; what is written in the file (a process id) only helps to say who holds it. Whoever lets go of a
lock removes its file, and whoever has locked a file looks whether it is still there; one that a killed process left is
taken over. Only the directories stay.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from crdtlog.device import Home, own_directory, private_directory
from crdtlog.errors import Locked


class Lock:
    """An exclusive lock, held from construction to `release`; also a context manager. Raises `Locked` if it is taken.

    `what` says in a few words what the other process does that only one may do, `hint` what to do about it.
    """

    def __init__(self, path: Path, what: str, hint: str) -> None:
        private_directory(path.parent)
        self._path = path
        self._descriptor: int | None = None
        while self._descriptor is None:
            descriptor = _locked(path, what, hint)
            if _is_at(descriptor, path):
                self._descriptor = descriptor
            else:  # its holder removed it when we had opened it
                os.close(descriptor)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let go of the lock, and remove its file; doing it twice is harmless."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # a file that stays does no harm
            if _is_at(self._descriptor, self._path):
                self._path.unlink()  # while it is locked: nobody holds it who would miss it
        os.close(self._descriptor)
        self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _locked(path: Path, what: str, hint: str) -> int:
    """A descriptor of the file, which is locked. Raises `Locked`."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise Locked(f"{what} (process {holder})", hint) from error
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that others find there."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


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
    """A private directory that all homes of one user share. Raises `KeysUnusable` if it is not theirs alone."""
    directory = Path(tempfile.gettempdir()) / f"crdtlog-{os.geteuid()}"
    return own_directory(directory, "set TMPDIR to a directory of your own")
