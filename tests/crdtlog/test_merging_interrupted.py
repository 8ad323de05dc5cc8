"""Columns that merge, in real processes: killed in the middle of a drain or an apply, or two engines on one file.

Where a process is killed, it has told that it stands in the middle of a transaction, and the test sees that it does.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from crdtlog.database import Database
from crdtlog.values import pack
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    devices,
    lacking,
    rows_of,
    send,
    sync_all,
    write_apart,
)

ROOT = Path(__file__).resolve().parents[2]
TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, doc TEXT, tags TEXT, body TEXT, plain)"
KINDS = {"n": "counter", "doc": "json", "tags": "set", "body": "text"}
UP = "WITH RECURSIVE u (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM u WHERE i < {count}) "
#: An UPDATE in which each of the four kinds adds something that is this device's own.
ADDED = (
    "UPDATE t SET n = n + 1, doc = json_set(doc, '$.{name}', 1), tags = json_insert(tags, '$[#]', '{name}'), "
    "body = '{name} ' || body, plain = '{name}'"
)
#: The process stops once it has stored the documents of so many rows, and waits there to be killed.
STOPPING = """
import sys, time, msgpack, crdtlog
from crdtlog import rowdocs
db = crdtlog.open(sys.argv[1], home=sys.argv[2], create=False)
left, store = int(sys.argv[3]), rowdocs.store_all
def counted(state, tracked, docs):
    global left
    for name, some in docs.items():
        left -= 1
        store(state, tracked, {name: some})
        if left == 0:
            print("middle", flush=True)
            time.sleep(600)
rowdocs.store_all = counted
"""
DRAIN = STOPPING + "db.drain_all()\n"
APPLY = (
    STOPPING
    + """
todo = msgpack.unpackb(open(sys.argv[4], "rb").read())
while todo:
    todo = todo[db.apply(todo, 0).done:]
"""
)


def run(script: str, db: Database, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(db.path), str(db.home.path), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def killed_in_the_middle(process: subprocess.Popen[str], path: Path) -> None:
    """Kill it where it stops; before that it holds the write lock, with documents stored that nobody else sees."""
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "middle"
    before = picture(path)
    with closing_connection(path) as connection:
        connection.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("BEGIN IMMEDIATE")
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    assert picture(path) == before


def picture(path: Path) -> list[Any]:
    """What others see of a file: its rows, documents, and captures, and where its logs end."""
    with closing_connection(path) as connection:
        return [
            connection.execute(sql).fetchall()
            for sql in (
                "SELECT * FROM t",
                "SELECT * FROM crdtlog__row_1",
                "SELECT * FROM crdtlog__merge",
                "SELECT count(*) FROM crdtlog__capture_1",
                "SELECT max(position) FROM crdtlog__log",
            )
        ]


def fleet(world: World, rows: int) -> tuple[Database, Database]:
    """Two devices; one has added something to each row of the other's and they have heard of it, so all are patched."""
    one, other = devices(world, ["one", "other"], [TABLE])
    one.track("t", KINDS)
    one.execute(UP.format(count=rows) + "INSERT INTO t SELECT i, i, '{}', '[]', 'text', '' FROM u")
    sync_all([one, other])
    return one, other


def judge(one: Database, other: Database, rows: int, steps: int, names: set[str]) -> None:
    """Everybody's additions are there, once each."""
    sync_all([one, other])
    assert_converged([one, other], ["t"])
    found = rows_of(one, "SELECT id, n, json(doc), tags, body FROM t")
    assert len(found) == rows
    for id_, n, doc, tags, body in found:
        assert n == id_ + steps
        assert {name for name in names if f'"{name}":1' in doc} == names
        assert {name for name in names if f'"{name}"' in tags} == names
        assert sorted(body.split()) == sorted([*names, "text"])
    assert one.unmerged() == []


