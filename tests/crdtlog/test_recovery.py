"""The recovery key survives paper: 24 words there and back, and every mistake is told from every other."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mnemonic import Mnemonic

from crdtlog.device import verify_bytes
from crdtlog.errors import Usage
from crdtlog.recovery import RecoveryKey, read_words
from crdtlog.words import word_list

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "recovery.json").read_text())["keys"]
SEED = bytes(range(32))
KEY = RecoveryKey(SEED)
TEXT = " ".join(KEY.words)
seeds = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["words"][:20])
def test_the_same_seed_always_has_the_same_words_and_public_key(vector: dict[str, str]) -> None:
    key = RecoveryKey(bytes.fromhex(vector["seed"]))

    assert " ".join(key.words) == vector["words"]
    assert key.public.hex() == vector["public"]
    assert read_words(vector["words"]) == key


@given(seeds)
def test_words_are_those_of_bip39_and_read_back(seed: bytes) -> None:
    key = RecoveryKey(seed)

    assert " ".join(key.words) == Mnemonic("english").to_mnemonic(seed)
    assert read_words(" ".join(key.words)) == key


@given(seeds, st.randoms(use_true_random=False))
def test_how_people_write_words_down_does_not_matter(seed: bytes, drawn: random.Random) -> None:
    key = RecoveryKey(seed)
    forms = ("{0}. {1}", "{0}.{1}", "{0}) {1}", "{0}: {1}", "{0} {1}", "{1}")
    styles = (str, str.upper, str.title, lambda word: word[:4])
    gaps = (" ", "\n", "\r\n", "   ", "\t", ", ", " \n\n ")

    typed = "".join(
        drawn.choice(forms).format(n, drawn.choice(styles)(word)) + drawn.choice(gaps)
        for n, word in enumerate(key.words, 1)
    )

    assert read_words(drawn.choice(gaps) + typed) == key


@given(seeds, st.integers(0, 23), st.sampled_from(word_list()))
def test_another_word_of_the_list_is_noticed_or_another_key(seed: bytes, place: int, other: str) -> None:
    """One wrong word of 256 fits the checksum by chance; it never is the same key."""
    words = list(RecoveryKey(seed).words)
    assume(words[place] != other)
    words[place] = other

    try:
        key = read_words(" ".join(words))
    except Usage as error:
        assert "do not belong together" in str(error) and error.hint
        return
    assert key != RecoveryKey(seed)


def test_the_checksum_notices_nearly_every_wrong_last_word() -> None:
    wrong = [word for word in word_list() if word != KEY.words[-1]]

    refused = 0
    for word in wrong:
        try:
            read_words(" ".join([*KEY.words[:-1], word]))
        except Usage:
            refused += 1

    assert refused == 2048 - 8  # three bits of the last word are the seed's


def test_swapped_words_are_noticed() -> None:
    words = [KEY.words[1], KEY.words[0], *KEY.words[2:]]

    with pytest.raises(Usage, match="do not belong together"):
        read_words(" ".join(words))


@given(seeds, st.integers(0, 23))
def test_a_word_that_is_none_is_named_by_its_place(seed: bytes, place: int) -> None:
    words = list(RecoveryKey(seed).words)
    words[place] = "abandom"

    with pytest.raises(Usage, match=f"^Word {place + 1}, 'abandom', is not") as caught:
        read_words(" ".join(words))

    assert caught.value.hint == "Did you mean abandon?"


def test_of_two_words_as_near_neither_is_proposed() -> None:
    with pytest.raises(Usage, match="Word 3, 'woud'") as caught:
        read_words(" ".join([*KEY.words[:2], "woud", *KEY.words[3:]]))

    assert "Did you mean" not in caught.value.hint and caught.value.hint


@pytest.mark.parametrize(
    ("typed", "count"),
    [
        ("", 0),
        (TEXT.rsplit(" ", 1)[0], 23),
        (TEXT + " zoo", 25),
        ("1. 2. 3.", 0),
    ],
    ids=["none", "one missing", "one too many", "numbers alone"],
)
def test_not_24_words(typed: str, count: int) -> None:
    with pytest.raises(Usage, match=f"24 words, and not {count}") as caught:
        read_words(typed)

    assert caught.value.hint


def test_a_text_that_is_far_too_long_is_not_looked_through() -> None:
    with pytest.raises(Usage, match="too long"):
        read_words(TEXT + " " * 2_000)


def test_a_word_cut_in_two_is_named_with_their_number() -> None:
    with pytest.raises(Usage, match="not 25") as caught:
        read_words(TEXT.replace("amount", "am ount", 1))

    assert "Word 2, 'am', is not in the list" in caught.value.hint


@given(st.text(max_size=300))
def test_any_text_is_a_key_or_a_usage_error(typed: str) -> None:
    with pytest.raises(Usage):
        read_words(typed)


@pytest.mark.parametrize("word", ["abandon1", "abandon.", "(abandon", "1.1.abandon", "abandonabandon", "٣"])
def test_numbers_stand_before_a_word_and_nothing_else_does(word: str) -> None:
    with pytest.raises(Usage, match=r"^Word 1, "):
        read_words(" ".join([word, *KEY.words[1:]]))


def test_a_key_signs_and_its_public_half_verifies() -> None:
    signature = KEY.sign(b"crdtlog recovery\0message")

    assert verify_bytes(KEY.public, b"crdtlog recovery\0", b"message", signature)
    assert not verify_bytes(RecoveryKey(bytes(32)).public, b"crdtlog recovery\0", b"message", signature)


def test_a_repr_keeps_the_secret() -> None:
    for text in (repr(KEY), f"{[KEY]}"):
        assert KEY.public.hex() in text
        assert SEED.hex() not in text and "abandon" not in text and repr(SEED) not in text


@pytest.mark.parametrize("seed", [b"", b"s" * 31, b"s" * 33])
def test_a_seed_has_32_bytes(seed: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        RecoveryKey(seed)
