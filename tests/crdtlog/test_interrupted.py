"""Killed at any moment, an engine loses nothing; and engines and programs on one file stay out of each other's way."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import crdtlog
from crdtlog import errors
from crdtlog.database import Database
from crdtlog.values import pack
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    closing_connection,
    fill,
    lacking,
    logged,
    pair,
    rows_of,
    send,
    sync,
)

ROOT = Path(__file__).resolve().parents[2]
NUMBERED = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, n INTEGER)"
NAMED = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER)"

DRAIN_FOREVER = """
import sys, time, crdtlog
db = crdtlog.open(sys.argv[1], home=sys.argv[2], create=False)
print("ready", flush=True)
while (step := db.drain()).more:
    if step.rows:
        print("step", flush=True)
    time.sleep(0.01)  # a pause leaves others their turn (R4)
"""

APPLY_ALL = """
import sys, time, msgpack, crdtlog
db = crdtlog.open(sys.argv[1], home=sys.argv[2], create=False)
todo = msgpack.unpackb(open(sys.argv[3], "rb").read())
print("ready", flush=True)
while todo:
    step = db.apply(todo)
    todo = todo[step.done:]
    if step.rows:
        print("step", flush=True)
    time.sleep(0.03)  # a pause leaves others their turn (R4)
"""


def engine_process(script: str, db: Database, *arguments: object) -> subprocess.Popen[str]:
    """Another process with an engine on the same file; it says `ready` once it is open."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(db.path), str(db.home.path), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def kill_after(process: subprocess.Popen[str], steps: int, seconds: float) -> None:
    """Kill a process when it has done so many steps of its work, and gone on for a moment."""
    assert process.stdout is not None
    for _ in range(steps):
        assert process.stdout.readline().strip() == "step"
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL, "it had ended by itself"
    process.stdout.close()


# --- killed at any moment -----------------------------------------------------------------------------------------


def test_a_drain_killed_at_any_moment_is_finished_by_the_next_one(world: World) -> None:
    one, other = pair(world, NUMBERED)
    fill(one, 1, 60_000)
    before = one.position()
    one.close()
    chance = random.Random(2)

    for steps in (0, 0, 1, 1, 1):
        kill_after(engine_process(DRAIN_FOREVER, one), steps, chance.uniform(0.0, 0.05))
    one = world.reopen("one")

    assert one.pending() > 0, "it was killed too late to mean anything"
    assert one.position() >= before + 3, "each of the last three had done a step"
    assert one.verify().ok
    assert one.execute("SELECT count(*) FROM t").fetchone() == (60_000,)
    one.execute("DELETE FROM t WHERE id > 59000")
    sync(one, other)
    assert_converged([one, other], ["t"])


def test_an_apply_killed_at_any_moment_is_finished_by_the_next_one(world: World, tmp_path: Path) -> None:
    one, other = pair(world, NAMED)
    fill(one, 1, 40_000, "'k' || n, 'v' || n, n")
    one.drain_all()
    one.execute("UPDATE t SET v = 'again' WHERE n % 3 = 0")
    one.drain_all()
    other.execute("INSERT INTO t VALUES ('k7', 'mine', 0), ('own', 'mine', 0)")
    (tmp_path / "entries").write_bytes(pack(lacking(one, other)))
    other.close()
    chance = random.Random(3)

    for steps in (0, 0, 1, 1, 1):
        kill_after(engine_process(APPLY_ALL, other, tmp_path / "entries"), steps, chance.uniform(0.0, 0.05))
    other = world.reopen("other")

    assert lacking(one, other), "it was killed too late to mean anything"
    assert rows_of(other, "SELECT count(*) FROM t")[0][0] > 2
    assert other.verify().ok
    sync(one, other)
    assert rows_of(other, "SELECT count(*) FROM t") == [(40_001,)]
    assert_converged([one, other], ["t"])


# --- beside others ------------------------------------------------------------------------------------------------


