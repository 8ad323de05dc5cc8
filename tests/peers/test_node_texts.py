"""Nodes and texts that merge: edits made apart stand together, and a poisoned one stops nothing but its own text."""

import pytest

import crdtlog
from peers.cli.doctor import _merging
from tests.crdtlog import poison
from tests.crdtlog.unguarded import without_reader, without_worker
from tests.peers.lying_texts import lie, merging
from tests.peers.nodes import Machine, linked, run, until


def test_edits_of_one_text_on_two_devices_stand_together(laptop: Machine, phone: Machine) -> None:
    merging(laptop)
    laptop.write("a", "milk and bread")

    async def scenario() -> None:
        async with linked(laptop, phone):
            async with phone.node():
                await until(lambda: phone.notes() == {"a": "milk and bread"})
            phone.sql("UPDATE notes SET title = title || ', eggs'")
            laptop.sql("UPDATE notes SET title = 'oat ' || title")
            async with phone.node():
                await until(lambda: phone.notes() == laptop.notes() == {"a": "oat milk and bread, eggs"})

    run(scenario())
    assert laptop.verified().state == phone.verified().state


def test_a_poisoned_text_stops_nothing_else(laptop: Machine, phone: Machine) -> None:
    merging(laptop)
    laptop.write("bad", "a title")
    laptop.write("good", "another")

    async def scenario() -> None:
        async with linked(laptop, phone):
            async with phone.node():
                await until(lambda: len(phone.notes()) == 2)
            with crdtlog.open(phone.path, home=phone.home) as db:
                lie(db, "bad", b"\xff" * 50, 5)
            async with phone.node():
                await until(lambda: laptop.sql("SELECT stars FROM notes WHERE id = 'good'") == [(5,)])
                phone.sql("UPDATE notes SET title = title || '!' WHERE id = 'good'")
                laptop.sql("UPDATE notes SET title = 'quite ' || title WHERE id = 'good'")
                await until(lambda: laptop.notes() == phone.notes())
                await until(lambda: laptop.notes()["good"] == "quite another!")

    run(scenario())
    assert laptop.notes()["bad"] == "a title"
    with crdtlog.open(laptop.path, home=laptop.home) as db:
        (found,) = db.unmerged()
    assert found.key == "bad"
    assert "phone" in found.reason


def test_what_hurts_the_library_for_real_stops_nothing_else(
    laptop: Machine, phone: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a worker that reads nothing first: the library panics, crashes, and never comes to an end."""
    told = without_reader(monkeypatch)
    merging(laptop)
    chosen = [known.patch for known in poison.small_poisons() if known.name in poison.KINDS]
    # What damaged memory leads to is never sure: two that are.
    chosen += [b"compute for ever", b"kill"]
    bad = [f"bad {n}" for n in range(len(chosen))]
    for key in ("good", *bad):
        laptop.write(key, "a title")

    async def scenario() -> None:
        async with linked(laptop, phone):
            async with phone.node():
                await until(lambda: len(phone.notes()) == 1 + len(bad))
            with crdtlog.open(phone.path, home=phone.home) as db:
                for n, patch in enumerate(chosen):
                    lie(db, bad[n], patch, n + 1)
            told.clear()
            async with phone.node():
                last = [(len(bad),)]
                await until(lambda: laptop.sql("SELECT stars FROM notes WHERE id = 'good'") == last, 60.0)
                assert len(told) >= len(bad)
                assert {why.reason for why in told} >= {"crashed", "hung"}
                phone.sql("UPDATE notes SET title = title || '!' WHERE id = 'good'")
                laptop.sql("UPDATE notes SET title = 'quite ' || title WHERE id = 'good'")
                laptop.write("new", "from the laptop")
                await until(lambda: phone.notes().get("new") == "from the laptop")
                await until(lambda: laptop.notes()["good"] == phone.notes()["good"] == "quite a title!")

    run(scenario())
    assert [laptop.notes()[key] for key in bad] == ["a title"] * len(bad)
    with crdtlog.open(laptop.path, home=laptop.home) as db:
        found = db.unmerged()
    assert sorted(item.key for item in found) == bad
    assert all("phone" in item.reason for item in found)


def test_without_a_worker_what_is_written_still_arrives(
    laptop: Machine, phone: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    merging(laptop)
    laptop.write("a", "milk")
    without_worker(monkeypatch)

    async def scenario() -> None:
        async with linked(laptop, phone), phone.node():
            await until(lambda: phone.notes() == {"a": "milk"})
            laptop.sql("UPDATE notes SET title = title || ' and bread'")
            await until(lambda: phone.notes() == {"a": "milk and bread"})

    run(scenario())
    assert laptop.said("text worker cannot be started")
    with crdtlog.open(laptop.path, home=laptop.home) as db:
        (found,) = [finding for finding in _merging(db) if finding.state == "problem"]
    assert "title of notes" in found.message
