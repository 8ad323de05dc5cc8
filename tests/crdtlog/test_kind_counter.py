"""Counters: changes add up exactly, in any order; what does not count shows as it is."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.errors import Malformed
from crdtlog.kinds import counter
from crdtlog.kinds.counter import ZERO, Sum
from crdtlog.values import Value, pack

INTEGERS = st.integers(-(2**63), 2**63 - 1)
NUMBERS = INTEGERS | st.floats(allow_nan=False, allow_infinity=False)
OTHERS = st.sampled_from([None, "5", "", b"\x05", math.inf, -math.inf])


def changed(first: Value, added: Sum, value: Value) -> Sum:
    patch = counter.difference(first, added, value)
    assert patch is not None
    return counter.add(added, counter.decode(patch))


@given(NUMBERS, st.lists(NUMBERS, max_size=8), st.randoms())
def test_changes_give_one_value_in_any_order(
    first: int | float, values: list[int | float], rng: random.Random
) -> None:
    patches = [counter.difference(first, ZERO, value) for value in values]
    orders = [list(patches), list(patches)]
    rng.shuffle(orders[1])
    sums = []
    for order in orders:
        total = ZERO
        for patch in order:
            assert patch is not None
            total = counter.add(total, counter.decode(patch))
        sums.append(total)
    assert sums[0] == sums[1]
    assert counter.encode(sums[0]) == counter.encode(sums[1])


@given(NUMBERS, st.lists(NUMBERS, min_size=1, max_size=6))
def test_what_was_written_last_alone_shows(first: int | float, values: list[int | float]) -> None:
    total, real = ZERO, isinstance(first, float)
    for value in values:
        total = changed(first, total, value)
        real = real or isinstance(value, float)
        shown = counter.shown(first, total)
        assert shown == value or (real and isinstance(value, int) and shown == float(value))


@given(st.integers(-(10**6), 10**6), st.lists(st.integers(-(10**6), 10**6), max_size=10))
def test_concurrent_integer_steps_add_up(first: int, steps: list[int]) -> None:
    total = ZERO
    for step in steps:
        patch = counter.difference(first, ZERO, first + step)
        assert patch is not None
        total = counter.add(total, counter.decode(patch))
    assert counter.shown(first, total) == first + sum(steps)
    assert type(counter.shown(first, total)) is int


def test_floats_add_exactly_where_floating_point_would_not() -> None:
    total = ZERO
    for value in [1e16, 1.0, -1e16, 1.0]:
        total = counter.add(total, Sum(Fraction(value), True))
    assert counter.shown(0, total) == 2.0


def test_zero_subtracts_what_its_author_saw() -> None:
    seen = changed(3, ZERO, 7)
    reset = counter.difference(3, seen, 0)
    elsewhere = counter.difference(3, seen, 8)
    assert reset is not None
    assert elsewhere is not None
    total = counter.add(counter.add(seen, counter.decode(reset)), counter.decode(elsewhere))
    assert counter.shown(3, total) == 1


@given(OTHERS, NUMBERS)
def test_what_counts_nothing_shows_as_it_is_and_takes_no_change(other: Value, number: int | float) -> None:
    total = changed(1, ZERO, number)
    assert counter.shown(other, total) is other
    assert counter.difference(other, ZERO, number) is None
    assert counter.difference(number, ZERO, other) is None
    assert counter.first_value(other, total) is other


@given(INTEGERS, st.integers(-(2**40), 2**40))
def test_a_counter_that_begins_anew_shows_what_was_written(value: int, before: int) -> None:
    total = changed(0, ZERO, before)
    first = counter.first_value(value, total)
    assert counter.shown(first, total) == value or counter.overflows(value, Sum(-total.total, False))


def test_past_64_bits_the_nearest_number_shows_and_is_reported() -> None:
    top = 2**63 - 1
    total = ZERO
    for _ in range(3):
        patch = counter.difference(0, ZERO, top)
        assert patch is not None
        total = counter.add(total, counter.decode(patch))
    assert counter.shown(0, total) == top
    assert counter.overflows(0, total)
    assert not counter.overflows(0, changed(0, ZERO, top))


def test_past_the_largest_double_the_nearest_one_shows() -> None:
    most = 1.7976931348623157e308
    total = counter.add(Sum(Fraction(most), True), Sum(Fraction(most), True))
    assert counter.shown(0.0, total) == most
    assert counter.overflows(0.0, total)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_change_or_malformed(data: bytes) -> None:
    try:
        change = counter.decode(data)
    except Malformed:
        return
    assert counter.decode(counter.encode(change)) == change


@pytest.mark.parametrize("places", [-1, 1_101, True])
def test_places_out_of_bounds_are_malformed(places: int) -> None:
    with pytest.raises(Malformed):
        counter.decode(pack([b"\x01", places, True]))


@given(NUMBERS, NUMBERS, st.lists(NUMBERS, max_size=3))
def test_a_first_step_tells_what_was_added_before(
    first: int | float, value: int | float, others: list[int | float]
) -> None:
    total = ZERO
    for other in others:
        total = changed(0, total, other)
    patch = counter.difference(first, Sum(Fraction(0), total.real), value, total.total)
    assert patch is not None
    assert counter.decode_before(patch) == total.total
    assert counter.decode(patch).total == Fraction(value) - Fraction(first)
    begun = {(b"w", 3): counter.Begun(5, b"v", total.total), (b"w", 1): counter.Begun(4, b"u", Fraction(0))}
    for some in ({}, begun):
        assert counter.decode_own(counter.encode_own(total, some)) == (total, some)


@pytest.mark.parametrize(
    "rest", [[0], [b""], [b"", -1], [b"", 1_101], [b"", True], [b"x" * 301, 0], [b"", 0, 0]]
)
def test_what_was_added_before_is_bounded(rest: list[object]) -> None:
    with pytest.raises(Malformed):
        counter.decode(pack([b"\1", 0, False, *rest]))


def test_of_an_unbounded_sum_nothing_is_told() -> None:
    assert counter.difference(1, ZERO, 2, Fraction(1 << 2_400)) is None
