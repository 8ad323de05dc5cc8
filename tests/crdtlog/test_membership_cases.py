"""What happens when admins disagree, and when somebody lies: one case at a time."""

from crdtlog.membership import Add, Founding, Remove, Role, Rotate, Seen
from tests.crdtlog.membergroup import (
    Peer,
    agree,
    applicable,
    device,
    founded,
    graph_of,
    made,
    meet,
    newcomer,
    picture,
    roles,
    vector,
    writer,
)


def test_a_founder_adds_others_and_changes_what_they_may() -> None:
    a, b = founded("a", "b", roles={"b": "reader"})
    assert not b.state().may_write((b.log, 1), b.applied)

    a.write(Role(b.device, "writer"))
    meet(a, b)

    assert b.state().may_write((b.log, 1), b.applied)
    assert roles(a) == roles(b) == {"a": "admin", "b": "writer"}
    assert a.state().members[b.device].added_by == a.device
    assert a.state().members[a.device].added_by is None


def test_two_admins_remove_one_another() -> None:
    a, b, c = founded("a", "b", "c")
    a.write(Remove(b.device))
    b.write(Remove(a.device))

    meet(a, b, c)

    assert roles(c) == {"a": None, "b": None, "c": "admin"}
    assert picture(a.state()) == picture(b.state()) == picture(c.state())


def test_two_admins_remove_one_another_after_writing_what_nobody_else_had() -> None:
    """A removal takes effect even behind entries that do not count; they do not begin to count by it."""
    a, b, c = founded("a", "b", "c")
    for one, other in ((a, b), (b, a)):
        one.write()
        one.write(Remove(other.device))

    c.receive([*a.held.values(), *b.held.values()])
    c.write()

    assert roles(c) == {"a": None, "b": None, "c": "admin"}
    assert c.applied[a.log] == 3 and b.log not in c.applied


def test_three_admins_remove_one_another_in_a_circle() -> None:
    a, b, c, d = founded("a", "b", "c", "d", roles={"d": "reader"})
    for one, other in ((a, b), (b, c), (c, a)):
        one.write(Remove(other.device))

    meet(d, a, b, c)

    assert roles(d) == {"a": None, "b": None, "c": None, "d": "reader"}


def test_what_a_removed_device_wrote_before_counts_and_what_it_wrote_apart_does_not() -> None:
    a, b, c = founded("a", "b", "c")
    early = b.write()
    meet(a, b, c)
    a.write(Remove(b.device))
    late = b.write()

    meet(a, b, c)

    found = c.state()
    assert applicable(found, early) and not applicable(found, late)
    assert found.cuts[b.log] == early.seq
    assert b.applied[b.log] == early.seq  # put aside by its own author too
    assert found.members[b.device].removed_by == a.device


def test_what_a_member_had_before_it_learned_of_a_removal_counts_for_all() -> None:
    a, b, c = founded("a", "b", "c", roles={"c": "reader"})
    a.write(Remove(b.device))
    late = b.write()
    b.sync(c)
    assert applicable(c.state(), late)

    meet(a, c)

    assert any(entry.content == Seen() for entry in a.held.values())
    assert a.applied[b.log] == late.seq
    agree(a, c)


def test_an_honest_entry_whose_context_passes_a_cut_does_not_wait_for_ever() -> None:
    a, b, c, d = founded("a", "b", "c", "d")
    late = b.write()
    b.sync(c)
    on_top = c.write()
    a.write(Remove(b.device))
    a.sync(d)

    d.receive([late])
    assert late.dot in d.held and late.writer not in d.applied
    d.receive([on_top])

    assert d.applied[b.log] == late.seq and d.applied[c.log] == on_top.seq


def test_two_removed_devices_that_vouch_for_one_another_vouch_for_nothing() -> None:
    a, b, c, d = founded("a", "b", "c", "d")
    known = dict(d.applied)
    a.write(Remove(b.device))
    a.write(Remove(c.device))
    meet(a, d)
    one = b.forge(None, known)
    c.receive([one])
    two = c.forge(Seen(), {**known, b.log: 1})
    b.receive([two])
    three = b.forge(None, {**known, c.log: 1})

    meet(a, d, b, c)

    assert not any(applicable(a.state(), entry) for entry in (one, two, three))
    agree(a, d)