def test_two_processes_drain_one_file_at_once(world: World) -> None:
    one, other = pair(world, NUMBERED)
    fill(one, 1, 30_000)
    second = engine_process(DRAIN_FOREVER, one)

    turn = 0
    while one.drain().more or (second.poll() is None and turn < 300):
        turn += 1
        one.execute("UPDATE t SET n = ? WHERE id = ?", (turn, turn % 30_000 + 1))
        one.execute("INSERT INTO t VALUES (?, 'meanwhile', 0)", (-turn,))
        time.sleep(0.01)
    second.communicate(timeout=60)

    assert second.returncode == 0
    sync(one, other)
    assert_converged([one, other], ["t"])


def test_two_processes_come_to_an_end_of_a_backlog_while_somebody_goes_on_writing(world: World) -> None:
    """Each step of one undoes what the other has sorted: one of them has to leave it to the other."""
    one, other = pair(world, NUMBERED)
    fill(one, 1, 30_000)
    with crdtlog.open(one.path, home=world.home("one"), create=False) as second:
        for turn in range(1, 100):
            one.execute("UPDATE t SET n = ? WHERE id = ?", (turn, turn % 30_000 + 1))
            one.execute("INSERT INTO t VALUES (?, 'meanwhile', 0)", (-turn,))
            one.drain()
            second.drain()
        assert one.pending() <= 4
    sync(one, other)
    assert_converged([one, other], ["t"])


def test_a_program_that_writes_while_entries_are_applied_never_fails_and_loses_nothing(
    world: World, tmp_path: Path
) -> None:
    one, other = pair(world, NAMED)
    fill(one, 1, 40_000, "'k' || n, 'v' || n, n")
    one.drain_all()
    (tmp_path / "entries").write_bytes(pack(lacking(one, other)))
    process = engine_process(APPLY_ALL, other, tmp_path / "entries")

    written, waits = 0, list[float]()
    with closing_connection(other.path) as connection:
        connection.execute("PRAGMA busy_timeout = 1000")
        while process.poll() is None:
            began = time.monotonic()
            key = f"k{written * 37 % 50_000}"
            connection.execute(
                "INSERT INTO t VALUES (?, 'user', 0) ON CONFLICT DO UPDATE SET v = 'user'", (key,)
            )
            waits.append(time.monotonic() - began)
            written += 1
            time.sleep(0.01)
    process.communicate(timeout=60)
    sync(one, other)

    assert process.returncode == 0
    assert written > 3
    assert max(waits) < 1.0
    assert_converged([one, other], ["t"])
    assert any(item.writer == other.writer for item, _ in logged(other))
    shown = {row[0] for row in rows_of(other, "SELECT id FROM t WHERE v = 'user'")}
    listed = {item["key"] for item in other.conflicts() if item["value"] == "user"}
    assert {f"k{number * 37 % 50_000}" for number in range(written)} <= shown | listed


def test_a_locked_file_is_busy_and_nothing_happened(world: World) -> None:
    one, other = pair(world, NAMED)
    one.execute("INSERT INTO t VALUES ('k', 1, 1)")
    one.drain_all()
    entries = lacking(one, other)
    other._state.connection.execute("PRAGMA busy_timeout = 50")
    with closing_connection(other.path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(errors.Busy):
            other.apply(entries)
        connection.execute("ROLLBACK")

    apply_all(other, entries)
    assert_converged([one, other], ["t"])


def test_a_person_whose_shell_holds_a_read_open_does_not_stop_apply(world: World) -> None:
    one, other = pair(world, NAMED, rows="INSERT INTO t VALUES ('k', 1, 1)")
    one.execute("UPDATE t SET v = 2")
    with closing_connection(other.path) as connection:
        connection.execute("BEGIN")
        assert connection.execute("SELECT v FROM t").fetchone() == (1,)
        send(one, other)
        assert connection.execute("SELECT v FROM t").fetchone() == (1,)
        with pytest.raises(sqlite3.OperationalError):  # as with any second writer (R4)
            connection.execute("UPDATE t SET v = 3")
        connection.execute("ROLLBACK")

    assert_converged([one, other], ["t"])
