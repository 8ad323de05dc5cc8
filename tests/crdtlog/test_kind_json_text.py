"""JSON text is read and written without loss, as SQLite and other readers understand it; what cannot be, is refused."""

import json
import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.kinds import Origin
from tests.crdtlog.jsondocs import KIND, A, B, change, started

EXACT = [
    "9007199254740993",
    "-9223372036854775808",
    "123456789012345678901234567890",
    "0.1000000000000000055511151231257827",
    "-0",
    "-0.0",
    "1E400",
    "1e+5",
    "1.50",
    '"\\ud800"',
    '"\\udc00x"',
    '"\\u0000"',
    '"\\u001f\\n\\"\\\\"',
    '"\x7f\u2028é😀"',
    '""',
]


@pytest.mark.parametrize("scalar", EXACT)
def test_values_survive_as_they_are_spelled(scalar: str) -> None:
    text = f'{{"k":[{scalar}],{scalar if scalar[0] == chr(34) else chr(34) * 2}:null}}'
    state = started("[]")
    origin = Origin(5, B, 1)
    patch = change(state, text, origin)

    assert KIND.show(started(scalar)) == scalar
    assert KIND.show(started(text)) == text
    assert KIND.show(KIND.merge(state, patch, origin)) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (' { "a" : [ 1 ,\n2 ] } ', '{"a":[1,2]}'),
        (r'"\u0041\/\u00e9\ud83d\ude00"', '"A/é😀"'),
        (r'"\uD800"', r'"\ud800"'),
        (r'{"\u0041":1}', '{"A":1}'),
    ],
)
def test_spelling_that_says_nothing_is_dropped(text: str, shown: str) -> None:
    assert KIND.show(started(text)) == shown


@pytest.mark.parametrize(
    "pair", [("1", "1.0"), ("0", "-0"), ("1e5", "1E5"), ('"1"', "1"), ('"null"', "null")]
)
def test_different_spellings_of_numbers_are_different_values(pair: tuple[str, str]) -> None:
    assert change(started(f"[{pair[0]}]"), f"[{pair[1]}]", Origin(5, B, 1))


PYTHON_JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(PYTHON_JSON, st.booleans())
def test_texts_say_the_same_as_other_readers_find_in_them(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)

    shown = KIND.show(started(text))

    assert json.loads(shown) == value
    with sqlite3.connect(":memory:") as connection:
        assert connection.execute("SELECT json_valid(?)", (shown,)).fetchone() == (1,)
        if "\\" not in text:
            assert connection.execute("SELECT json(?)", (text,)).fetchone() == (shown,)


NOT_MERGEABLE = [
    None,
    1,
    1.5,
    b"{}",
    b"\xff",
    "",
    " ",
    "{",
    "{'a':1}",
    '{"a":1,}',
    "[1] x",
    "NaN",
    "-Infinity",
    "01",
    "+1",
    ".5",
    "1.",
    "\ufeff1",
    '"\n"',
    '"\udc80"',  # not UTF-8
    '{"a":1,"a":2}',
    '[{"a":1,"\\u0061":2}]',
    "[" * 101 + "]" * 101,
    "[" * 100_000,
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 100_000,
    "[" + "0," * 50_000 + "0]",
    '"' + "x" * (1 << 20) + '"',
]


@pytest.mark.parametrize("value", NOT_MERGEABLE, ids=lambda value: ascii(value)[:20])
def test_what_is_no_json_or_too_much_of_it_has_no_mergeable_form(value: Any) -> None:
    assert KIND.start(value, Origin(1, A, 1)) is None
    assert KIND.diff(started("[1]"), value, Origin(2, A, 2)) is None


@pytest.mark.parametrize(
    ("opening", "closing", "times"), [("[", "]", 100), ('{"a":', "}", 100), ('[{"a":', "}]", 50)]
)
def test_the_deepest_text_can_be_edited_and_written_anywhere(opening: str, closing: str, times: int) -> None:
    deepest, other = (opening * times + scalar + closing * times for scalar in "01")
    state = started(deepest)
    origin = Origin(5, B, 1)

    assert KIND.show(state) == deepest
    assert KIND.show(KIND.merge(state, change(state, other, origin), origin)) == other
    change(started("0"), deepest, origin)