def test_a_removal_by_a_removed_admin_counts_but_vouches_for_nobody_else() -> None:
    a, b, c, d = founded("a", "b", "c", "d")
    known = dict(d.applied)
    a.write(Remove(b.device))
    a.write(Remove(c.device))
    meet(a, d)
    mole = c.forge(Add(newcomer("mole")), known)
    b.receive([mole])
    b.forge(Remove(c.device), {**known, c.log: 1})
    b.forge(Remove(d.device), known)

    a.sync(b)

    assert roles(a) == {"a": "admin", "b": None, "c": None, "d": None}


def test_a_device_added_by_a_removed_admin_counts_if_a_member_had_taken_it_in() -> None:
    a, b, c, d = founded("a", "b", "c", "d", roles={"c": "reader", "d": "reader"})
    a.write(Remove(b.device))
    b.write(Add(newcomer("e", "writer")))
    e = Peer("e", b.database)
    e.sync(b)
    e.write()
    a.sync(d)

    d.sync(e)
    a.sync(d)
    assert (
        roles(a) == roles(d) == {"a": "admin", "b": None, "c": "reader", "d": "reader"}
    )  # nobody had it in time
    c.receive(b.held.values())
    c.receive(e.held.values())
    c.receive(a.held.values())
    meet(c, a)

    assert roles(a) == {"a": "admin", "b": None, "c": "reader", "d": "reader", "e": "writer"}
    assert a.applied[e.log] == 1
    agree(a, c)


def test_devices_that_only_a_late_admission_let_in_cannot_vouch_for_it_or_let_others_in() -> None:
    a, b, c = founded("a", "b", "c")
    known = dict(c.applied)
    a.write(Remove(b.device))
    meet(a, c)
    mole = b.forge(Add(newcomer("mole")), known)
    m = Peer("mole", b.database, dict(b.held), {})
    second = m.forge(Add(newcomer("second")), {**known, mole.writer: mole.seq})
    m.forge(Role(c.device, "reader"), vector([second]))

    meet(c, a, b, m)

    assert set(roles(a)) == {"a", "b", "c"}
    assert "admission does not count" in str(a.state().why_not(second.dot))


def test_a_removed_admin_that_changes_another_after_letting_it_in_again_changes_nothing() -> None:
    """To speak of a device as a member is not to make it one."""
    a, b, c, z = founded("a", "b", "c", "z")
    a.write(Remove(z.device))
    meet(a, b, c)
    known = dict(c.applied)
    a.write(Remove(b.device))
    meet(a, c)
    again = b.forge(Add(newcomer("z")), known, 1)
    b.forge(Role(z.device, "writer"), vector([again]), 2)

    meet(a, c, b)

    assert roles(a) == {"a": "admin", "b": None, "c": "admin", "z": None}


def test_an_admin_made_a_writer_cannot_go_on_letting_devices_in() -> None:
    a, b, c = founded("a", "b", "c")
    known = dict(c.applied)
    a.write(Role(b.device, "writer"))
    meet(a, c)
    data = b.forge(None, known)
    b.forge(Add(newcomer("mole")), known)
    behind = b.forge(None, known)

    meet(a, c, b)

    assert set(roles(a)) == {"a", "b", "c"}
    found = a.state()
    assert applicable(found, data) and not applicable(found, behind)
    agree(a, c)


def test_what_a_demoted_device_wrote_offline_stays_out_and_it_goes_on_as_a_new_writer() -> None:
    a, b, c = founded("a", "b", "c")
    offline = b.write()
    a.write(Role(b.device, "reader"))
    meet(a, b, c)
    assert not applicable(a.state(), offline)

    b.write(Seen())

    assert b.number == 2
    meet(a, b, c)
    assert a.applied[b.log] == 1
    assert not a.state().may_write((b.log, 2), b.applied)
    agree(a, b, c)


def test_a_demoted_device_may_write_again_once_it_is_a_writer_again() -> None:
    a, b = founded("a", "b")
    offline = b.write()
    a.write(Role(b.device, "reader"))
    a.write(Role(b.device, "writer"))
    meet(a, b)

    fresh = b.write()

    meet(a, b)
    assert b.number == 2 and applicable(a.state(), fresh) and not applicable(a.state(), offline)
    assert not applicable(a.state(), made(writer("b"), 2, b.applied, None))  # the old log stays cut
    agree(a, b)


def test_a_device_comes_back_with_a_new_log_and_its_old_one_stays_cut() -> None:
    a, b, c = founded("a", "b", "c", roles={"b": "writer"})
    known = dict(c.applied)
    a.write(Remove(b.device))
    late = b.forge(None, known)
    meet(a, c, b)
    assert a.add("b", "writer") is not None
    meet(a, c, b)

    fresh = b.write()
    old = b.forge(None, a.applied, 1)

    meet(a, c, b)
    found = c.state()
    assert fresh.writer == writer("b", 2) and applicable(found, fresh)
    assert not applicable(found, late) and not applicable(found, old)
    assert roles(c)["b"] == "writer"
    agree(a, b, c)


