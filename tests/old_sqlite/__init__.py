"""A client with SQLite 3.24.0, the oldest library that may open a replicated file.

It runs as a process of its own, like any other program that writes to somebody's file, and is compiled
without optional parts (no JSON, no FTS5), so that whatever our triggers and views need beyond the bare library
fails here. `python -m tests.old_sqlite` fetches the source by package name, checks it against a pinned digest
and compiles it into `.cache/`; `make test` does that first. Where it cannot be had, the tests that need it are
skipped.
"""

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.outside import CannotHave, package, run

VERSION = "3.24.0"
# The npm package whose tarball carries SQLite's own amalgamation, unchanged.
PACKAGE = "sqlite3@4.0.1"
PACKAGE_SHA512 = "i8LtU2fdEGFEt4Kcs7eNjYdGmnAQ8zWlaOv6Esbq/jfVfR0Qbn/1dgVyKebrMc2zN7h3oHsqla9zq7AJ0+34ZA=="
AMALGAMATION = "package/deps/sqlite-autoconf-3240000.tar.gz"
SOURCES = ("sqlite-autoconf-3240000/sqlite3.c", "sqlite-autoconf-3240000/sqlite3.h")

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "old-sqlite"
SHELL = CACHE / f"shell-{VERSION}"

_ESCAPES = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}


class OldSqliteError(Exception):
    """SQLite 3.24.0 refused a statement; the message is its own."""


def old_sqlite(path: str | os.PathLike[str], sql: str) -> list[list[str | None]]:
    """Run `sql` (any number of statements) on the file at `path` with SQLite 3.24.0 and return all rows.

    Every field comes as text as SQLite renders it, NULL as None, a blob as `X'hex'`. The client waits five
    seconds for a lock. Raises OldSqliteError with SQLite's message; statements before the failed one have had
    their effect.
    """
    done = subprocess.run([SHELL, os.fspath(path)], input=sql.encode(), capture_output=True, timeout=120)
    if done.returncode:
        raise OldSqliteError(done.stderr.decode(errors="replace").strip())
    return [[_field(field) for field in line.split("\t")] for line in done.stdout.decode().split("\n")[:-1]]


def old_sqlite_version() -> str:
    """Return the version of the library that `old_sqlite` really runs."""
    return subprocess.run([SHELL, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def why_missing() -> str | None:
    """Return why `old_sqlite` cannot be used here, or None if it can."""
    if SHELL.exists():
        return None
    reason = CACHE / "failed"
    if reason.exists():
        return f"SQLite {VERSION} could not be built here: {reason.read_text().strip()}"
    return f"SQLite {VERSION} is not built: run 'make old-sqlite'"


def build() -> None:
    """Fetch, check and compile the library and its client unless that is done. Raises CannotHave."""
    CACHE.mkdir(parents=True, exist_ok=True)
    newest_source_s = max((HERE / name).stat().st_mtime for name in ("shell.c", "__init__.py"))
    if SHELL.exists() and SHELL.stat().st_mtime >= newest_source_s:
        return
    (CACHE / "failed").unlink(missing_ok=True)
    try:
        with tempfile.TemporaryDirectory() as directory:
            _compile(_unpack(package(PACKAGE, PACKAGE_SHA512, CACHE), Path(directory)))
    except CannotHave as error:
        (CACHE / "failed").write_text(f"{error}\n")
        raise


def _field(field: str) -> str | None:
    if field == "\\N":
        return None
    if "\\" not in field:
        return field
    parts, rest = [], iter(field)
    for char in rest:
        parts.append(_ESCAPES[char + next(rest)] if char == "\\" else char)
    return "".join(parts)


def _unpack(tarball: bytes, directory: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(tarball)) as package:
        inner = package.extractfile(AMALGAMATION)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as amalgamation:
            for source in SOURCES:
                member = amalgamation.extractfile(source)
                assert member is not None
                (directory / Path(source).name).write_bytes(member.read())
    return directory


def _compile(directory: Path) -> None:
    flags = ["-O1", "-w", "-DSQLITE_THREADSAFE=0", "-DSQLITE_OMIT_LOAD_EXTENSION", f"-I{directory}"]
    made = directory / "shell"
    run(["gcc", *flags, "-o", made, HERE / "shell.c", directory / "sqlite3.c"], directory)
    # Moved into place at the end, so that a build that was cut off leaves nothing that looks finished.
    partial = SHELL.with_suffix(f".{os.getpid()}")
    shutil.copy(made, partial)
    partial.replace(SHELL)
