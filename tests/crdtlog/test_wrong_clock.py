"""Rule R9: capture times compete, clocks are clamped, and one bad hour with a wrong clock does not win for ever."""

import time
from pathlib import Path

from crdtlog.database import Database
from tests.crdtlog.devices import World, devices, sync

SCHEMA = ["CREATE TABLE notes (id TEXT PRIMARY KEY, title TEXT)"]
HOUR_MS = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def write_with_clock(db: Database, sql: str, ahead_ms: int) -> None:
    """Write, and drain, while the device's clock is that far off."""
    db.execute(sql)
    db.execute("UPDATE crdtlog__capture_1 SET at = at + ? / 86400000.0", (ahead_ms,))
    db._state.now_ms = lambda: now_ms() + ahead_ms
    db.drain_all()
    db._state.now_ms = now_ms


def last_stamp_ms(db: Database) -> int:
    return db._state.writer.last_stamp >> 16


def title(db: Database) -> str:
    return str(db.execute("SELECT title FROM notes WHERE id = 'a'").fetchone()[0])


def test_what_was_written_offline_earlier_loses_to_what_was_written_later_whenever_they_are_drained(
    tmp_path: Path,
) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], SCHEMA, "INSERT INTO notes VALUES ('a', 'first')")
        a.execute("UPDATE notes SET title = 'monday' WHERE id = 'a'")
        time.sleep(0.02)
        b.execute("UPDATE notes SET title = 'tuesday' WHERE id = 'a'")
        b.drain_all()
        time.sleep(0.02)
        a.drain_all()  # late, but the change keeps the time of its capture

        sync(a, b)

        assert (title(a), title(b)) == ("tuesday", "tuesday")
        assert [conflict["value"] for conflict in a.conflicts()] == ["monday"]


def test_a_capture_from_the_future_is_clamped_to_the_drains_clock(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        (a,) = devices(world, ["a"], SCHEMA, "INSERT INTO notes VALUES ('a', 'first')")
        a.execute("UPDATE notes SET title = 'far ahead' WHERE id = 'a'")
        a.execute("UPDATE crdtlog__capture_1 SET at = at + 10000")

        a.drain_all()

        assert last_stamp_ms(a) <= now_ms()


def test_a_device_whose_clock_was_wrong_can_be_overwritten_by_whoever_saw_its_write(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], SCHEMA, "INSERT INTO notes VALUES ('a', 'first')")
        write_with_clock(a, "UPDATE notes SET title = 'from 9999' WHERE id = 'a'", 250_000_000_000_000)
        sync(a, b)
        assert title(b) == "from 9999"

        b.execute("UPDATE notes SET title = 'now' WHERE id = 'a'")
        b.drain_all()
        sync(a, b)

        assert (title(a), title(b)) == ("now", "now")
        assert a.conflicts() == b.conflicts() == []


def test_a_log_that_is_ahead_of_both_clocks_is_continued_by_a_new_writer(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], SCHEMA, "INSERT INTO notes VALUES ('a', 'first')")
        write_with_clock(a, "UPDATE notes SET title = 'an hour ahead' WHERE id = 'a'", HOUR_MS)
        before = a.writer

        assert a.begin_anew_if_ahead(now_ms())

        assert a.writer != before
        assert a.writer[:16] == before[:16]
        a.execute("UPDATE notes SET title = 'right again' WHERE id = 'a'")
        a.drain_all()
        assert last_stamp_ms(a) <= now_ms()
        sync(a, b)
        assert (title(a), title(b)) == ("right again", "right again")
        assert a.verify().ok
        assert a.verify().state == b.verify().state


def test_a_log_goes_on_when_only_one_of_the_two_clocks_says_that_it_is_ahead(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        (a,) = devices(world, ["a"], SCHEMA, "INSERT INTO notes VALUES ('a', 'first')")
        write_with_clock(a, "UPDATE notes SET title = 'later' WHERE id = 'a'", HOUR_MS)
        before = a.writer

        assert not a.begin_anew_if_ahead(now_ms() + HOUR_MS)

        assert a.writer == before


def test_stamps_of_one_row_never_run_backwards_within_a_log(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        (a,) = devices(world, ["a"], SCHEMA, "INSERT INTO notes VALUES ('a', 'first')")
        write_with_clock(a, "UPDATE notes SET title = 'ahead' WHERE id = 'a'", 60_000)
        first = a._state.writer.last_stamp

        a.execute("UPDATE notes SET title = 'after the clock was set back' WHERE id = 'a'")
        a.drain_all()

        assert a._state.writer.last_stamp > first