def test_adding_a_member_again_changes_nothing() -> None:
    a, b, c = founded("a", "b", "c")
    assert a.add("b") is None

    b.forge(Add(newcomer("c", "reader")._replace(name="renamed")), b.applied)

    meet(a, b, c)
    assert roles(a) == {"a": "admin", "b": "admin", "c": "admin"}
    agree(a, b, c)


def test_two_admins_let_in_one_device_with_two_names_and_roles() -> None:
    a, b, c = founded("a", "b", "c")
    one = a.write(Add(newcomer("e", "writer")))
    two = b.write(Add(newcomer("e", "reader")._replace(name="other")))

    meet(a, b, c)

    standing = a.state().members[device("e")]
    lowest = min((one, two), key=lambda entry: entry.hash)
    assert isinstance(lowest.content, Add) and standing.newcomer == lowest.content.newcomer
    assert standing.role == "reader"
    ((_, said),) = a.state().conflicts
    assert {(author, role) for _, author, role in said} == {(a.device, "writer"), (b.device, "reader")}
    agree(a, b, c)


def test_of_concurrent_roles_the_lowest_counts_and_people_are_told() -> None:
    a, b, c = founded("a", "b", "c")
    a.write(Role(c.device, "reader"))
    b.write(Role(c.device, "writer"))

    meet(a, b, c)

    assert roles(a)["c"] == "reader"
    assert [conflict.device for conflict in a.state().conflicts] == [c.device]
    a.write(Role(c.device, "writer"))
    meet(a, b, c)
    assert roles(c)["c"] == "writer" and not c.state().conflicts


def test_a_device_that_leaves_takes_nothing_back() -> None:
    a, b, c = founded("a", "b", "c", roles={"b": "reader", "c": "writer"})
    early = c.write()
    c.write(Remove(c.device))
    b.write(Remove(b.device))
    c.forge(None, vector([early]))

    meet(a, b, c)

    assert roles(a) == {"a": "admin", "b": None, "c": None}
    assert applicable(a.state(), early) and a.applied[c.log] == 2


def test_a_removal_that_knows_of_a_readmission_counts() -> None:
    a, b, c = founded("a", "b", "c")
    a.write(Remove(b.device))
    assert a.add("b") is not None
    meet(a, b, c)

    c.write(Remove(b.device))

    meet(c, a)
    assert roles(a)["b"] is None


def test_records_of_those_who_may_not_say_so_are_refused() -> None:
    a, b, _c = founded("a", "b", "c", roles={"b": "writer", "c": "reader"})
    graph = graph_of(a.database, a.held.values())

    def refused(name: str, content: object, context: dict[bytes, int] | None = None) -> bool:
        entry = made(writer(name), 99, a.applied if context is None else context, content)  # type: ignore[arg-type]
        assert entry.record is not None
        return graph.refusal(entry.record) is not None

    rotation = Rotate(b"r" * 16, (), ((a.device, b"w"),), ())
    assert refused("b", Add(newcomer("mole")))
    assert refused("b", Role(b.device, "admin"))
    assert refused("b", Remove(a.device))
    assert refused("c", rotation)
    assert refused("stranger", Seen())
    assert refused("stranger", Remove(device("stranger")))
    assert refused("b", Seen(), {})
    assert not refused("b", rotation)
    assert not refused("b", Remove(b.device))
    assert not refused("c", Seen())
    assert not refused("a", Add(newcomer("mole")))


def test_the_founding_record_once_more_in_another_log_changes_nothing() -> None:
    a, b = founded("a", "b")
    b.write(Remove(a.device))
    meet(a, b)
    genesis = next(entry.content for entry in a.held.values() if isinstance(entry.content, Founding))

    a.forge(genesis, {}, 5)
    a.forge(genesis, b.applied, 6)

    meet(b, a)
    assert roles(b) == {"a": None, "b": "admin"}


def test_a_role_or_a_removal_of_a_stranger_has_no_effect() -> None:
    a, b = founded("a", "b")
    role = a.write(Role(device("stranger"), "admin"))
    removal = a.write(Remove(device("stranger")))
    meet(a, b)
    assert roles(b) == {"a": "admin", "b": "admin"}
    assert "no member" in str(a.state().why_not(role.dot)) and "no member" in str(
        a.state().why_not(removal.dot)
    )

    assert b.add("stranger") is not None

    meet(a, b)
    assert roles(a)["stranger"] == "admin"


