"""The command line's end of the socket on which a home's daemon takes commands.

Knows a path and lines of JSON. Must not know anything of the daemon's work, and loads next to nothing: `crdtlog status`
pays for this at every start. The one idea: a request is a line, its answers are lines, and the last says `done` or
`error`.

    ->  {"v": 1, "command": "pair", "arguments": {"path": "/home/ada/notes.db", "role": "writer"}}
    <-  {"code": "417-abandon-zebra-lucky", "address": "192.168.1.5:4567"}
    <-  {"approve": {"name": "phone", "fingerprint": "3f2a 91c0 …"}}
    ->  {"approve": true}
    <-  {"told": "phone: The new device could not take the database. …"}       a line for the person, if there is one
    <-  {"done": {"v": 1, "device": {…}}}               or {"error": {"type": "PairingFailed", "message": …, "hint": …}}
"""

import contextlib
import hashlib
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from crdtlog.device import Home

MAX_LINE_BYTES = 4 << 20
_MAX_SOCKET_PATH = 100
_CONNECT_SECONDS = 5.0

Message = dict[str, Any]


def socket_path(run: Path) -> Path:
    """Where the daemon of the home with this run directory listens.

    A Unix socket's path has at most 107 bytes: below a longer directory it moves to one of this user's in `/tmp`.
    """
    path = run / "control.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(run)).hexdigest()[:24]
    return Path(f"/tmp/crdtlog-{os.getuid()}") / f"{name}.sock"


def _is_ours_alone(directory: Path) -> bool:
    """Whether no other user can have put a socket there (see `own_directory`, which is too heavy for here)."""
    status = directory.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


class Client:
    """One connection to the daemon, for one request at a time; blocking. A context manager."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._lines = connected.makefile("rb")

    @classmethod
    def connect(cls, home: "Home") -> Self:
        """Connect to the daemon of a home. Raises `DaemonUnavailable` if there is none."""
        path = socket_path(home.run)
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        opened.settimeout(_CONNECT_SECONDS)
        try:
            if path.parent != home.run and not _is_ours_alone(path.parent):
                raise PermissionError(f"the directory {path.parent} is not this user's alone")
            opened.connect(str(path))
        except OSError as error:
            opened.close()
            from crdtlog.errors import DaemonUnavailable

            raise DaemonUnavailable(
                f"no daemon answers in this home ({error.strerror or error})", "Start it: crdtlog up FILE"
            ) from error
        opened.settimeout(None)
        return cls(opened)

    def request(self, command: str, **arguments: object) -> Message:
        """Send a command and return its result. Raises what the daemon raised, as the same class."""
        for message in self.stream(command, **arguments):
            if "done" in message:
                done: Message = message["done"]
                return done
        raise _broken()

    def stream(self, command: str, **arguments: object) -> Iterator[Message]:
        """Send a command; yield all messages of the answer, the last being `{"done": result}`. Answer with `send`.

        Raises what the daemon raised, as the same class.
        """
        self.send({"v": 1, "command": command, "arguments": arguments})
        while True:
            try:
                line = self._lines.readline(MAX_LINE_BYTES)
            except OSError:
                line = b""
            message = _message(line)
            if "error" in message:
                raise _as_error(message["error"])
            yield message
            if "done" in message:
                return

    def send(self, message: Message) -> None:
        """Answer a question of the daemon."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise _broken() from error

    def close(self) -> None:
        """Hang up; what the daemon still does for the request is cancelled."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # another thread may wait for an answer, and hears it now
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _message(line: bytes) -> Message:
    """The message in a line of the daemon's. Raises `DaemonUnavailable` for what is none: the line broke off."""
    try:
        message = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or not isinstance(message.get("error", {}), dict):
        raise _broken()
    return message


def _broken() -> Exception:
    from crdtlog.errors import DaemonUnavailable

    return DaemonUnavailable("the daemon went away before it had answered", "See its log, and try again.")


def _as_error(content: Message) -> Exception:
    from crdtlog import errors

    kind = getattr(errors, str(content.get("type")), None)
    if not (isinstance(kind, type) and issubclass(kind, errors.CrdtlogError)):
        kind = errors.CrdtlogError
    return kind(str(content.get("message")), str(content.get("hint", "")))
