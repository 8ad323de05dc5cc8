"""What a device writes before the record that let it in has reached it: its context names nothing about itself."""

import itertools

import pytest

from crdtlog.membership import Add, Remove, Role
from tests.crdtlog.membergroup import Peer, device, founded, meet, newcomer, picture, roles


def joined(by: Peer, name: str, role: str = "writer") -> Peer:
    """A device that was let in, and has nothing yet."""
    by.add(name, role)
    return Peer(name, by.database)


def test_it_counts_as_soon_as_the_record_is_there_too() -> None:
    a, b = founded("a", "b")
    d = joined(a, "d")
    early = d.forge(None, {})
    b.receive([early])  # by whatever way it came first
    assert d.log not in b.applied
    meet(a, b)
    assert b.applied[d.log] == 1
    d.sync(a)
    meet(a, b, d)
    assert picture(a.state()) == picture(b.state()) == picture(d.state())


def test_a_readers_does_not_count() -> None:
    a, _ = founded("a", "b")
    d = joined(a, "d", "reader")
    early = d.forge(None, {})
    a.receive([early])
    assert d.log not in a.applied


@pytest.mark.parametrize("number", [1, 2], ids=["its log", "a new log"])
def test_who_was_removed_cannot_pretend_to_have_just_joined(number: int) -> None:
    a, b, c = founded("a", "b", "c", roles={"c": "writer"})
    c.write()
    meet(a, b, c)
    a.write(Remove(c.device))
    meet(a, b)
    late = c.forge(None, {}, number)
    for peer in (a, b):
        peer.receive([late])
        assert peer.applied.get(late.writer, 0) < late.seq


def test_who_was_let_in_again_may_begin_with_nothing() -> None:
    a, b, c = founded("a", "b", "c", roles={"c": "writer"})
    a.write(Remove(c.device))
    meet(a, b)
    a.add("c", "writer")
    meet(a, b)
    early = c.forge(None, {}, 7)
    for peer in (a, b):
        peer.receive([early])
        assert peer.applied[early.writer] == 1


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_let_in_twice_apart_all_agree_whether_it_counts(order: tuple[int, ...]) -> None:
    a, b, c = founded("a", "b", "c")
    a.write(Add(newcomer("d", "writer")))
    b.write(Add(newcomer("d", "reader")))
    early = Peer("d", a.database).forge(None, {})
    parts = [list(a.held.values()), list(b.held.values()), [early]]
    for at in order:
        c.receive(parts[at])
    had_it = bool(c.applied.get(early.writer))
    meet(a, b, c)
    # The reader's record cuts it, unless somebody had applied it before knowing of that one.
    assert {bool(peer.applied.get(early.writer)) for peer in (a, b, c)} == {had_it}
    assert had_it == (order.index(1) == 2)
    assert roles(a)["d"] == roles(b)["d"] == roles(c)["d"] == "reader"


def test_it_says_nothing_about_the_group_before() -> None:
    a, _ = founded("a", "b")
    d = joined(a, "d", "admin")
    rash = d.forge(Role(device("b"), "reader"), {})
    a.receive([rash])
    assert roles(a)["b"] == "admin"
