"""Words that stand for secrets: one list, four letters a word, and what somebody may have meant."""

import pytest

from crdtlog.words import completed, nearest, shown, word_list


def test_words_differ_within_four_letters() -> None:
    assert len(word_list()) == 2048 == len({word[:4] for word in word_list()})


@pytest.mark.parametrize("typed", ["abandon", "aban", "aband"])
def test_four_letters_are_a_word(typed: str) -> None:
    assert completed(typed) == "abandon"


@pytest.mark.parametrize("typed", ["", "aba", "abandons", "abandom", "ABANDON", "abän"])
def test_what_is_no_word(typed: str) -> None:
    assert completed(typed) is None


def test_the_nearest_word_is_named_if_it_is_the_only_one() -> None:
    assert nearest("abandom") == "abandon"
    assert nearest("abot") == "about"
    assert nearest("woud") is None  # word, or wood?
    assert nearest("qqqq") is None


def test_what_is_shown_moves_no_cursor() -> None:
    assert shown("a\x1b[2Jb") == "'a\\x1b[2Jb'" and len(shown("x" * 99)) == 42
