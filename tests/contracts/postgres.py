"""A real PostgreSQL for tests: made in a temporary directory, reached by a Unix socket, ended with the tests.

PostgreSQL refuses to run as root: then it runs as the system's user `postgres`, or as `nobody`.
"""

import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 60.0
USER = "relay"


@functools.cache
def programs() -> Path | None:
    """The directory of `initdb` and `postgres`, which Debian keeps off the path."""
    found = shutil.which("initdb")
    if found is not None and shutil.which("postgres") is not None:
        return Path(found).resolve().parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    return next((path for path in reversed(places) if (path / "initdb").exists()), None)


@functools.cache
def why_missing() -> str | None:
    """Why there is no PostgreSQL here, or None."""
    try:
        import asyncpg  # noqa: F401
    except ImportError:
        return "the package asyncpg is not installed"
    if programs() is None:
        return "PostgreSQL is not installed (Debian: apt install postgresql)"
    if os.geteuid() == 0 and _other_user() is None:
        return "PostgreSQL refuses to run as root, and there is no user postgres or nobody"
    return None


def _other_user() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


class Postgres:
    """One server. `url(database)` names a database, `restart` and `kill` are what they say."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._as: dict[str, Any] = {"cwd": directory}
        if os.geteuid() == 0:
            user = _other_user()
            assert user is not None
            os.chown(directory, user.pw_uid, user.pw_gid)
            self._as |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._run(
            "initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"
        )
        self.start()

    def url(self, database: str = "postgres") -> str:
        """The URL of a database."""
        return f"postgresql://{USER}@/{database}?host={self._directory}"

    def fresh(self) -> str:
        """The URL of a new, empty database."""
        self._made += 1
        name = f"fresh_{self._made}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement: what psql prints."""
        return self._run("psql", "-h", self._directory, "-U", USER, "-XAtc", statement, database)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        bins = programs()
        assert bins is not None
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [bins / "postgres", "-D", self._data, "-k", self._directory, "-c", "listen_addresses="],
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as,
            )
        limit = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.sql("SELECT 1")
                return
            assert time.monotonic() < limit and self._process.poll() is None, self.log()
            time.sleep(0.05)

    def stop(self, *, crash: bool = False) -> None:
        """End it: hanging up on everybody, or as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
            self._process.wait(SECONDS)
            self._process = None

    def log(self) -> str:
        """What the server has logged."""
        return (self._directory / "log").read_text(errors="replace")[-4000:]

    def _run(self, program: str, *arguments: object) -> str:
        bins = programs()
        assert bins is not None
        command = [str(bins / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, **self._as)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout.strip()


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """A server of one's own."""
    # Not pytest's directory, which another user may not enter; and short, as it holds a Unix socket.
    with tempfile.TemporaryDirectory(prefix="crdtlog-pg-", ignore_cleanup_errors=True) as name:
        server = Postgres(Path(name))
        try:
            yield server
        finally:
            server.stop(crash=True)  # nobody will want its data: no need to write it out
