"""Stamps: the time of a change, as one integer that can be compared.

A stamp is 64 bits: 48 bits of Unix milliseconds and 16 bits of counter. It breaks ties between *concurrent* writes
only; causality (contexts) decides first. This file reads no clock: times come in as arguments. Stamps of one log never
run backwards, and no other device's stamp ever advances ours (rule R9), so a wrong clock elsewhere cannot infect us.
"""

from collections.abc import Iterable

COUNTER_BITS = 16
MAX_STAMP = (1 << 64) - 1
MAX_MS = (1 << 48) - 1
_SQL_BIAS = 1 << 63
#: `(sql_stamp >> 16) + SQL_MS_BIAS` is the Unix time in milliseconds, usable inside SQL views.
SQL_MS_BIAS = 1 << 47

_JULIAN_UNIX_EPOCH = 2440587.5
_MS_PER_DAY = 86_400_000


def stamp(unix_ms: int, counter: int = 0) -> int:
    """The stamp of a moment in Unix milliseconds, clamped to what 48 bits hold."""
    return (min(max(unix_ms, 0), MAX_MS) << COUNTER_BITS) | counter


def stamp_ms(value: int) -> int:
    """The Unix milliseconds of a stamp."""
    return value >> COUNTER_BITS


def to_sql(value: int) -> int:
    """A stamp as SQLite's signed 64-bit integer, order preserved."""
    return value - _SQL_BIAS


def from_sql(value: int) -> int:
    """The inverse of `to_sql`."""
    return value + _SQL_BIAS


def julian_ms(julian_day: float) -> int:
    """Unix milliseconds of an SQLite `julianday()` value (whose resolution is about 40 microseconds)."""
    return round((julian_day - _JULIAN_UNIX_EPOCH) * _MS_PER_DAY)


def julian(unix_ms: int) -> float:
    """The SQLite julian day of Unix milliseconds."""
    return unix_ms / _MS_PER_DAY + _JULIAN_UNIX_EPOCH


def stamps_for(julian_days: Iterable[float], *, last: int, now_ms: int) -> list[int]:
    """One stamp for each capture time, in order.

    Invariant (R9): every stamp is above `last`, the highest that this log has given so far; hence the stamps of any one
    row strictly increase within the log, as a row occurs once in an entry. A capture time ahead of the drain's clock
    is clamped to that clock.
    """
    times = [round((day - _JULIAN_UNIX_EPOCH) * _MS_PER_DAY) for day in julian_days]
    if not times:
        return []
    if min(times) << COUNTER_BITS > last and max(times) <= min(now_ms, MAX_MS):
        return [ms << COUNTER_BITS for ms in times]
    floor = last + 1
    return [min(max(stamp(min(ms, now_ms)), floor), MAX_STAMP) for ms in times]
