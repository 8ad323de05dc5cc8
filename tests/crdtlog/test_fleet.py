"""Random SQL by random clients on a small fleet: whatever happens, all devices end equal and nothing is lost silently.

Clients are connections that know nothing of crdtlog, and now and then the `sqlite3` shell. Three things are held
against an oracle that shares no code with documents, drain or apply: what a drain logs is exactly what the clients
changed (and no more); what shows on every device is what the logs say by definition; what does not show is kept,
unless a write by someone who had seen it replaced it.
"""

import sqlite3
import subprocess

from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.crdtlog.clients import SHAPES, SHELL, Client, Drain, Reopen, Send, Shape, Step, Unseen, steps
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    closing_connection,
    devices,
    lacking,
    logged,
    losers,
    quick_directory,
    sync_all,
)
from tests.crdtlog.oracle import by_definition, content, replay


class Fleet:
    """Runs steps, and holds each drain against what clients really changed."""

    def __init__(self, world: World, clocks: list[int | None], shapes: list[Shape]) -> None:
        count = len(clocks)
        self.world = world
        self.names = ["ant", "bee", "cat", "dog"][:count]
        self.dbs = devices(world, self.names, [shape.sql for shape in shapes])
        self.clocks = clocks
        for device in range(count):
            self._set_clock(device)
        self.before = [content(db) for db in self.dbs]

    def _set_clock(self, device: int) -> None:
        """A clock that stands still far in the past gives stamps that lose, or tie with another such device's."""
        if (fixed := self.clocks[device]) is not None:
            self.dbs[device]._state.now_ms = lambda: fixed

    def run(self, step: Step) -> None:
        match step:
            case Client():
                self._client(step)
            case Unseen(device, statements):
                path = self.world.path(self.names[device])
                with closing_connection(path) as connection:
                    names = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                    for (name,) in connection.execute(names).fetchall():
                        connection.execute(f"DROP TRIGGER {name}")
                self._client(Client(device, statements))
            case Drain(device):
                with self.watched(device):
                    self.dbs[device].drain_all()
            case Reopen(device):
                self.dbs[device] = self.world.reopen(self.names[device])
                self._set_clock(device)
            case Send():
                self._send(step)

    def _client(self, step: Client) -> None:
        path = self.world.path(self.names[step.device])
        if step.shell and SHELL:
            script = ";\n".join(["PRAGMA foreign_keys = ON", "BEGIN", *step.statements, step.ending]) + ";\n"
            subprocess.run(
                [SHELL, "-bail", "-batch", path], input=script.encode(), capture_output=True, timeout=30
            )
            return
        with closing_connection(path) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("BEGIN IMMEDIATE")
            for sql in step.statements:
                try:
                    connection.execute(sql)
                except sqlite3.IntegrityError as error:
                    note(f"{sql}: {error}")
            connection.execute(step.ending)

    def _send(self, step: Send) -> None:
        with self.watched(step.source):
            self.dbs[step.source].drain_all()
        entries = lacking(self.dbs[step.source], self.dbs[step.target])
        if step.cut:
            entries = entries[: step.limit]
        if not entries:
            return
        with self.watched(step.target):
            for at in range(0, len(entries), step.limit):
                apply_all(
                    self.dbs[step.target], entries[at : at + step.limit], hold_ms=0 if step.twice else 20
                )
            if step.twice:
                apply_all(self.dbs[step.target], entries)

    def watched(self, device: int) -> "Watched":
        return Watched(self, device)


class Watched:
    """Around a drain or apply: the own entries that it appended say exactly what clients had changed since the last."""

    def __init__(self, fleet: Fleet, device: int) -> None:
        self.fleet, self.device, self.db = fleet, device, fleet.dbs[device]

    def __enter__(self) -> None:
        self.position = self.db.position()
        self.now = content(self.db)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            own = [item for item in logged(self.db, self.position) if item[0].writer == self.db.writer]
            if own or self.db.pending() == 0:
                assert replay(self.db, self.fleet.before[self.device], own) == self.now
                self.fleet.before[self.device] = content(self.db)


CLOCKS = st.lists(st.sampled_from([None, None, 0, 0, 1_000]), min_size=2, max_size=4)


SOME_SHAPES = st.lists(
    st.sampled_from(SHAPES[:-2]), min_size=1, max_size=2, unique_by=lambda shape: shape.name
)


@settings(max_examples=settings().max_examples * 2)
@given(st.data(), CLOCKS, SOME_SHAPES)
def test_after_any_history_all_devices_hold_the_same_and_nothing_is_lost(
    choose: st.DataObject, clocks: list[int | None], shapes: list[Shape]
) -> None:
    run_and_judge(choose.draw(steps(len(clocks), shapes)), clocks, shapes)


@given(st.data(), CLOCKS)
def test_children_that_a_cascade_moves_or_deletes_arrive_as_they_were_left(
    choose: st.DataObject, clocks: list[int | None]
) -> None:
    run_and_judge(choose.draw(steps(len(clocks), SHAPES[-2:])), clocks, SHAPES[-2:])


ONE_ROW = Shape(
    "CREATE TABLE one (id PRIMARY KEY, a, b)", "one", {"id": ["k"]}, {"a": [1, 2, 3], "b": [1, 2, None]}
)
BRAWL = st.sampled_from(
    [
        *["DELETE FROM one"] * 3,
        "REPLACE INTO one VALUES ('k', 5, 5)",
        "INSERT INTO one VALUES ('k', 6, 6) ON CONFLICT DO UPDATE SET a = 7",
        *(f"UPDATE one SET {column} = {value}" for column in "ab" for value in (1, 2, 3)),
    ]
)


@st.composite
def brawl(draw: st.DrawFn, count: int) -> list[Step]:
    """Rounds in which several devices write one row before a few of them exchange entries."""
    device = st.integers(0, count - 1)
    send = st.tuples(device, device).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: Send(*pair))
    history: list[Step] = [
        Client(0, ["REPLACE INTO one VALUES ('k', 0, 0)"]),
        *(Send(0, n) for n in range(1, count)),
    ]
    for _ in range(draw(st.integers(1, 5))):
        for writer in draw(st.lists(device, min_size=1, max_size=count, unique=True)):
            history.append(Client(writer, [draw(BRAWL)]))
        history += draw(st.lists(send, max_size=2 * count))
    return history


@settings(max_examples=settings().max_examples * 4)
@given(st.data(), CLOCKS)
def test_one_row_that_everybody_fights_over_ends_the_same_everywhere(
    choose: st.DataObject, clocks: list[int | None]
) -> None:
    run_and_judge(choose.draw(brawl(len(clocks))), clocks, [ONE_ROW])


@settings(max_examples=settings().max_examples // 2)
@given(st.data(), CLOCKS)
def test_many_tables_of_all_shapes_share_one_log(choose: st.DataObject, clocks: list[int | None]) -> None:
    run_and_judge(choose.draw(steps(len(clocks), SHAPES)), clocks, SHAPES)


def run_and_judge(history: list[Step], clocks: list[int | None], shapes: list[Shape]) -> None:
    with quick_directory() as directory, World(directory) as world:
        fleet = Fleet(world, clocks, shapes)

        for step in history:
            fleet.run(step)
        for device in range(len(clocks)):
            with fleet.watched(device):
                fleet.dbs[device].drain_all()
        sync_all(fleet.dbs)

        assert_converged(fleet.dbs, [shape.name for shape in shapes])
        tables, lost = by_definition(fleet.dbs[0])
        assert content(fleet.dbs[-1]) == tables
        assert set(losers(fleet.dbs[-1])) == lost
