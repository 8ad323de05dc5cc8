"""Locks between processes: one holder at a time, however they come and go, and nothing left behind."""

import fcntl
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from crdtlog.device import Home
from crdtlog.errors import KeysUnusable, Locked
from peers.node import locks
from peers.node.locks import Lock

MakeHome = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(home: MakeHome) -> Path:
    return home() / "some.lock"


def taken(path: Path) -> Lock:
    return Lock(path, "somebody else is at it", "Wait.")


def test_one_may_hold_it_and_others_are_told_who_does(path: Path) -> None:
    with taken(path), pytest.raises(Locked, match=rf"somebody else is at it \(process {os.getpid()}\)"):
        taken(path)
    taken(path).release()


def test_nothing_of_it_stays(path: Path) -> None:
    lock = taken(path)
    assert path.exists()
    lock.release()
    lock.release()
    assert not path.exists()


def test_one_that_a_killed_process_left_is_taken_over(path: Path) -> None:
    program = f"import os; from tests.peers.test_locks import *; taken(Path({str(path)!r})); os._exit(9)"
    left = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert left.returncode == 9 and path.exists()
    with taken(path), pytest.raises(Locked):
        taken(path)
    assert not path.exists()


def test_whoever_opened_it_before_it_was_removed_locks_the_one_that_is_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, flock = taken(path), fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        first.release()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    second = taken(path)
    monkeypatch.undo()
    with pytest.raises(Locked):
        taken(path)
    second.release()


def test_a_lock_whose_file_somebody_removed_leaves_the_next_ones_alone(path: Path) -> None:
    first = taken(path)
    path.unlink()
    second = taken(path)
    first.release()
    with pytest.raises(Locked):
        taken(path)
    second.release()


def test_there_is_never_more_than_one_holder(path: Path) -> None:
    inside: list[int] = []
    crowds: list[int] = []

    def work() -> None:
        for _ in range(400):
            try:
                lock = taken(path)
            except Locked:
                continue
            inside.append(1)
            crowds.append(len(inside))
            inside.pop()
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(crowds) == {1} and not path.exists()


def test_locks_of_a_file_leave_nothing_but_an_empty_directory(
    home: MakeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = tmp_path / "notes.db"
    file.touch()
    lock = locks.network_lock(Home(home()).prepare(), bytes(32), file)
    (directory,) = tmp_path.glob("crdtlog-*")
    assert len(list(directory.iterdir())) == 1
    lock.release()
    assert list(directory.iterdir()) == [] and list(Home(home()).run.iterdir()) == []


def test_a_common_directory_that_is_open_to_others_or_not_ours_is_refused(
    home: MakeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = tmp_path / "notes.db"
    file.touch()
    directory = tmp_path / f"crdtlog-{os.geteuid()}"
    directory.mkdir(mode=0o755)
    with pytest.raises(KeysUnusable, match="Other users") as caught:
        locks.network_lock(Home(home()).prepare(), bytes(32), file)
    assert f"chmod 700 '{directory}'" in caught.value.hint
    directory.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeysUnusable, match="another user") as caught:
        locks.network_lock(Home(home()).prepare(), bytes(32), file)
    assert "TMPDIR" in caught.value.hint
