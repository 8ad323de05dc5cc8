"""What tests of peers share: a laptop with a database and a phone without, and commands with files to run them on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peers.cli import run
from tests.peers.cli_devices import Machine as CommandLine
from tests.peers.cli_world import NOTES, Crdtlog, Done, made
from tests.peers.nodes import Machine


@pytest.fixture
def laptop(home: Callable[..., Path], tmp_path: Path) -> Machine:
    """A device with a database of one table, `notes`."""
    return Machine.founding(home("laptop"), tmp_path)


@pytest.fixture
def phone(home: Callable[..., Path], tmp_path: Path) -> Machine:
    """A device that has nothing yet."""
    return Machine.at(home("phone"), tmp_path)


@pytest.fixture
def crdtlog(capsys: pytest.CaptureFixture[str]) -> Crdtlog:
    """Run a command in this process; `fails=code` expects that exit code instead of 0."""

    def call(*arguments: object, fails: int = 0) -> Done:
        code = run([str(argument) for argument in arguments])
        done = Done(code, *capsys.readouterr())
        assert code == fails, f"{arguments} ended with {code}\n{done.out}{done.err}"
        return done

    return call


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """An ordinary SQLite file with two rows."""
    return made(tmp_path / "notes.db", NOTES)


@pytest.fixture
def shared(notes: Path, crdtlog: Crdtlog) -> Path:
    """The same file as a replicated database."""
    crdtlog("init", notes, "--device", "laptop")
    return notes


@pytest.fixture
def machine(home: Callable[..., Path], tmp_path: Path) -> Iterator[Callable[[str], CommandLine]]:
    """A factory of devices on this machine, apart from one another."""
    machines: dict[str, CommandLine] = {}

    def make(name: str) -> CommandLine:
        return machines.setdefault(name, CommandLine(name, home(name), tmp_path / name))

    yield make
    for each in machines.values():
        each.stop()
