"""Stamps: 48 bits of milliseconds, 16 of counter, never running backwards in one log."""

import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from crdtlog import clock

STAMPS = st.integers(0, clock.MAX_STAMP)
MS = st.integers(0, clock.MAX_MS)


@given(STAMPS, STAMPS)
def test_a_stamp_in_sql_is_a_signed_64_bit_integer_of_the_same_order(one: int, other: int) -> None:
    assert -(1 << 63) <= clock.to_sql(one) < 1 << 63
    assert clock.from_sql(clock.to_sql(one)) == one
    assert (clock.to_sql(one) < clock.to_sql(other)) == (one < other)


@given(MS, st.integers(0, 65_535))
def test_sql_finds_the_milliseconds_of_a_stamp(ms: int, counter: int) -> None:
    stored = clock.to_sql(clock.stamp(ms, counter))

    with sqlite3.connect(":memory:") as connection:
        found = connection.execute("SELECT (? >> 16) + ?", (stored, clock.SQL_MS_BIAS)).fetchone()[0]

    assert found == ms == clock.stamp_ms(clock.stamp(ms, counter))


@given(st.integers(0, 253_402_300_799_000))  # the year 9999, the last that julianday() knows
def test_a_julian_day_tells_the_millisecond_it_was_made_of(ms: int) -> None:
    assert clock.julian_ms(clock.julian(ms)) == ms


@given(st.integers(-(10**20), 10**20))
def test_no_clock_however_wrong_makes_a_stamp_that_does_not_fit(ms: int) -> None:
    assert 0 <= clock.stamp(ms) <= clock.MAX_STAMP


@given(st.lists(MS, max_size=8), st.integers(0, clock.MAX_STAMP >> 1), st.integers(0, clock.MAX_MS >> 1))
def test_new_stamps_are_above_the_last_and_not_ahead_of_the_clock_that_drains(
    captured: list[int], last: int, now: int
) -> None:
    stamps = clock.stamps_for([clock.julian(ms) for ms in captured], last=last, now_ms=now)

    assert len(stamps) == len(captured)
    assert all(stamp > last for stamp in stamps)
    assert all(stamp <= max(clock.stamp(now), last + 1) for stamp in stamps)


def test_a_change_captured_on_monday_competes_as_mondays_whenever_it_is_drained() -> None:
    monday, friday = 1_700_000_000_000, 1_700_400_000_000

    assert clock.stamps_for([clock.julian(monday)], last=0, now_ms=friday) == [clock.stamp(monday)]


def test_a_clock_that_jumps_back_goes_on_counting_from_the_last_stamp() -> None:
    last = clock.stamp(9_000, 5)

    assert clock.stamps_for([clock.julian(1_000)], last=last, now_ms=1_000) == [last + 1]
