"""The command line tells what was written of a row, and puts a version back that it has named."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import crdtlog as engine
from crdtlog.database import Database
from crdtlog.device import Home, load_device
from crdtlog.members import newcomer_of
from tests.crdtlog.devices import sync
from tests.peers.cli_reference import assert_shape, documented
from tests.peers.cli_world import Crdtlog, assert_an_error, made, write


class Phone:
    """A second device that shares the file."""

    def __init__(self, file: Path, home: Path, name: str = "phone") -> None:
        self.file = file
        self.path = file.with_name("phone.db")
        self.home = Home(home)
        device = load_device(self.home.prepare(), name=name)
        with closing(engine.open(file, create=False)) as laptop:
            laptop.add_member(newcomer_of(device, "admin"))
            with closing(engine.adopt(self.path, laptop.welcome(), home=self.home)) as phone:
                sync(laptop, phone)
                phone.caught_up()

    def meet(self) -> None:
        """Exchange everything with the laptop."""
        with closing(engine.open(self.file, create=False)) as laptop, closing(self.open()) as phone:
            sync(laptop, phone)

    def open(self) -> Database:
        return engine.open(self.path, home=self.home, create=False)

    def write(self, sql: str) -> None:
        write(self.path, sql)
        with closing(self.open()) as phone:
            phone.drain_all()


@pytest.fixture
def phone(shared: Path, home: Callable[..., Path]) -> Iterator[Phone]:
    """A phone that shares `notes`."""
    return Phone(shared, home("phone"))


def test_history_is_a_line_for_each_write_with_what_became_of_it(
    shared: Path, phone: Phone, crdtlog: Crdtlog
) -> None:
    phone.write("UPDATE notes SET title = 'Party' WHERE id = 'a'")
    write(shared, "UPDATE notes SET title = 'Weekend' WHERE id = 'a'")
    phone.meet()

    answer = crdtlog("history", shared, "notes", "a", "--json").json
    lines = crdtlog("history", shared, "notes", "a", "--column", "title").out.splitlines()

    shape = crdtlog("history", shared, "notes", "a", "--column", "title", "--json").json
    assert_shape(shape, documented("history"))
    assert [(x["column"], x["value"], x["state"]) for x in answer["history"]] == [
        ("title", "Milk", "overwritten"),
        ("size", 1.5, "shows"),
        ("picture", {"hex": "00ff"}, "shows"),
        ("title", "Party", "lost"),
        ("title", "Weekend", "shows"),
    ]
    assert lines[0].split() == "WRITTEN (UTC) DEVICE OPERATION COLUMN VALUE STATE DOT".split()
    assert [line.split()[2:] for line in lines[1:]] == [
        "laptop insert title Milk overwritten laptop:3".split(),
        "phone update title Party lost phone:1".split(),
        "laptop update title Weekend shows laptop:5".split(),
    ]


def test_history_of_a_row_that_is_gone_ends_with_the_delete(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "DELETE FROM notes WHERE id = 'a'")

    last = crdtlog("history", shared, "notes", "a", "--json").json["history"][-1]

    assert (last["operation"], last["column"], last["value"], last["state"]) == (
        "delete",
        None,
        None,
        "shows",
    )
    line = crdtlog("history", shared, "notes", "a").out.splitlines()[-1]
    assert re.search(r"laptop +delete +shows +laptop:4$", line)


def test_what_conflicts_shows_can_be_typed_to_put_it_back(
    shared: Path, phone: Phone, crdtlog: Crdtlog
) -> None:
    phone.write("UPDATE notes SET title = 'Party' WHERE id = 'a'")
    write(shared, "UPDATE notes SET title = 'Weekend' WHERE id = 'a'")
    phone.meet()
    header, shown = crdtlog("conflicts", shared).out.splitlines()
    assert header.split()[-1] == "DOT"
    table, key, column, *_, dot = shown.split()

    done = crdtlog("restore-value", shared, table, key, column, dot)

    assert done.err == "Row a of notes: title is Party again.\n" and not done.out
    assert crdtlog("conflicts", shared).err == "No conflicts.\n"
    phone.meet()
    with closing(phone.open()) as other:
        assert other.execute("SELECT title FROM notes WHERE id = 'a'").fetchall() == [("Party",)]
        assert other.conflicts() == []


def test_the_value_that_shows_can_be_chosen_and_then_nothing_is_left_to_do(
    shared: Path, phone: Phone, crdtlog: Crdtlog
) -> None:
    phone.write("UPDATE notes SET title = 'lost' WHERE id = 'a'")
    write(shared, "UPDATE notes SET title = 'won' WHERE id = 'a'")
    phone.meet()

    first = crdtlog("restore-value", shared, "notes", "a", "title", "laptop:5", "--json").json
    second = crdtlog("restore-value", shared, "notes", "a", "title", "laptop:5", "--json").json

    assert_shape(first, documented("restore-value"))
    assert first["restored"]["value"] == "won" and first["restored"]["dot"].endswith(":6")
    assert second["restored"]["dot"] is None
    assert crdtlog("conflicts", shared, "--json").json["conflicts"] == []
    assert "nothing was written" in crdtlog("restore-value", shared, "notes", "a", "title", "laptop:5").err


def test_a_row_that_was_deleted_unseen_comes_back_whole(shared: Path, phone: Phone, crdtlog: Crdtlog) -> None:
    write(shared, "UPDATE notes SET title = 'precious' WHERE id = 'a'")
    crdtlog("log", shared)
    phone.write("DELETE FROM notes WHERE id = 'a'")
    phone.meet()
    (conflict,) = crdtlog("conflicts", shared, "--json").json["conflicts"]
    assert conflict["column"] is None

    done = crdtlog("restore-value", shared, "notes", "a", "NULL", conflict["dot"])

    assert done.err == "Row a of notes is back.\n"
    rows = crdtlog("sql", shared, "SELECT * FROM notes WHERE id = 'a'", "--json").json["rows"]
    assert rows == [["a", "precious", 1.5, {"hex": "00ff"}]]
    assert crdtlog("conflicts", shared, "--json").json["conflicts"] == []


def test_a_version_brings_a_deleted_row_back(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "DELETE FROM notes WHERE id = 'a'")

    done = crdtlog("restore-value", shared, "notes", "a", "title", "laptop:3")

    assert done.err == "Row a of notes is back; title is Milk.\n"


@pytest.mark.parametrize(
    ("columns", "row", "key"),
    [
        ("id INTEGER PRIMARY KEY, v", "5, 'old'", "5"),
        ("id INTEGER PRIMARY KEY, v", "-5, 'old'", "-5"),
        ("id BLOB PRIMARY KEY, v", "x'00ff', 'old'", "x'00ff'"),
        ("id BLOB PRIMARY KEY, v", "x'00ff', 'old'", '{"hex": "00ff"}'),
        ("id TEXT PRIMARY KEY, v", "CAST(x'ff61' AS TEXT), 'old'", '{"text": "ff61"}'),
        ("id TEXT PRIMARY KEY COLLATE NOCASE, v", "'Rome', 'old'", "ROME"),
        ("a TEXT, b, v, PRIMARY KEY (a, b)", "'it''s', x'00', 'old'", '["it\'s", {"hex": "00"}]'),
        ("a INT, b TEXT, v, PRIMARY KEY (b, a)", "-5, '日本', 'old'", '["日本", -5]'),
    ],
)
def test_a_key_is_typed_as_it_is_shown(
    tmp_path: Path, crdtlog: Crdtlog, columns: str, row: str, key: str
) -> None:
    file = made(tmp_path / "t.db", f"CREATE TABLE t ({columns}); INSERT INTO t VALUES ({row})")
    crdtlog("init", file, "--device", "laptop")
    write(file, "UPDATE t SET v = 'new'")

    told = crdtlog("history", file, "t", key, "--column", "v", "--json").json["history"]

    assert [line["value"] for line in told] == ["old", "new"]
    done = crdtlog("restore-value", file, "t", key, "v", "laptop:3", "--json").json["restored"]
    assert done["value"] == "old"


def test_a_device_whose_name_needs_quotes_or_is_not_alone_is_shown_by_its_log(
    shared: Path, home: Callable[..., Path], crdtlog: Crdtlog
) -> None:
    phone = Phone(shared, home("phone"), name="Ada's phone")
    phone.write("UPDATE notes SET title = 'Party' WHERE id = 'a'")
    phone.meet()
    dot = crdtlog("history", shared, "notes", "a", "--json").json["history"][-1]["dot"]

    shown = crdtlog("history", shared, "notes", "a").out.split()[-1]

    assert shown == f"{dot[:8]}:1"
    for name in (shown, "Ada's phone:1"):
        crdtlog("restore-value", shared, "notes", "a", "title", name)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tags", "a"], 1, ["No tracked table 'tags'"]),
        (["notes", "c"], 1, ["no row 'c' of table notes"]),
        (["notes", '{"hex": "0"}'], 2, ["hexadecimal"]),
        (["notes", "a", "--column", "size of"], 1, ["no column 'size of'", "title"]),
        (["notes"], 2, ["Missing argument 'KEY'"]),
    ],
)
def test_history_of_what_is_not_there_is_an_error(
    shared: Path, crdtlog: Crdtlog, arguments: list[str], code: int, words: list[str]
) -> None:
    assert_an_error(crdtlog("history", shared, *arguments, fails=code), *words)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tags", "a", "title", "laptop:3"], 1, ["No tracked table 'tags'"]),
        (["notes", "c", "title", "laptop:3"], 1, ["no row 'c'"]),
        (["notes", "a", "id", "laptop:3"], 1, ["part of its key"]),
        (
            ["notes", "a", "title", "laptop:2"],
            1,
            ["Row 'a' of table notes has no version laptop:2", "crdtlog history"],
        ),
        (["notes", "a", "NULL", "laptop:3"], 1, ["is there"]),
        (["notes", "a", "title", "laptop"], 2, ["'laptop' names no version", "crdtlog history"]),
        (["notes", "a", "title"], 2, ["Missing argument 'DOT'"]),
        (["notes", "a", "title", "laptop:3", "more"], 2, ["more"]),
    ],
)
def test_what_cannot_be_put_back_is_an_error(
    shared: Path, crdtlog: Crdtlog, arguments: list[str], code: int, words: list[str]
) -> None:
    assert_an_error(crdtlog("restore-value", shared, *arguments, fails=code), *words)


def test_nothing_is_put_back_into_a_paused_table(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "ALTER TABLE notes ADD COLUMN color TEXT")

    done = crdtlog("restore-value", shared, "notes", "a", "title", "laptop:3", fails=75)

    assert_an_error(done, "paused", "color", "crdtlog doctor")
