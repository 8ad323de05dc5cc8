"""Values: exact bytes are identity, and keys are named as SQLite compares them."""

import json
import math
import sqlite3

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crdtlog import values
from crdtlog.errors import Malformed, Usage
from crdtlog.values import Key, Value

INTEGERS = st.integers(-(1 << 63), (1 << 63) - 1)
FLOATS = st.floats(allow_nan=False)
BYTES = st.binary(max_size=12)
# Any bytes as text, as SQLite lets programs store them: with NUL, and not valid UTF-8.
TEXTS = st.one_of(
    st.text(max_size=8),
    st.text("aAbBzZ é\0ß", max_size=5),
    BYTES.map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)
VALUES: st.SearchStrategy[Value] = st.one_of(st.none(), INTEGERS, FLOATS, TEXTS, BYTES)
KEYS = st.one_of(INTEGERS, FLOATS, TEXTS, BYTES)


def identity(value: Value) -> tuple[str, object]:
    return (type(value).__name__, value.hex() if isinstance(value, float) else value)


@given(st.lists(VALUES))
def test_values_survive_the_wire_bit_for_bit(row: list[Value]) -> None:
    back = values.unpack(values.pack(row))

    assert list(map(identity, back)) == list(map(identity, row))


@given(VALUES, VALUES)
@example(1, 1.0)
@example(0.0, -0.0)
@example("x", b"x")
@example("", None)
@example("1", 1)
def test_hashes_are_equal_exactly_when_values_are_identical(one: Value, other: Value) -> None:
    ((first, second),) = values.hash_columns([[one, other]], seed=7)

    assert len(first) == values.HASH_BYTES
    assert (first == second) == (identity(one) == identity(other))


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=5))
def test_a_rows_hash_is_its_cells_hashes_in_order(rows: list[tuple[Value, Value]]) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)]
    first, second = values.hash_columns(columns, seed=1)

    assert values.hash_rows(columns, len(rows), seed=1) == [a + b for a, b in zip(first, second, strict=True)]
    assert values.hash_rows([], 3, seed=1) == [b""] * 3


@pytest.mark.parametrize("collation", ["BINARY", "NOCASE", "RTRIM"])
@given(one=KEYS, other=KEYS)
@example(one="a\0b", other="A\0c")
@example(one="a\0b", other="A\0cc")
@example(one="é", other="É")
@example(one="a  ", other="a")
@example(one="a \0", other="a")
@example(one=1, other=1.0)
@example(one=0, other=-0.0)
@example(one=(1 << 53) + 1, other=float(1 << 53))
@example(one=(1 << 63) - 1, other=float(1 << 63))
@example(one=-(1 << 63), other=-float(1 << 63))
@example(one=math.inf, other=1e308)
@example(one="1", other=1)
@example(one=b"a", other="a")
def test_two_spellings_have_one_normal_key_exactly_when_sqlite_takes_them_for_one(
    collation: str, one: Value, other: Value
) -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE pair (one, other)")
        connection.execute(f"INSERT INTO pair VALUES ({sql(one)}, {sql(other)})")
        equal = bool(connection.execute(f"SELECT one = other COLLATE {collation} FROM pair").fetchone()[0])

    names = [values.pack(list(values.normal_key((key,), [collation]))) for key in (one, other)]
    assert (names[0] == names[1]) == equal


def sql(value: Value) -> str:
    """A value as SQL text, exactly."""
    if isinstance(value, str):
        return f"CAST(x'{values.text_bytes(value).hex()}' AS TEXT)"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, float) and math.isinf(value):
        return f"{'-' if value < 0 else ''}9e999"
    return repr(value)


