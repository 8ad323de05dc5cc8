"""Counters: a first value, and changes that add up.

A cell's changes are one exact sum, whatever their order: doubles are binary fractions, so that a sum of integers and
doubles has one value although floating-point addition is not associative. The first value is a register of its own;
what shows is that value plus the sum. `None`, text, blobs and infinities count nothing: they show as they are.

A value that was written before its column counted shows without the sum, until the first step on it; from then on it
counts like any other, and only what had been added before that step stays out. Of several such first steps, made by
devices that had not seen one another's, the latest says what that is (`Begun`).
(An operation-based counter: Shapiro et al. 2011.)
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple, TypeGuard

from crdtlog.errors import Malformed
from crdtlog.values import Value, pack, unpack, unpack_own

_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
#: A difference of two doubles has at most so many bits, before and behind the point.
_MAX_SHIFT = 1_100
_MAX_BYTES = 300


class Sum(NamedTuple):
    """What was added so far; `real` once a double took part, as in SQL."""

    total: Fraction
    real: bool


ZERO = Sum(Fraction(0), False)


class Begun(NamedTuple):
    """The first step on a value that was no counter's: its stamp, who made it, and what was added to the cell before.

    The greatest holds.
    """

    stamp: int
    writer: bytes
    before: Fraction


def counts(value: Value) -> TypeGuard[int | float]:
    """Whether a value is a finite number."""
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def difference(first: Value, added: Sum, value: Value, before: Fraction | None = None) -> bytes | None:
    """The patch that makes a counter show `value`; None if one counts nothing, or no patch is so large.

    `before` is given by a first step on a value that was no counter's, and is left out of `added`.
    """
    if not counts(first) or not counts(value):
        return None
    real = added.real or isinstance(first, float) or isinstance(value, float)
    change = Fraction(value) - Fraction(first) - added.total
    if _size(change) > _MAX_BYTES or (before is not None and _size(before) > _MAX_BYTES):
        return None
    fields = _fields(change)
    return pack([*fields, real] if before is None else [*fields, real, *_fields(before)])


def add(added: Sum, patch: Sum) -> Sum:
    """A sum with one more change; commutative and associative."""
    return Sum(added.total + patch.total, added.real or patch.real)


def first_value(value: Value, added: Sum) -> Value:
    """The first value with which a counter shows `value` although much was added before; as exact as it can be."""
    if not counts(value) or not added.total:
        return value
    return _number(Fraction(value) - added.total, isinstance(value, float))


def shown(first: Value, added: Sum) -> Value:
    """What the counter shows: at most what 64 bits or a double hold (see `overflows`)."""
    if not counts(first) or added == ZERO:
        return first
    return _number(Fraction(first) + added.total, added.real or isinstance(first, float))


def overflows(first: Value, added: Sum) -> bool:
    """Whether the exact value is beyond what the column can hold, so that the nearest number shows."""
    if not counts(first):
        return False
    total = Fraction(first) + added.total
    if added.real or isinstance(first, float):
        return abs(total) > Fraction(math.nextafter(math.inf, 0))
    return not _INT64_MIN <= total <= _INT64_MAX


def _number(total: Fraction, real: bool) -> int | float:
    if not real:
        return min(max(int(total), _INT64_MIN), _INT64_MAX)
    try:
        return float(total)
    except OverflowError:
        most = math.nextafter(math.inf, 0)
        return most if total > 0 else -most


# --- bytes --------------------------------------------------------------------------------------------------------


def encode(value: Sum) -> bytes:
    """A sum or a change as bytes: numerator, binary places, whether a double took part."""
    return pack([*_fields(value.total), value.real])


def _fields(total: Fraction) -> tuple[bytes, int]:
    """Its numerator as bytes, and its binary places."""
    return (
        total.numerator.to_bytes(_size(total), "big", signed=True),
        total.denominator.bit_length() - 1,
    )


def _fraction(numerator: bytes, places: int) -> Fraction:
    return Fraction(int.from_bytes(numerator, "big", signed=True), 1 << places)


def _size(total: Fraction) -> int:
    """Bytes of its numerator."""
    return (total.numerator.bit_length() + 8) // 8


def encode_own(added: Sum, begun: Mapping[tuple[bytes, int], Begun]) -> bytes:
    """What a file keeps of a cell's counters: their sum, and for values that were none the first step (by dot)."""
    fields: list[object] = [*_fields(added.total), added.real]
    if begun:
        fields.append(
            [[*dot, item.stamp, item.writer, *_fields(item.before)] for dot, item in sorted(begun.items())]
        )
    return pack(fields)


def decode_own(data: bytes) -> tuple[Sum, dict[tuple[bytes, int], Begun]]:
    """The inverse of `encode_own`: many bounded changes may add up to any size.

    Raises `TypeError`, `ValueError` for what nobody encoded.
    """
    numerator, places, real, *rest = unpack_own(data)
    begun = {
        (writer, seq): Begun(stamp, author, _own_fraction(*before))
        for writer, seq, stamp, author, *before in (rest[0] if rest else ())
    }
    if type(real) is not bool or not all(
        type(item.stamp) is int and type(item.writer) is bytes for item in begun.values()
    ):
        raise TypeError("what is kept of a counter's steps is of other types")
    return Sum(_own_fraction(numerator, places), real), begun


def _own_fraction(numerator: object, places: object) -> Fraction:
    if type(numerator) is not bytes or type(places) is not int or not 0 <= places <= _MAX_SHIFT:
        raise ValueError("no binary fraction")
    return _fraction(numerator, places)


def decode(data: bytes) -> Sum:
    """What a patch adds, from its bytes, which another device may have made. Raises `Malformed`."""
    return _decode(data)[0]


def decode_before(data: bytes) -> Fraction | None:
    """What was added to the cell before a patch, if that is a first step on a value that was no counter's."""
    return _decode(data)[1]


def _decode(data: bytes) -> tuple[Sum, Fraction | None]:
    before = None
    match unpack(data):
        case [bytes(numerator), int(places), bool(real), *rest] if _is_bounded(numerator, places):
            total = _fraction(numerator, places)
        case _:
            raise Malformed("a change of a counter is a bounded binary fraction")
    if places and not real:
        raise Malformed("a change of a counter by whole numbers is whole")
    match rest:
        case []:
            pass
        case [bytes(numerator), int(places)] if _is_bounded(numerator, places):
            before = _fraction(numerator, places)
        case _:
            raise Malformed("what was added before a change of a counter is a bounded binary fraction")
    return Sum(total, real), before


def _is_bounded(numerator: bytes, places: int) -> bool:
    return len(numerator) <= _MAX_BYTES and type(places) is int and 0 <= places <= _MAX_SHIFT
