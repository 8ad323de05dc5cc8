"""Random histories with devices that join without history: they end with what all others have, whenever they joined."""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.database import Database
from crdtlog.errors import EntryRefused, Usage
from tests.crdtlog.devices import World, assert_converged, devices, quick_directory, send

TABLES = [
    "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER, w)",
    "CREATE TABLE t (id TEXT COLLATE NOCASE PRIMARY KEY, v TEXT, n INTEGER, w)",
    "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, n INTEGER, w)",
]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with quick_directory() as path:
        yield path


def meet(source: Database, target: Database, *, is_heard: bool) -> None:
    """Send what the source has, from one member to another; with `is_heard` the source hears that it arrived."""
    if any(
        one.device.id not in {member.device for member in other.members()}
        for one, other in ((source, target), (target, source))
    ):
        return
    send(source, target)
    if is_heard and not target.awaits_snapshot:
        source.record_held(target.device.id, {writer: head.seq for writer, head in target.heads().items()})


def write(db: Database, chance: random.Random, count: int, keys: list[object]) -> None:
    key = chance.choice(keys)
    match chance.randrange(6):
        case 0:
            db.execute("DELETE FROM t WHERE id = ?", (key,))
        case 1:
            db.execute("UPDATE t SET n = n + 1 WHERE id = ?", (key,))
        case 2:
            db.execute("UPDATE t SET v = v || ? WHERE id = ?", (f"+{count}", key))
        case 3:
            db.execute("UPDATE t SET w = ? WHERE id = ?", (count, key))
        case _:
            db.execute(
                "INSERT INTO t VALUES (?, ?, 0, 0) ON CONFLICT (id) DO UPDATE SET v = excluded.v",
                (key, f"{db.device.name}{count}"),
            )
    if chance.random() < 0.7:
        db.drain_all()


def change_group(db: Database, chance: random.Random, dbs: list[Database]) -> None:
    try:
        db.change_role(chance.choice(dbs).device.id, chance.choice(["admin", "reader"]))
    except (Usage, EntryRefused) as error:
        assert any(
            word in str(error)
            for word in (
                "may not",
                "last admin",
                "no member",
                "only read",
                "first exchange",
                "has not been given",
            )
        ), error


@given(st.integers(0, 2**32))
def test_whoever_joins_without_history_ends_with_what_the_others_have(directory: Path, seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(dir=directory) as place, World(Path(place)) as world:
        table = chance.choice(TABLES)
        keys: list[object] = [1, 2, 3] if "INTEGER PRIMARY" in table else ["x", "y", "Y"]
        dbs = devices(world, ["a", "b", "c"], [table])
        kinds = {"n": "counter", "v": "text"} if "v TEXT" in table else {"n": "counter"}
        join_at = {chance.randrange(25): "d", chance.randrange(25): "e"}
        track_at, change_at = chance.randrange(40), chance.randrange(60)
        for step in range(30):
            if step == track_at and dbs[0].members()[0].role == "admin":
                dbs[0].track("t", kinds)
            if step in join_at:
                by = chance.choice([db for db in dbs if not db.awaits_snapshot])
                try:
                    dbs.append(
                        world.join(join_at[step], by, chance.choice(["admin", "writer"]), history=False)
                    )
                except EntryRefused as error:
                    assert "may not" in str(error) or "first exchange" in str(error), error
            if step == change_at:
                change_group(chance.choice(dbs), chance, dbs)
            one = chance.choice(dbs)
            match chance.randrange(8):
                case 0 | 1 | 2:
                    write(one, chance, step, keys)
                case 3:
                    dbs[dbs.index(one)] = world.reopen(one.device.name)
                case _:
                    meet(
                        one,
                        chance.choice([db for db in dbs if db is not one]),
                        is_heard=chance.random() < 0.7,
                    )
        for _ in range(8):
            for source in dbs:
                for target in dbs:
                    if source is not target:
                        meet(source, target, is_heard=True)
        # Whoever was let in by one that was no admin any more is none of them.
        dbs = [db for db in dbs if db.device.id in {member.device for member in dbs[0].members()}]
        assert not any(db.awaits_snapshot for db in dbs)
        for db in dbs:
            db.drain_all()
        for _ in range(2):
            for source in dbs:
                for target in dbs:
                    if source is not target:
                        meet(source, target, is_heard=True)
        assert_converged(dbs, ["t"])