def test_two_demoted_devices_that_cannot_name_what_demoted_them_do_not_tell_each_other_for_ever() -> None:
    a, c, d = founded("a", "c", "d")
    a.write()
    a.write(Role(c.device, "reader"))
    c.write()
    c.write(Role(a.device, "reader"))
    d.receive([*a.held.values(), *c.held.values()])

    a.sync(c)
    a.write(Seen())
    c.receive(a.held.values())

    assert roles(c) == {"a": "reader", "c": "reader", "d": "admin"}
    assert c.applied[writer("a", 2)] == 1
    assert not [entry for entry in c.held.values() if entry.writer == writer("c", 2)]
    meet(d, a, c)
    agree(a, c, d)


def test_what_a_demoted_admin_said_behind_its_cut_is_ended_by_a_readmission() -> None:
    a, c, d = founded("a", "c", "d")
    a.write(Role(c.device, "reader"))
    c.write()
    c.write(Role(d.device, "reader"))
    d.receive(a.held.values())
    a.receive([*c.held.values()])
    assert roles(a) == {"a": "admin", "c": "reader", "d": "reader"}

    a.write(Role(d.device, "admin"))
    assert roles(a)["d"] == "reader"
    a.write(a.state().change(d.device, "admin"))

    meet(a, d, c)
    assert roles(a) == roles(d) == {"a": "admin", "c": "reader", "d": "admin"}
    assert a.state().change(c.device, "writer") == Role(c.device, "writer")


def test_a_context_that_leaves_out_what_it_builds_on_brings_nobody_back() -> None:
    """A lying reader vouches for the second of two late records, and not for the one that this builds on."""
    a, b, c, z = founded("a", "b", "c", "z", roles={"c": "reader"})
    a.write(Remove(z.device))
    meet(a, b, c)
    known = dict(c.applied)
    a.write(Remove(b.device))
    again = b.forge(Add(newcomer("z")), known, 1)
    role = b.forge(Role(z.device, "writer"), vector([again]), 2)
    c.held.update(b.held)
    c.forge(Seen(), {**known, role.writer: 1})

    a.receive(c.held.values())

    assert roles(a) == {"a": "admin", "b": None, "c": "reader", "z": None}
    assert a.state().why_not(role.dot) == "the device was no member; it only takes away"


def test_a_device_let_in_twice_vouches_for_the_admission_that_it_knew_first() -> None:
    a, b, e = founded("a", "b", "e", roles={"e": "reader"})
    new = Peer("new", a.database)
    a.write(Add(newcomer("new", "writer")))
    new.sync(a)
    new.write()
    b.write(Remove(a.device))
    b.write(Add(newcomer("new", "writer")))
    e.sync(b)

    new.sync(e)
    meet(b, e, new)

    assert roles(b)["new"] == "writer"
    assert b.applied[new.log] == new.applied[new.log] and b.applied[new.log] < 4
    agree(b, e, new)


def test_what_a_removed_member_wrote_knowing_of_it_does_not_end_what_it_vouched_for() -> None:
    """Not even with the help of one that names it, and leaves out what it builds on."""
    a, b, c, d = founded("a", "b", "c", "d")
    a.write(Remove(b.device))
    late = b.write()
    c.receive([late])
    c.receive(a.held.values())
    a.write(Remove(c.device))
    c.held.update(a.held)
    after = c.forge(None, a.applied)
    assert c.held[c.log, 1].content == Seen() and after.seq == 2
    d.held.update(c.held)
    d.forge(Seen(), {**d.applied, after.writer: after.seq})

    a.receive(d.held.values())

    assert applicable(a.state(), late) and not applicable(a.state(), after)


def test_a_device_that_left_while_it_was_removed_and_is_let_in_again_is_heard() -> None:
    """Its leaving stands behind the cut of its log and is applied all the same; the log goes on."""
    a, b, c, d = founded("a", "b", "c", "d", roles={"b": "reader"})
    b.write(Remove(b.device))
    a.write(Remove(b.device))
    assert a.add("b") is not None
    late = c.write()
    b.receive([late])
    b.receive(a.held.values())
    d.write(Remove(c.device))

    b.receive(d.held.values())

    told = b.held[b.log, 2]
    assert roles(b) == {"a": "admin", "b": "admin", "c": None, "d": "admin"}
    assert told.content == Seen() and told.writer == writer("b", 1)
    meet(a, d, b)
    assert a.applied[c.log] == late.seq
    agree(a, b, d)
