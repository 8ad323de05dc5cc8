"""A device whose file, or whole home, came out of a backup: it is noticed, nothing is lost, and all converge (R11)."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest

import crdtlog
from tests.crdtlog.devices import closing_connection
from tests.peers.nodes import Machine, linked, run, until


class Backup:
    """A copy of a device's file, and of its home, at one moment."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self.file, self.home = directory / "backup.db", directory / "backup-home"
        with closing_connection(machine.path) as source, closing_connection(self.file) as target:
            source.backup(target)
        shutil.copytree(machine.home.path, self.home, ignore=shutil.ignore_patterns("run"))

    def restore(self, *, home: bool) -> None:
        """Put the file back, and the home if wanted."""
        for suffix in ("", "-wal", "-shm"):
            self.machine.path.with_name(self.machine.path.name + suffix).unlink(missing_ok=True)
        shutil.copy(self.file, self.machine.path)
        if home:
            for part in ("keys", "state"):
                shutil.rmtree(self.machine.home.path / part)
                shutil.copytree(self.home / part, self.machine.home.path / part)


def writer(machine: Machine) -> bytes:
    with crdtlog.open(machine.path, home=machine.home, create=False) as db:
        return db.writer


@pytest.mark.parametrize("whole", [False, True], ids=["the file", "file and home"])
@pytest.mark.parametrize("first", ["before", "after"])
def test_a_device_out_of_a_backup_gets_its_tail_back_and_keeps_what_it_wrote_since(
    laptop: Machine, phone: Machine, tmp_path: Path, whole: bool, first: str
) -> None:
    """It writes before or after it hears of others, fewer or more entries than it had written in the first place."""
    laptop.write("a", "milk")

    async def scenario() -> None:
        async with linked(laptop, phone):
            async with phone.node():
                await until(lambda: phone.notes() == {"a": "milk"})
                phone.write("p0", "by the phone")
                await until(lambda: laptop.notes() == phone.notes())
            backup = Backup(phone, tmp_path)
            async with phone.node():
                for n in (1, 2, 3):
                    phone.write(f"p{n}", "after the backup")
                    await until(lambda n=n: f"p{n}" in laptop.notes())  # type: ignore[misc]
            backup.restore(home=whole)
            before = writer(phone) if whole else None
            if first == "before":
                for n in range(5):
                    phone.write(f"q{n}", "after restoring")
                    with closing(crdtlog.open(phone.path, home=phone.home, create=False)) as db:
                        db.drain_all()
            async with phone.node():
                if first == "after":
                    await until(lambda: len(phone.notes()) == 5)
                    phone.write("q0", "after restoring")
                await until(lambda: "q0" in laptop.notes())
                await until(lambda: laptop.notes() == phone.notes())
            assert phone.said("restored from a backup") or not whole
            assert before is None or writer(phone) != before

    run(scenario())
    assert len(laptop.notes()) == 5 + (5 if first == "before" else 1)
    assert laptop.verified().state == phone.verified().state
    assert phone.verified().ok


def test_more_was_written_since_than_others_have_under_the_same_numbers(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    """The laptop has less of the phone's log than the phone wrote anew since, under the same numbers."""
    laptop.write("a", "milk")

    async def scenario() -> None:
        async with linked(laptop, phone):
            async with phone.node():
                await until(lambda: phone.notes() == {"a": "milk"})
            backup = Backup(phone, tmp_path)
            async with phone.node():
                phone.write("p1", "after the backup")
                await until(lambda: "p1" in laptop.notes())
            backup.restore(home=True)
            for n in range(4):
                phone.write(f"q{n}", "after restoring")
                with closing(crdtlog.open(phone.path, home=phone.home, create=False)) as db:
                    db.drain_all()
            async with phone.node():
                await until(lambda: len(laptop.notes()) == 6)
                await until(lambda: laptop.notes() == phone.notes())
            assert phone.said("entries written anew: 4")

    run(scenario())
    assert laptop.verified().state == phone.verified().state
