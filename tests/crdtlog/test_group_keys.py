"""Secrets after removals, and the recovery key, in the engine."""

from pathlib import Path

import pytest

import crdtlog
from crdtlog import new_recovery
from crdtlog.errors import Usage
from crdtlog.members import newcomer_of
from tests.crdtlog.devices import (
    World,
    assert_converged,
    devices,
    rows_of,
    send,
    sync,
    sync_all,
)
from tests.crdtlog.grouped import TABLE, put, role


def test_a_removal_hands_a_new_secret_to_all_but_the_removed(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        before = a.epoch
        a.remove_member(c.device.id)
        assert a.epoch != before
        send(a, b)
        assert b.epoch == a.epoch
        assert b.epochs() == a.epochs()
        send(a, c)  # should somebody send it all the same
        assert a.epoch not in c.epochs()
        assert not b.rotate_if_due()
        assert world.reopen("b").epochs() == a.epochs()


def test_two_removals_apart_end_in_a_secret_that_neither_knows(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c, d = devices(world, ["a", "b", "c", "d"], TABLE)
        a.remove_member(c.device.id)
        b.remove_member(d.device.id)
        sync(a, b)
        assert a.rotate_if_due()
        sync(a, b)
        assert not b.rotate_if_due()
        assert a.epoch == b.epoch
        for gone in (c, d):
            send(a, gone)
            assert a.epoch not in gone.epochs()


def test_who_joined_while_somebody_rotated_gets_the_secret_later(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        d = world.join("d", a)
        b.remove_member(c.device.id)
        sync(a, b)
        send(a, d)
        assert b.epoch not in d.epochs()
        assert a.rotate_if_due()
        sync_all([a, b, d])
        assert d.epoch == a.epoch == b.epoch
        assert d.epochs().keys() == a.epochs().keys()


# --- the recovery key -----------------------------------------------------------------------------------------------


def test_the_recovery_key_makes_an_admin_who_lets_the_removed_in_again(tmp_path: Path) -> None:
    key = new_recovery()
    with World(tmp_path) as world:
        world.open["a"] = a = crdtlog.open(
            world.path("a"), home=world.home("a"), name="a", recovery=key.public
        )
        a.execute(TABLE[0])
        a.track("t")
        b, c = (world.join(name, a) for name in "bc")
        for db in (b, c):
            send(a, db)
            db.caught_up()
        a.change_role(c.device.id, "reader")
        sync_all([a, b, c])
        a.remove_member(b.device.id)
        b.remove_member(a.device.id)
        for source in (a, b):
            send(source, c)
        assert [member.role for member in c.members()] == ["reader"]
        with pytest.raises(Usage, match="another database"):
            c.recover(new_recovery())

        c.recover(key)

        assert role(c, c) == "admin"
        c.add_member(newcomer_of(a.device, "admin"))
        put(c, "one", 1)
        send(c, a)
        assert role(a, c) == role(a, a) == "admin"
        assert role(a, b) is None
        assert rows_of(a) == [("one", 1)]
        put(a, "two", 2)
        sync(a, c)
        assert c.rotate_if_due()
        sync(a, c)
        assert_converged([a, c], ["t"])
        assert a.epoch == c.epoch


def test_a_database_without_a_recovery_key_says_so(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        (a,) = devices(world, ["a"], TABLE)
        with pytest.raises(Usage, match="without a recovery key"):
            a.recover(new_recovery())
