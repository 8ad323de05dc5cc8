"""The recovery key: what it counts for, and what a removal can say against it."""

from crdtlog.membership import Recover, Remove
from tests.crdtlog.membergroup import (
    KEY,
    Peer,
    agree,
    founded,
    graph_of,
    made,
    meet,
    newcomer,
    roles,
    sign,
    writer,
)


def test_the_last_admin_leaves_and_a_device_recovers() -> None:
    a, b = founded("a", "b", roles={"b": "writer"})
    a.write(Remove(a.device))
    meet(a, b)
    assert "admin" not in roles(b).values()

    b.recover()
    b.write()

    meet(b, a)
    assert roles(b) == roles(a) == {"a": None, "b": "admin"}


def test_a_device_that_was_no_member_recovers() -> None:
    a, b = founded("a", "b")
    new = Peer("new", a.database, dict(a.held), dict(a.applied))

    new.recover()
    new.write(Remove(a.device))

    meet(new, b)
    assert roles(b) == {"a": None, "b": "admin", "new": "admin"}
    assert b.state().members[new.device].added_by == new.device


def test_who_recovers_is_not_put_out_by_what_admins_said_before_they_knew() -> None:
    a, b, c = founded("a", "b", "c")
    known = dict(c.applied)
    a.write(Remove(b.device))
    meet(a, c)
    b.forge(None, known)
    b.forge(Remove(c.device), known)
    b.forge(Remove(a.device), known)
    meet(a, c, b)
    assert roles(c) == {"a": None, "b": None, "c": None}

    c.recover()
    b.forge(Remove(c.device), known, 7)
    c.sync(b)
    assert roles(c) == {"a": None, "b": None, "c": "admin"}
    assert c.add("a") is not None
    b.forge(Remove(a.device), known, 8)
    meet(c, b, a)

    a.write()
    meet(c, a)
    assert roles(c) == roles(a) == {"a": "admin", "b": None, "c": "admin"}
    agree(a, c)


def test_recoveries_that_are_none() -> None:
    a, _b, c = founded("a", "b", "c", roles={"c": "reader"})
    known = dict(a.applied)
    true = c.recover()
    assert isinstance(true.content, Recover)
    graph = graph_of(a.database, a.held.values())
    message = b"something else"

    def refused(log: bytes, seq: int, context: dict[bytes, int], content: Recover) -> bool:
        entry = made(log, seq, context, content)
        return graph.refusal(entry.record) is not None  # type: ignore[arg-type]

    assert not refused(true.writer, 1, known, true.content)
    assert refused(true.writer, 1, known, Recover(newcomer("c"), sign(KEY, message)))
    assert refused(true.writer, 2, known, true.content)
    assert refused(writer("c", 9), 1, known, true.content)  # signed for another log
    assert refused(true.writer, 1, {**known, a.log: 1}, true.content)  # signed after another past
    assert refused(writer("b", 2), 1, known, true.content)  # of another device


def test_what_a_device_had_that_recovers_counts_its_own_work_too() -> None:
    """Else its new log, which builds on the old one, could never be applied by anybody."""
    a, b, c = founded("a", "b", "c")
    a.write()
    c.write(Remove(a.device))
    a.recover()
    a.write()

    meet(c, b, a)

    assert roles(c) == {"a": "admin", "b": "admin", "c": "admin"}
    assert c.applied[writer("a", 2)] == 2
    agree(a, b, c)