@given(st.lists(KEYS, min_size=1, max_size=2).map(tuple), st.lists(KEYS, min_size=1, max_size=2).map(tuple))
@example((b"a",), ('{"hex": "61"}',))
@example(('"x"',), ("x",))
@example(('{"hex": "61"}',), ('"{\\"hex\\": \\"61\\"}"',))
@example((1, "1"), ("1", 1))
def test_different_keys_of_one_table_are_named_differently(one: Key, other: Key) -> None:
    """Losing versions are filed under these names: two rows sharing one would lose their conflicts to each other."""
    if len(one) != len(other):
        return
    one, other = (values.normal_key(key, ["BINARY"] * len(key)) for key in (one, other))

    same = [identity(value) for value in one] == [identity(value) for value in other]
    assert (identity(values.key_text(one)) == identity(values.key_text(other))) == same


@given(st.lists(st.one_of(INTEGERS, TEXTS, BYTES), min_size=1, max_size=3).map(tuple))
@example(('{"hex": "61"}',))
@example(('{"', b"a"))
def test_a_key_can_be_typed_as_it_is_shown(key: Key) -> None:
    affinities = ["INTEGER" if isinstance(value, int) else "TEXT" for value in key]
    shown = values.key_text(key)

    typed = json.dumps({"hex": shown.hex()}) if isinstance(shown, bytes) else str(shown)

    assert key in values.possible_keys(typed, len(key), affinities)


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        ("5", ["5", 5]),
        ("-5", ["-5", -5]),
        ("9223372036854775808", ["9223372036854775808", 2.0**63]),
        ("1.5", ["1.5", 1.5]),
        ("1e+300", ["1e+300", 1e300]),
        ("-inf", ["-inf", -math.inf]),
        ("nan", ["nan"]),
        ("1_0", ["1_0"]),
        ("٥", ["٥"]),
        ("[5]", ["[5]", 5]),
        ('["5"]', ['["5"]', "5"]),
        ("[5", ["[5"]),
        ("x'00Ff'", ["x'00Ff'", b"\0\xff"]),
        ("x'0'", ["x'0'"]),
        ('{"hex": "00ff"}', [b"\0\xff"]),
        ('{"text": "6361e9"}', ["ca\udce9"]),
        ("9" * 5_000, ["9" * 5_000, math.inf]),
    ],
)
def test_what_is_typed_for_a_key_without_a_type_may_mean_several_values(
    text: str, possible: list[Value]
) -> None:
    assert values.possible_keys(text, 1, ["BLOB"]) == [(value,) for value in possible]


def test_a_number_typed_for_a_text_key_is_text() -> None:
    assert values.possible_keys("5", 1, ["TEXT"]) == [("5",)]


@pytest.mark.parametrize(
    "text",
    [
        *("[1]", "[1, 2, 3]", "x", '{"a": 1}', '[1, {"hex": "zz"}]', "[1, [2]]", "[1, true]"),
        *("[1, 9223372036854775808]", "[1, NaN]", '[1, "\\ud800"]', "[" * 100_000),
    ],
)
def test_what_is_no_key_is_a_usage_error(text: str) -> None:
    with pytest.raises(Usage):
        values.possible_keys(text, 2, ["TEXT", "TEXT"])


# --- bytes from elsewhere -----------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_malformed(data: bytes) -> None:
    try:
        values.unpack(data)
    except Malformed:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"\x91" * 100_000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xffa",
        b"\xc6\xff\xff\xff\xffa",
        b"\xdf\xff\xff\xff\xff",
        msgpack.packb({1: 2}),
        msgpack.packb(msgpack.ExtType(5, b"x")),
        msgpack.packb(1) + b"\0",
        b"",
    ],
    ids=["nested", "array", "text", "blob", "map", "number as key", "extension", "trailing", "empty"],
)
def test_lengths_and_depths_that_lie_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        values.unpack(data)


@pytest.mark.parametrize("value", [math.nan, 1 << 63, -(1 << 63) - 1, [1], {"a": 1}, True])
def test_what_sqlite_cannot_store_exactly_is_malformed(value: object) -> None:
    with pytest.raises(Malformed):
        values.check_column([None, value])