@pytest.mark.parametrize(
    ("rows", "stop"),
    [(400, 1), (400, 399), (400, 400), (2_600, 2_550)],
    ids=["first", "last but one", "last", "in the second entry"],
)
def test_a_drain_killed_in_the_middle_is_done_by_the_next(world: World, rows: int, stop: int) -> None:
    one, other = fleet(world, rows)
    write_apart([other], ADDED.format(name="other"))
    one.execute(ADDED.format(name="one"))
    position = one.position()
    if rows > 2_500:
        fill_up(one)
    one.close()

    killed_in_the_middle(run(DRAIN, one, stop), one.path)
    one = world.reopen("one")

    assert one.pending() >= rows
    assert (one.position() > position) == (rows > 2_500), "entries of the group are there, its captures too"
    judge(one, other, rows, 2, {"one", "other"})


def fill_up(one: Database) -> None:
    """More captured rows than one entry holds, so that they become a group of entries."""
    one.execute(UP.format(count=3_000) + "INSERT INTO t SELECT -i, -i, '{}', '[]', 'text', '' FROM u")
    one.execute("DELETE FROM t WHERE id < 0")


@pytest.mark.parametrize(
    ("entries", "stop"), [(1, 1), (1, 300), (3, 700)], ids=["first", "last", "in the third entry"]
)
def test_an_apply_killed_in_the_middle_is_done_by_the_next(
    world: World, tmp_path: Path, entries: int, stop: int
) -> None:
    rows = 300
    one, other = fleet(world, rows)
    names = [f"x{number}" for number in range(entries)]
    for name in names:
        write_apart([other], ADDED.format(name=name))
    write_apart([one], ADDED.format(name="one"))
    (tmp_path / "entries").write_bytes(pack(lacking(other, one)))
    position = one.position()
    one.close()

    killed_in_the_middle(run(APPLY, one, stop, tmp_path / "entries"), one.path)
    one = world.reopen("one")

    assert one.position() == position + entries - 1
    judge(one, other, rows, entries + 1, {"one", *names})


def test_a_process_killed_again_and_again_while_it_applies_and_drains_loses_nothing(
    world: World, tmp_path: Path
) -> None:
    rows = 60
    one, other = fleet(world, rows)
    names = set()
    for turn in range(6):
        for db, name in ((one, f"a{turn}"), (other, f"b{turn}")):
            db.execute(ADDED.format(name=name))
            names.add(name)
        other.drain_all()
        (tmp_path / "entries").write_bytes(pack(lacking(other, one)))
        one.close()
        stop = rows * 2 * turn // 6 + 1  # first in the drain, later on in the apply that follows it
        killed_in_the_middle(run(APPLY, one, stop, tmp_path / "entries"), one.path)
        one = world.reopen("one")
        if turn % 2:
            send(one, other)
    judge(one, other, rows, len(names), names)


# --- two engines on one file --------------------------------------------------------------------------------------

WRITER = """
import os, sys, time, crdtlog
db = crdtlog.open(sys.argv[1], home=sys.argv[2], create=False)
print("ready", flush=True)
turn = 0
while turn < 1000 and not os.path.exists(sys.argv[4]):
    db.execute(sys.argv[3].replace("NAME", f"p{turn}"))
    turn += 1
    if turn % 3:
        db.drain()
    time.sleep(0.05)
db.drain_all()
print(turn, flush=True)
"""


def test_two_processes_write_and_drain_one_file_while_others_changes_are_applied(
    world: World, tmp_path: Path
) -> None:
    rows, turns = 20, 16
    one, other = fleet(world, rows)
    second = run(WRITER, one, ADDED.format(name="NAME"), tmp_path / "stop")
    assert second.stdout is not None
    assert second.stdout.readline().strip() == "ready"

    names = set()
    for turn in range(turns):
        for db, name in ((one, f"a{turn}"), (other, f"b{turn}")):
            db.execute(ADDED.format(name=name))
            names.add(name)
        if turn % 2:
            one.drain()
        if turn % 3:
            send(one, other)
        if turn % 4:
            send(other, one)
        time.sleep(0.02)
    assert second.poll() is None
    (tmp_path / "stop").touch()
    told, _ = second.communicate(timeout=60)

    assert second.returncode == 0
    assert int(told) > 3
    names |= {f"p{turn}" for turn in range(int(told))}
    judge(one, other, rows, len(names), names)
