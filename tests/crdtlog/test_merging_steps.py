"""Every step of a counter counts once, on whatever value it was made, unless whoever decided had seen it.

Values and steps are told apart in one integer: the high bits number the value that was written, each step has a low
bit of its own. So the sum that shows tells on which value it stands and which steps it holds, and how often.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from crdtlog.database import Database
from tests.crdtlog.devices import World, assert_converged, devices, quick_directory, rows_of, send, sync_all

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)"
_SHIFT = 40


class Written(NamedTuple):
    """A value that was written whole: what its author had seen, and whether it began a counter."""

    seen: frozenset[int]
    counts: bool


class Stepped(NamedTuple):
    """A step: the value that it was made on, and what its author had seen."""

    value: int
    seen: frozenset[int]


@dataclass
class History:
    """What was done on some devices, told without looking into their documents."""

    dbs: list[Database]
    seen: list[set[int]]
    values: dict[int, Written] = field(default_factory=dict)
    steps: dict[int, Stepped] = field(default_factory=dict)
    #: what some device showed after it had written
    shown: set[int] = field(default_factory=set)

    def counts(self, device: int) -> bool:
        """Whether the column is a counter, as far as the device has heard."""
        return bool(self.dbs[device]._state.table("t").kinds)

    def write(self, device: int, how: str) -> None:
        """A value without steps, as a value of its own: not by a difference to what was there."""
        number = len(self.values) + 1
        value = number << _SHIFT
        before = {"null": ["UPDATE t SET n = NULL"], "put": ["DELETE FROM t"], "set": []}[how]
        if how == "set" and self.counts(device):
            before = ["UPDATE t SET n = NULL"]
        last = f"INSERT INTO t VALUES ('a', {value})" if how == "put" else f"UPDATE t SET n = {value}"
        for sql in [*before, last]:
            self.dbs[device].execute(sql)
            self.dbs[device].drain_all()
        self.shown.add(value)
        self.values[number] = Written(frozenset(self.seen[device]), self.counts(device))

    def step(self, device: int) -> None:
        """One more, on what shows there."""
        if not self.counts(device):
            return
        bit = len(self.steps)
        ((shown,),) = rows_of(self.dbs[device], "SELECT n FROM t")
        if shown is None:
            return
        self.dbs[device].execute("UPDATE t SET n = n + ?", (1 << bit,))
        self.dbs[device].drain_all()
        assert rows_of(self.dbs[device], "SELECT n FROM t") == [(shown + (1 << bit),)]
        self.steps[bit] = Stepped(shown >> _SHIFT, frozenset(self.seen[device]))
        self.seen[device].add(bit)
        self.shown.add(shown + (1 << bit))

    def send(self, source: int, target: int) -> None:
        """All that one device has, to another."""
        send(self.dbs[source], self.dbs[target])
        self.seen[target] |= self.seen[source]

    def sure(self, number: int) -> tuple[set[int], set[int]]:
        """Of a value that shows: the steps that it holds, and those that it holds or that were decided about."""
        written = self.values[number]
        own = {bit for bit, step in self.steps.items() if step.value == number}
        if written.counts:
            held = own | self.steps.keys() - written.seen
            return held, held
        first = [self.steps[bit].seen for bit in own if not own & self.steps[bit].seen]
        if not first:  # a register's, on which nobody has counted: it shows as it is
            return set(), set()
        return own | self.steps.keys() - frozenset().union(*first), own | self.steps.keys() - first[
            0
        ].intersection(*first)


Step = tuple[str, int, int]
ONE, OTHER = st.integers(0, 2), st.integers(0, 2)
HAPPENINGS = st.one_of(
    st.tuples(st.sampled_from(["step", "step", "step", "send", "send", "send"]), ONE, OTHER),
    st.tuples(st.sampled_from(["set", "null", "put", "counter", "register"]), ONE, OTHER),
)


@settings(max_examples=settings().max_examples * 2)
@given(st.lists(HAPPENINGS, max_size=16))
@example(
    [
        *[("counter", 0, 0), ("step", 0, 0), ("set", 1, 0), ("send", 0, 2), ("send", 1, 2), ("send", 1, 0)],
        *[("send", 0, 1), ("step", 0, 0), ("step", 2, 0)],
    ]
)
def test_every_step_counts_once_unless_who_decided_had_seen_it(happenings: list[Step]) -> None:
    with quick_directory() as directory, World(directory) as world:
        dbs = devices(
            world, ["ant", "bee", "cat", "dog", "eel"], [TABLE], f"INSERT INTO t VALUES ('a', {1 << _SHIFT})"
        )
        history = History(dbs, [set() for _ in dbs], {1: Written(frozenset(), False)})
        for what, device, other in happenings:
            if what == "step":
                history.step(device)
            elif what == "send":
                if device != other:
                    history.send(device, other)
            elif what in ("counter", "register"):
                dbs[device].track("t", {"n": what})
            else:
                history.write(device, what)
        for watcher, order in ((3, (0, 1, 2)), (4, (2, 1, 0))):  # each is told in another order
            for device in order:
                history.send(device, watcher)
        sync_all(dbs)

        assert_converged(dbs, ["t"])
        ((shown,),) = rows_of(dbs[0], "SELECT n FROM t")
        number, held = shown >> _SHIFT, shown & ((1 << _SHIFT) - 1)
        counted = {bit for bit in history.steps if held >> bit & 1}
        assert held == sum(1 << bit for bit in counted)
        least, most = history.sure(number)
        assert least <= counted <= most
        for db in dbs:
            told = {line.value for line in db.history("t", "a", "n")}
            assert told >= history.shown
            assert db.unmerged() == []
