"""The commands for the group: who belongs, who may do what, and what people are told before and after."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import crdtlog as engine
from crdtlog.database import Database
from crdtlog.device import load_device
from crdtlog.members import newcomer_of
from tests.crdtlog.devices import World, devices, rows_of, send, sync, sync_all
from tests.peers.cli_reference import assert_shape, documented
from tests.peers.cli_world import Crdtlog, Done, assert_an_error

TABLE = ["CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v)"]


class Group:
    """Three devices, all admins, that exchange entries by hand; commands run as any of them."""

    def __init__(self, world: World, crdtlog: Crdtlog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.laptop, self.phone, self.tablet = devices(world, ["laptop", "phone", "tablet"], TABLE)
        self._crdtlog = crdtlog
        self._monkeypatch = monkeypatch

    def run(self, db: Database, command: str, *arguments: object, fails: int = 0, typed: str = "") -> Done:
        """Run `crdtlog COMMAND FILE …` on a device; what is `typed` comes from a terminal."""
        with self._monkeypatch.context() as patch:
            patch.setenv("CRDTLOG_HOME", str(self.world.home(db.device.name).path))
            if typed:
                patch.setattr("sys.stdin", _Terminal(typed))
            return self._crdtlog(command, db.path, *arguments, fails=fails)

    def rename(self, db: Database, name: str) -> Database:
        """One more device, with the name of another."""
        device = load_device(self.world.home("twin").prepare(), name=name)
        db.add_member(newcomer_of(device, "writer"))
        twin = engine.adopt(self.world.path("twin"), db.welcome(), home=self.world.home("twin"), name=name)
        self.world.open["twin"] = twin
        return twin


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def group(tmp_path: Path, crdtlog: Crdtlog, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    with World(tmp_path) as world:
        yield Group(world, crdtlog, monkeypatch)


def role(db: Database, of: Database) -> str | None:
    return next(member.role for member in db.devices() if member.device == of.device.id)


def findings(done: Done, name: str) -> list[dict[str, Any]]:
    return [item for item in done.json["findings"] if item["name"] == name]


# --- devices ------------------------------------------------------------------------------------------------------


def test_devices_tells_who_let_whom_in(group: Group) -> None:
    done = group.run(group.laptop, "devices")
    answer = group.run(group.laptop, "devices", "--json").json

    assert_shape(answer, documented("devices"))
    assert [item["added_by"] for item in answer["devices"]] == [
        None,
        group.laptop.device.id.hex(),
        group.laptop.device.id.hex(),
    ]
    first, second, _ = done.out.splitlines()[1:]
    assert "laptop (this device)" in first and "(founder)" in first
    assert second.split()[:4] == ["phone", "admin", group.phone.device.id.hex()[:12], "laptop"]


def test_those_that_belong_no_more_are_listed_when_asked_for(group: Group) -> None:
    group.run(group.laptop, "remove", "phone", "--yes")
    group.run(group.tablet, "leave", "--yes")
    send(group.tablet, group.laptop)

    assert [item["name"] for item in group.run(group.laptop, "devices", "--json").json["devices"]] == [
        "laptop"
    ]
    answer = group.run(group.laptop, "devices", "--all", "--json").json
    assert_shape(answer, documented("devices"))
    assert [(item["name"], item["role"], item["removed_by"]) for item in answer["devices"]] == [
        ("laptop", "admin", None),
        ("phone", None, group.laptop.device.id.hex()),
        ("tablet", None, group.tablet.device.id.hex()),
    ]
    shown = group.run(group.laptop, "devices", "--all").out
    assert "was removed by laptop" in shown and " left " in shown
    assert "This device, tablet, left" in group.run(group.tablet, "devices").err


# --- naming a device ----------------------------------------------------------------------------------------------


def test_a_device_is_named_by_its_name_its_id_or_the_beginning_of_it(group: Group) -> None:
    full = group.phone.device.id.hex()

    for name, wanted in (
        ("phone", "writer"),
        (full, "reader"),
        (full[:6], "writer"),
        (full[:9].upper(), "reader"),
    ):
        group.run(group.laptop, "role", name, wanted)
        assert role(group.laptop, group.phone) == wanted


@pytest.mark.parametrize("command", ["remove", "role"])
def test_a_name_that_nobody_has_is_refused(group: Group, command: str) -> None:
    more = ["reader"] if command == "role" else ["--yes"]
    for name in ("phon", "Phone", group.phone.device.id.hex()[:5], "ffffffffffff"):
        done = group.run(group.laptop, command, name, *more, fails=2)
        assert_an_error(done, f"is called {name!r}", "crdtlog devices")
    assert "6 digits or more" in group.run(group.laptop, command, "ab12", *more, fails=2).err
    assert role(group.laptop, group.phone) == "admin"


def test_a_name_that_two_have_is_refused_and_their_ids_are_told(group: Group) -> None:
    twin = group.rename(group.laptop, "phone")

    done = group.run(group.laptop, "remove", "phone", "--yes", fails=2)

    assert_an_error(done, "several devices", group.phone.device.id.hex()[:12], twin.device.id.hex()[:12])
    group.run(group.laptop, "remove", twin.device.id.hex()[:12], "--yes")
    assert (role(group.laptop, group.phone), role(group.laptop, twin)) == ("admin", None)
    group.run(group.laptop, "role", "phone", "reader")  # only one of that name belongs now
    assert role(group.laptop, group.phone) == "reader"


def test_a_device_that_was_removed_is_told_of_as_such(group: Group) -> None:
    group.run(group.laptop, "remove", "phone", "--yes")

    for command, more in (("remove", ["--yes"]), ("role", ["reader"])):
        done = group.run(group.laptop, command, "phone", *more, fails=2)
        assert_an_error(done, "Device phone was removed by laptop")


# --- remove -------------------------------------------------------------------------------------------------------


def test_remove_tells_what_it_means_and_what_it_does_not(group: Group) -> None:
    done = group.run(group.laptop, "remove", "phone", "--yes", "--json")

    assert_shape(done.json, documented("remove"))
    assert done.json["removed"] == {"id": group.phone.device.id.hex(), "name": "phone"}
    said = " ".join(done.err.split())
    assert f"phone ({group.phone.device.id.hex()[:12]}, admin, added by laptop)" in said
    for words in ("nothing new", "no new keys", "stays readable to it", "does not count", "as they sync"):
        assert words in said
    sync(group.laptop, group.tablet)
    assert role(group.tablet, group.phone) is None


def test_remove_asks_a_person_and_does_nothing_without_a_yes(group: Group) -> None:
    declined = group.run(group.laptop, "remove", "phone", typed="n\n", fails=1)
    unasked = group.run(group.laptop, "remove", "phone", fails=2)

    assert "Remove it?" in declined.err and "Nothing was changed" in declined.err
    assert "no terminal" in unasked.err and "--yes" in unasked.err
    assert role(group.laptop, group.phone) == "admin"

    group.run(group.laptop, "remove", "phone", typed="y\n")
    assert role(group.laptop, group.phone) is None


def test_remove_of_this_device_names_the_command_for_that(group: Group) -> None:
    done = group.run(group.laptop, "remove", "laptop", "--yes", fails=2)

    assert_an_error(done, "Device laptop is this one", "crdtlog leave")
    assert role(group.laptop, group.laptop) == "admin"


def test_who_is_no_admin_removes_and_changes_nobody_and_is_not_even_asked(group: Group) -> None:
    group.run(group.laptop, "role", "phone", "writer")
    sync(group.laptop, group.phone)

    for command, more in (("remove", []), ("role", ["reader"])):
        done = group.run(group.phone, command, "tablet", *more, fails=1, typed="y\n")
        assert_an_error(done, "This device may not", f"crdtlog {command}")
    assert role(group.phone, group.tablet) == "admin"


# --- role ---------------------------------------------------------------------------------------------------------


def test_role_gives_a_device_another_role_and_says_what_it_may(group: Group) -> None:
    done = group.run(group.laptop, "role", "phone", "reader", "--json")

    assert_shape(done.json, documented("role"))
    expected = {"id": group.phone.device.id.hex(), "name": "phone", "role": "reader", "before": "admin"}
    assert done.json["role"] == expected
    assert "put aside" in done.err and "as they sync" in done.err
    sync(group.laptop, group.phone)
    assert role(group.phone, group.phone) == "reader"

    entries = len(group.laptop.log())
    assert "reader already" in group.run(group.laptop, "role", "phone", "reader").err
    assert len(group.laptop.log()) == entries


def test_an_unknown_role_is_refused(group: Group) -> None:
    for command in (["role", "phone", "owner"], ["pair", "--role", "owner"], ["share", "--role", "owner"]):
        done = group.run(group.laptop, *command, fails=2)
        assert_an_error(done, "no role 'owner'", "admin, writer, reader")


def test_the_last_admin_stays(group: Group) -> None:
    for name in ("phone", "tablet"):
        group.run(group.laptop, "role", name, "writer")

    for command in (["role", "laptop", "writer"], ["leave", "--yes"]):
        done = group.run(group.laptop, *command, fails=2)
        assert "last admin" in done.err and "crdtlog role FILE DEVICE admin" in done.err
    assert role(group.laptop, group.laptop) == "admin"


# --- leave --------------------------------------------------------------------------------------------------------


def test_leave_says_what_stays_and_is_told_to_the_others(group: Group) -> None:
    assert "no terminal" in group.run(group.phone, "leave", fails=2).err
    group.run(group.phone, "leave", typed="n\n", fails=1)
    assert role(group.phone, group.phone) == "admin"

    done = group.run(group.phone, "leave", "--yes", "--json")

    assert_shape(done.json, documented("leave"))
    said = " ".join(done.err.split())
    assert "file stays here" in said and "reaches nobody" in said and "sharing.md" in said
    send(group.phone, group.laptop)
    assert role(group.laptop, group.phone) is None
    assert_an_error(group.run(group.phone, "leave", "--yes", fails=2), "left already")
    (finding,) = findings(group.run(group.phone, "doctor", "--json"), "file")
    assert finding["state"] == "note" and "phone has left" in finding["message"]
    assert "this device is phone" in group.run(group.phone, "init").err


def test_the_only_device_may_leave(group: Group) -> None:
    for name in ("phone", "tablet"):
        group.run(group.laptop, "remove", name, "--yes")

    assert "last device" in group.run(group.laptop, "leave", "--yes").err


# --- recover ------------------------------------------------------------------------------------------------------


@pytest.fixture
def recoverable(
    tmp_path: Path, crdtlog: Crdtlog, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Group, engine.RecoveryKey]]:
    """A group whose database has a recovery key."""
    key = engine.new_recovery()
    with World(tmp_path) as world:
        engine.open(
            world.path("laptop"), home=world.home("laptop"), name="laptop", recovery=key.public
        ).close()
        yield Group(world, crdtlog, monkeypatch), key


def test_recover_makes_this_device_an_admin(
    recoverable: tuple[Group, engine.RecoveryKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    group, key = recoverable
    group.run(group.laptop, "role", "phone", "writer")
    group.run(group.laptop, "role", "tablet", "writer")
    sync_all([group.laptop, group.phone, group.tablet])
    monkeypatch.setattr("sys.stdin", io.StringIO(" ".join(key.words)))

    done = group.run(group.phone, "recover", "--json")

    assert_shape(done.json, documented("recover"))
    assert done.json["recovered"]["role"] == "admin"
    assert "crdtlog devices" in done.err and "crdtlog pair" in done.err
    assert not set(key.words) & set(done.out.split())
    sync_all([group.phone, group.laptop, group.tablet])
    assert role(group.tablet, group.phone) == "admin"
    assert "(recovery key)" in group.run(group.phone, "devices").out.splitlines()[1]


def test_a_removed_device_that_recovers_is_told_who_may_not_listen(
    recoverable: tuple[Group, engine.RecoveryKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    group, key = recoverable
    group.run(group.laptop, "remove", "phone", "--yes")
    send(group.laptop, group.phone)
    for db in (group.tablet, group.phone):
        monkeypatch.setattr("sys.stdin", io.StringIO(" ".join(key.words)))
        done = group.run(db, "recover")
        assert ("had been removed, and laptop, tablet had not" in done.err) is (db is group.phone)


def test_other_words_make_nobody_an_admin(
    recoverable: tuple[Group, engine.RecoveryKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    group, _ = recoverable
    group.run(group.laptop, "role", "phone", "writer")
    sync(group.laptop, group.phone)

    for words in (" ".join(engine.new_recovery().words), "one two three"):
        monkeypatch.setattr("sys.stdin", io.StringIO(words))
        done = group.run(group.phone, "recover", fails=2)
        assert "Error: " in done.err and done.out == ""
    assert role(group.phone, group.phone) == "writer"


def test_a_database_without_a_recovery_key_is_told_of_as_such(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" ".join(engine.new_recovery().words)))

    assert "without a recovery key" in group.run(group.laptop, "recover", fails=2).err


# --- aside and doctor ---------------------------------------------------------------------------------------------


def test_what_a_reader_writes_is_put_aside_listed_and_told_by_doctor(group: Group) -> None:
    group.laptop.execute("INSERT INTO t VALUES ('one', 1), ('two', 2)")
    group.run(group.laptop, "role", "phone", "reader")
    sync(group.laptop, group.phone)
    assert "Nothing" in group.run(group.phone, "aside").err
    group.phone.execute("UPDATE t SET v = 'mine' WHERE id = 'one'")
    group.phone.execute("DELETE FROM t WHERE id = 'two'")

    answer = group.run(group.phone, "aside", "--json").json

    assert_shape(answer, documented("aside"))
    kept = [
        (item["table"], item["key"], item["column"], item["value"], item["deleted"])
        for item in answer["aside"]
    ]
    assert sorted(kept, key=repr) == [
        ("t", "one", "v", "mine", False),
        ("t", "two", None, None, True),
    ]
    assert rows_of(group.phone) == [("one", 1), ("two", 2)]
    shown = group.run(group.phone, "aside").out
    assert "mine" in shown and "(row deleted)" in shown and "may only read" in shown
    done = group.run(group.phone, "doctor", "--json")
    (finding,) = findings(done, "aside")
    assert (
        finding["state"] == "note" and "2 values" in finding["message"] and "crdtlog aside" in finding["next"]
    )
    assert "may only read" in findings(done, "file")[0]["message"]
    assert findings(group.run(group.laptop, "doctor", "--json"), "aside") == []


def test_doctor_tells_of_admins_who_disagree_until_one_decides(group: Group) -> None:
    group.run(group.laptop, "role", "tablet", "writer")
    group.run(group.phone, "role", "tablet", "reader")
    assert findings(group.run(group.laptop, "doctor", "--json"), "admins") == []
    sync(group.laptop, group.phone)

    (finding,) = findings(group.run(group.laptop, "doctor", "--json", fails=3), "admins")

    assert finding["state"] == "problem"
    for words in ("about tablet", "laptop said writer", "phone said reader", "it is reader until"):
        assert words in finding["message"]
    sync(group.laptop, group.tablet)
    (seen,) = findings(group.run(group.tablet, "doctor", "--json", fails=3), "admins")
    assert seen["message"] == finding["message"] and seen["next"].startswith(
        "On an admin's device: crdtlog role"
    )
    command = finding["next"].partition("crdtlog ")[2].partition(" ROLE")[0].split()
    assert command[0] == "role" and Path(command[1]) == group.laptop.path
    done = group.run(group.laptop, "role", command[2], "reader")  # what doctor says, with what holds already
    assert "settles" in done.err and "stays reader" in done.err
    assert findings(group.run(group.laptop, "doctor", "--json"), "admins") == []
    sync(group.laptop, group.phone)
    assert findings(group.run(group.phone, "doctor", "--json"), "admins") == []


def test_a_removal_that_another_admin_did_not_know_of_stands_and_is_told(group: Group) -> None:
    group.run(group.laptop, "role", "tablet", "writer")
    group.run(group.phone, "remove", "tablet", "--yes")
    sync(group.laptop, group.phone)

    (finding,) = findings(group.run(group.laptop, "doctor", "--json"), "admins")

    assert finding["state"] == "note"
    assert "phone said removed" in finding["message"] and "crdtlog pair" in finding["next"]


def test_doctor_tells_of_entries_that_are_held_and_do_not_count(group: Group) -> None:
    group.run(group.laptop, "remove", "phone", "--yes")
    group.phone.execute("INSERT INTO t VALUES ('late', 1)")
    group.phone.drain_all()
    send(group.phone, group.laptop)

    (finding,) = findings(group.run(group.laptop, "doctor", "--json"), "held")

    assert finding["state"] == "note" and "1 entry of phone" in finding["message"]
    assert rows_of(group.laptop) == []


def test_doctor_tells_a_removed_device_that_it_belongs_no_more(group: Group) -> None:
    group.run(group.laptop, "remove", "phone", "--yes")
    send(group.laptop, group.phone)

    (finding,) = findings(group.run(group.phone, "doctor", "--json", fails=3), "file")

    assert finding["state"] == "problem" and "phone was removed" in finding["message"]
