"""Counters: a first value, and changes that add up.

A cell's changes are one exact sum, whatever their order: doubles are binary fractions, so that a sum of integers and
doubles has one value although floating-point addition is not associative. The first value is a register of its own;
what shows is that value plus the sum. `None`, text, blobs and infinities count nothing: they show as they are.
(An operation-based counter: Shapiro et al. 2011.)
"""

import math
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


def counts(value: Value) -> TypeGuard[int | float]:
    """Whether a value is a finite number."""
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def difference(first: Value, added: Sum, value: Value) -> bytes | None:
    """The patch that makes a counter show `value`; None if one counts nothing, or no patch is so large."""
    if not counts(first) or not counts(value):
        return None
    real = added.real or isinstance(first, float) or isinstance(value, float)
    change = Fraction(value) - Fraction(first) - added.total
    if _size(change) > _MAX_BYTES:
        return None
    return encode(Sum(change, real))


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
    numerator, places = value.total.numerator, value.total.denominator.bit_length() - 1
    return pack([numerator.to_bytes(_size(value.total), "big", signed=True), places, value.real])


def _size(total: Fraction) -> int:
    """Bytes of its numerator."""
    return (total.numerator.bit_length() + 8) // 8


def decode_own(data: bytes) -> Sum:
    """The inverse of `encode`, for a sum that this device stored: many bounded changes may add up to any size."""
    numerator, places, real = unpack_own(data)
    return Sum(Fraction(int.from_bytes(numerator, "big", signed=True), 1 << places), real)


def decode(data: bytes) -> Sum:
    """A change from its bytes, which another device may have made. Raises `Malformed`."""
    match unpack(data):
        case [bytes(numerator), int(places), bool(real)] if (
            len(numerator) <= _MAX_BYTES and type(places) is int and 0 <= places <= _MAX_SHIFT
        ):
            total = Fraction(int.from_bytes(numerator, "big", signed=True), 1 << places)
        case _:
            raise Malformed("a change of a counter is a bounded binary fraction")
    if places and not real:
        raise Malformed("a change of a counter by whole numbers is whole")
    return Sum(total, real)
