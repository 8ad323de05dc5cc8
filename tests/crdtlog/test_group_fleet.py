"""Random histories of a group that changes while its devices write apart: who remains holds the same (membership).

Every write of a device that belongs in the end shows, is a conflict, was overwritten, or is put aside on its device.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.database import Database
from crdtlog.errors import EntryRefused, Usage
from crdtlog.members import newcomer_of
from tests.crdtlog.devices import World, assert_converged, devices, quick_directory, send

TABLE = ["CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER)"]
NAMES = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with quick_directory() as path:
        yield path


def exchange(source: Database, target: Database) -> None:
    """Send what the source has, as far as the target takes it from a member."""
    if target.device.id not in {member.device for member in source.members()}:
        return
    if source.device.id not in {member.device for member in target.members()}:
        return
    send(source, target)


def change_group(db: Database, chance: random.Random, dbs: list[Database]) -> None:
    other = chance.choice(dbs)
    try:
        match chance.randrange(5):
            case 0:
                db.remove_member(other.device.id)
            case 1 | 2:
                db.change_role(other.device.id, chance.choice(["admin", "writer", "reader"]))
            case _:
                if other.device.id not in {member.device for member in db.members()}:
                    db.add_member(newcomer_of(other.device, chance.choice(["admin", "writer", "reader"])))
    except (Usage, EntryRefused) as error:
        assert any(
            word in str(error) for word in ("may not", "last admin", "no member", "removed", "only read")
        ), error


def write(db: Database, chance: random.Random, count: int) -> None:
    key = chance.choice("xyz")
    match chance.randrange(4):
        case 0:
            db.execute("DELETE FROM t WHERE id = ?", (key,))
        case 1:
            db.execute("UPDATE t SET n = n + 1 WHERE id = ?", (key,))
        case _:
            db.execute(
                "INSERT INTO t VALUES (?, ?, 0) ON CONFLICT (id) DO UPDATE SET v = excluded.v",
                (key, f"{db.device.name}{count}"),
            )
    if chance.random() < 0.7:
        db.drain_all()


@given(st.integers(0, 2**32))
def test_who_remains_holds_the_same(directory: Path, seed: int) -> None:
    chance = random.Random(seed)
    place = directory / str(seed)
    place.mkdir(exist_ok=True)
    with World(place / str(chance.random())) as world:
        world.directory.mkdir()
        dbs = devices(world, NAMES, TABLE)
        merging = chance.random() < 0.5
        if merging:
            dbs[0].track("t", {"n": "counter", "v": "text"})
            for db in dbs[1:]:
                send(dbs[0], db)
        for step in range(chance.randrange(5, 30)):
            db = chance.choice(dbs)
            match chance.randrange(8):
                case 0 | 1:
                    change_group(db, chance, dbs)
                case 2 | 3 | 4:
                    write(db, chance, step)
                case 5:
                    name = db.device.name
                    dbs[dbs.index(db)] = world.reopen(name)
                case _:
                    exchange(db, chance.choice(dbs))
        # Whoever is out or forgotten in somebody's eyes may still meet the others through members that remain.
        for _ in range(6):
            for source in dbs:
                for target in dbs:
                    if source is not target:
                        exchange(source, target)
        for db in dbs:
            db.drain_all()
        remaining = [db for db in dbs if all_agree(db, dbs)]
        for _ in range(4):
            for source in remaining:
                for target in remaining:
                    if source is not target:
                        send(source, target)
        if remaining:
            assert_converged(remaining, ["t"])
            groups = {tuple(sorted((m.device, m.role) for m in db.members())) for db in remaining}
            assert len(groups) == 1


def all_agree(db: Database, dbs: list[Database]) -> bool:
    """Whether the device belongs in its own eyes and in those of all who belong in their own."""
    own = [other for other in dbs if other.device.id in {member.device for member in other.members()}]
    return db in own and all(db.device.id in {member.device for member in other.members()} for other in own)
