"""Words that stand for secrets: what people read aloud, write down and type.

Knows the list and what a person who typed something may have meant. Must not know what words are used for. The words
are the English list of BIP-39 (2,048 words of 11 bits each), as the package `mnemonic` carries it; they differ within
four letters, so that four letters a word are enough to type.
"""

import difflib
import functools

BITS_PER_WORD = 11
PREFIX_LETTERS = 4


@functools.cache
def word_list() -> tuple[str, ...]:
    """The 2,048 words, in order."""
    from mnemonic import Mnemonic

    return tuple(Mnemonic("english").wordlist)


@functools.cache
def _by_prefix() -> dict[str, str]:
    return {word[:PREFIX_LETTERS]: word for word in word_list()}


def completed(typed: str) -> str | None:
    """The word of the list that was typed, in lower case and perhaps without letters behind its fourth, or None."""
    if typed in word_list():
        return typed
    word = _by_prefix().get(typed[:PREFIX_LETTERS]) if len(typed) >= PREFIX_LETTERS else None
    return word if word is not None and word.startswith(typed) else None


def close_to(typed: str) -> list[str]:
    """At most two words that may have been meant, the nearer first."""
    return difflib.get_close_matches(typed, word_list(), n=2, cutoff=0.6)


def nearest(typed: str) -> str | None:
    """The one word that is nearer to what was typed than all others; None if there is none, or several are as near."""
    close = close_to(typed)
    likeness = [difflib.SequenceMatcher(None, word, typed).ratio() for word in close]
    return close[0] if close and (len(close) == 1 or likeness[0] > likeness[1]) else None


def shown(typed: str) -> str:
    """What was typed, fit for a message: nothing in it moves a cursor, and not more than 40 characters."""
    return ascii(typed[:40])
