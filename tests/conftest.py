"""What all tests share: throw-away device homes, the sample database, and how hard hypothesis tries.

HYPOTHESIS_PROFILE chooses how many examples each property gets: `default`, `ci`, or `thorough` (EXAMPLES says how
many). A property that fails prints its smallest example and the line that replays it.
"""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import old_sqlite, yjs
from tests.contracts.postgres import Postgres, running
from tests.contracts.postgres import why_missing as why_no_postgres

ROOT = Path(__file__).resolve().parents[1]
CHINOOK = ROOT.parent / "shared" / "data" / "chinook.sqlite"

# No deadlines: tests share their cores with one another, and time says nothing about a property.
_common = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", _common, max_examples=50)
# Landing must not hang on luck: the same examples each time. Everywhere else seeds are random, and failures are kept.
settings.register_profile("ci", _common, max_examples=40, derandomize=True, database=None)
settings.register_profile("thorough", _common, max_examples=int(os.environ.get("EXAMPLES", "2000")))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_report_header() -> str:
    """Name the hypothesis profile in pytest's header."""
    return f"hypothesis: HYPOTHESIS_PROFILE={os.environ.get('HYPOTHESIS_PROFILE', 'default')}"


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test ever touches the keys of the person who runs it."""
    with _short_directory() as directory:
        monkeypatch.setenv("CRDTLOG_HOME", str(directory))
        monkeypatch.setenv("NO_COLOR", "1")
        yield


@pytest.fixture
def home() -> Iterator[Callable[..., Path]]:
    """A factory of device homes: `home("laptop")` is a fresh directory to pass as `home=` or as CRDTLOG_HOME.

    The same name gives the same directory within one test.
    """
    with _short_directory() as directory:

        def make(name: str = "device") -> Path:
            path = directory / name
            path.mkdir(mode=0o700, exist_ok=True)
            return path

        yield make


@pytest.fixture
def chinook(tmp_path: Path) -> Path:
    """A writable copy of the Chinook sample database: 11 tables, foreign keys, about 15,600 rows."""
    if not CHINOOK.exists():
        pytest.skip("the Chinook sample database is not at ../shared/data/chinook.sqlite")
    # copyfile: the original may be read-only, the copy must not be.
    return Path(shutil.copyfile(CHINOOK, tmp_path / "chinook.sqlite"))


@pytest.fixture
def needs_old_sqlite() -> None:
    """Skip the test where SQLite 3.24.0 could not be built (see tests/old_sqlite)."""
    if reason := old_sqlite.why_missing():
        pytest.skip(reason)


@pytest.fixture
def needs_yjs() -> None:
    """Skip the test where there is no Yjs, or no node to run it (see tests/yjs)."""
    if reason := yjs.why_missing():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, for all tests of a process; skipped where none is installed."""
    if reason := why_no_postgres():
        pytest.skip(reason)
    with running() as server:
        yield server


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `netns` where network namespaces cannot be made, saying why."""
    if item.get_closest_marker("netns") and (reason := _why_no_namespaces()):
        pytest.skip(reason)


@contextlib.contextmanager
def _short_directory() -> Iterator[Path]:
    """A temporary directory with a short path: a Unix socket's has at most 107 bytes, pytest's are longer."""
    with tempfile.TemporaryDirectory(prefix="crdtlog-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@functools.cache
def _why_no_namespaces() -> str | None:
    """Try to make one network namespace; return what prevents it, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the program 'ip' (iproute2)"
    name = f"crdtlog-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None
