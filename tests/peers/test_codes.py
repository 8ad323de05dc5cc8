"""Codes survive being read aloud and typed by people."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog import errors
from crdtlog.words import word_list
from peers.pairing.codes import Code, make_code, parse_code

codes = st.builds(
    lambda nameplate, words: Code(nameplate, tuple(words)),
    st.integers(1, 999),
    st.lists(st.sampled_from(word_list()), min_size=3, max_size=3),
)
CODE = Code(417, ("abandon", "zebra", "act"))


@given(codes)
def test_a_code_reads_back_as_shown(code: Code) -> None:
    assert parse_code(str(code)) == code


@given(codes)
def test_four_letters_a_word_are_enough(code: Code) -> None:
    assert parse_code(" ".join([str(code.nameplate), *(word[:4] for word in code.words)])) == code


@pytest.mark.parametrize(
    "typed",
    [
        "417-abandon-zebra-act",
        "  417 ABANDON Zebra aCt\n",
        "417 - abandon - zebra - act",
        "417–abandon—zebra−act",
        "417_abandon.zebra,act",
        "0417-aband-zebr-act",
    ],
)
def test_typing_habits_do_not_matter(typed: str) -> None:
    assert parse_code(typed) == CODE


def test_an_unknown_word_brings_the_likely_one() -> None:
    with pytest.raises(errors.Usage, match="'abandom' is not a word") as caught:
        parse_code("417-abandom-zebra-act")
    assert "Did you mean abandon" in caught.value.hint


def test_a_word_that_merely_begins_like_one_is_not_taken_for_it() -> None:
    with pytest.raises(errors.Usage, match="zebrafish"):
        parse_code("417-abandon-zebrafish-act")


def test_three_letters_do_not_decide_a_longer_word() -> None:
    with pytest.raises(errors.Usage):
        parse_code("417-aba-zebra-act")


@pytest.mark.parametrize(
    "typed", ["", "417", "abandon-zebra-act", "417-abandon-zebra", "4-act-act-act-act", "-" * 300]
)
def test_what_has_not_the_form_of_a_code_is_refused_with_an_example(typed: str) -> None:
    with pytest.raises(errors.Usage) as caught:
        parse_code(typed)
    assert caught.value.hint


@pytest.mark.parametrize("nameplate", ["0", "1000", "x", "٣", "9" * 30])
def test_a_nameplate_is_a_small_number(nameplate: str) -> None:
    with pytest.raises(errors.Usage):
        parse_code(f"{nameplate}/act/act/act/")


@given(st.text(max_size=250))
def test_any_text_is_a_code_or_a_usage_error(typed: str) -> None:
    try:
        code = parse_code(typed)
    except errors.Usage:
        return
    assert parse_code(str(code)) == code


def test_codes_come_from_the_given_randomness() -> None:
    assert make_code(bytes) == Code(1, ("abandon", "abandon", "abandon"))
    assert make_code(lambda n: b"\xff" * n).words == ("zoo", "zoo", "zoo")
    assert len({make_code(os.urandom) for _ in range(100)}) == 100


def test_every_word_and_nameplate_can_come() -> None:
    counted = iter(range(10_000))
    seen = {
        make_code(lambda n: (next(counted) * 0x9E3779B97F4A7C15 % 2 ** (8 * n)).to_bytes(n, "big"))
        for _ in range(5000)
    }
    assert {code.nameplate for code in seen} == set(range(1, 1000))
    assert len({word for code in seen for word in code.words}) > 2000


def test_a_repr_keeps_the_secret() -> None:
    assert "abandon" not in repr(CODE) and "abandon" not in f"{[CODE]}"
    assert str(CODE) == "417-abandon-zebra-act" and CODE.password == b"417-abandon-zebra-act"
