"""Which epoch is written under, how many changes a group may have, and what it may lack."""

from crdtlog.membership import Add, Graph, Recover, Remove, Rotate
from crdtlog.membership.graph import MAX_RECORDS, Record
from tests.crdtlog.membergroup import (
    KEY,
    device,
    founded,
    graph_of,
    made,
    meet,
    newcomer,
    sign,
    verify,
    writer,
)

# --- epochs -------------------------------------------------------------------------------------------------------


def rotation(name: str, *devices: bytes, parents: tuple[bytes, ...] = (b"first epoch (16)",)) -> Rotate:
    wrapped = tuple((each, b"wrapped") for each in sorted(devices))
    return Rotate(name.encode().ljust(16, b"-"), parents, wrapped, ())


def test_writing_goes_under_the_deepest_epoch_that_nobody_removed_knows() -> None:
    a, b, c = founded("a", "b", "c")
    first = b"first epoch (16)"
    assert a.state().writing_epoch([first]) == first

    a.write(Remove(b.device))
    assert a.state().writing_epoch([first]) is None
    one = rotation("one", a.device, c.device)
    a.write(one)
    meet(a, c)
    assert a.state().writing_epoch([first, one.epoch]) == one.epoch
    assert c.state().writing_epoch([first]) is None

    two, three = (rotation(name, a.device, c.device, parents=(one.epoch,)) for name in ("two", "three"))
    a.write(two)
    c.write(three)
    meet(a, c)
    assert a.state().writing_epoch([first, one.epoch, two.epoch, three.epoch]) == max(two.epoch, three.epoch)
    assert a.state().writing_epoch([one.epoch]) == one.epoch


def test_who_was_let_in_later_may_know_an_epoch_without_being_its_recipient() -> None:
    a, b = founded("a", "b")
    one = rotation("one", a.device, b.device)
    a.write(one)
    a.write(Add(newcomer("e")))
    meet(a, b)
    assert a.state().lacking(a.state().epochs[one.epoch][0]) == [device("e")]

    a.write(Remove(device("e")))

    assert a.state().writing_epoch([one.epoch]) is None


def test_epochs_that_name_one_another_as_parents_make_no_circle() -> None:
    a, b = founded("a", "b")
    everybody = (a.device, b.device)
    one = rotation("one", *everybody, parents=(b"two".ljust(16, b"-"),))
    two = rotation("two", *everybody, parents=(one.epoch,))
    a.write(one)
    b.write(two)
    meet(a, b)

    assert {name: epochs[0].depth for name, epochs in a.state().epochs.items()} == {
        one.epoch: 1,
        two.epoch: 1,
    }


def test_an_epoch_given_the_id_of_another_is_bound_by_both() -> None:
    a, b, c = founded("a", "b", "c")
    a.write(Remove(c.device))
    meet(a, b)
    one = rotation("one", a.device, b.device)
    a.write(one)
    b.write(rotation("one", a.device, b.device, c.device))
    meet(a, b)

    assert a.state().writing_epoch([one.epoch]) is None


# --- bounds -------------------------------------------------------------------------------------------------------


def test_too_many_changes_are_refused_but_removing_goes_on() -> None:
    (a,) = founded("a")
    graph = Graph.of(a.database, verify, [entry.record for entry in a.held.values() if entry.record])
    for seq in range(2, MAX_RECORDS + 2):
        graph.add(Record(a.log, seq, bytes(32), {a.log: seq - 1}, Remove(device("stranger"))))

    def refused(content: Add | Remove) -> bool:
        seq = MAX_RECORDS + 2
        return graph.refusal(Record(a.log, seq, bytes(32), {a.log: seq - 1}, content)) is not None

    assert refused(Add(newcomer("b")))
    assert not refused(Remove(a.device))


def test_changes_that_know_nothing_of_one_another_are_refused_when_there_are_too_many() -> None:
    (a,) = founded("a")
    known = {a.log: 1}
    graph = Graph.of(a.database, verify, [entry.record for entry in a.held.values() if entry.record])
    logs = [writer("a", number) for number in range(2, 1_003)]
    for number, log in enumerate(logs):
        graph.add(Record(log, 1, bytes(32), known, Add(newcomer(f"d{number}"))))

    def refused(context: dict[bytes, int]) -> bool:
        return graph.refusal(Record(a.log, 2, bytes(32), context, Add(newcomer("b")))) is not None

    assert refused({**known, **dict.fromkeys(logs, 1)})
    assert not refused({**known, **dict.fromkeys(logs[:1_000], 1)})


def test_a_database_without_recovery_key_knows_no_recovery() -> None:
    a, _b = founded("a", "b", recovery=None)

    assert (
        graph_of(a.database, a.held.values()).refusal(
            made(writer("b", 2), 1, a.applied, None)
            ._replace(content=Recover(newcomer("b"), sign(KEY, b"")))
            .record
        )
        is not None
    )  # type: ignore[arg-type]
