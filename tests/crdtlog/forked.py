"""One device twice: a copy of its home and file, which goes on beside it; and how two devices meet that may not know.

`exchange` is what a sync session does with forks: where two logs of one name differ, both show the entry at which they
part; then each sends what the other lacks.
"""

import shutil

from crdtlog.database import Database
from tests.crdtlog.devices import World, apply_all, closing_connection, lacking


def copied(world: World, name: str, copy: str) -> Database:
    """A second device with the keys and the file of one, as they are now."""
    world.open[name].drain_all()
    shutil.copytree(world.home(name).path, world.home(copy).path)
    with closing_connection(world.path(name)) as source, closing_connection(world.path(copy)) as target:
        source.backup(target)
    import crdtlog

    db = world.open[copy] = crdtlog.open(world.path(copy), home=world.home(copy), create=False)
    return db


def parting(one: Database, other: Database) -> tuple[bytes, int] | None:
    """A log of one name that is not the same on two devices, and the first number at which they differ."""
    mine, theirs = one.heads(), other.heads()
    for writer in sorted(mine.keys() & theirs.keys()):
        end = min(mine[writer].seq, theirs[writer].seq)
        numbers = {writer: range(1, end + 1)}
        here, there = one.hashes(numbers)[writer], other.hashes(numbers)[writer]
        for seq in numbers[writer]:
            if here.get(seq) != there.get(seq):
                return writer, seq
    return None


def exchange(one: Database, other: Database) -> None:
    """All that either has, both ways."""
    for db in (one, other):
        db.drain_all()
    for _ in range(100):
        found = parting(one, other)
        if found is None:
            break
        here, there = one.signed_entry(*found), other.signed_entry(*found)
        one.learn_fork(there)
        other.learn_fork(here)
    else:
        raise AssertionError("two devices do not come to call logs by the same names")
    for source, target in ((one, other), (other, one), (one, other)):
        source.drain_all()
        apply_all(target, lacking(source, target))


def exchange_all(dbs: list[Database]) -> None:
    """Until all hold the same."""
    for _ in range(3):
        for other in dbs[1:]:
            exchange(dbs[0], other)
