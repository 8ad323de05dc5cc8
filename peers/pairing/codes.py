"""Pairing codes: what one person reads aloud and another types.

Knows numbers, words and typing mistakes. Must not know what a code is used for. The one idea: a code is a
nameplate (a number by which the joiner finds the issuer; no secret) and three words of a list whose words
differ within four letters (33 bits: with one guess allowed, a chance of 1 in 8,589,934,592), so that four
letters a word are enough to type.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from crdtlog import errors
from crdtlog.words import BITS_PER_WORD, close_to, completed, shown, word_list

WORDS_PER_CODE = 3
MAX_NAMEPLATE = 999
MAX_TYPED_CHARACTERS = 200
_SEPARATORS = re.compile(
    r"[\s\-_.,/\u2010-\u2015\u2212]+"
)  # dashes as keyboards, phones and word processors make


class Code(NamedTuple):
    """A pairing code; `str(code)` is the form to show: `417-abandon-zebra-lucky`."""

    nameplate: int
    words: tuple[str, str, str]

    def __str__(self) -> str:
        return f"{self.nameplate}-{'-'.join(self.words)}"

    def __repr__(self) -> str:
        return f"Code({self.nameplate}-…)"  # a secret while it is open: not for logs

    @property
    def password(self) -> bytes:
        """What both sides put into SPAKE2: the code as shown."""
        return str(self).encode()


def make_code(random: Callable[[int], bytes]) -> Code:
    """A fresh code; `random(n)` gives n bytes from a secure source, such as `os.urandom`."""
    drawn = int.from_bytes(
        random(5), "big"
    )  # 40 bits, of which the words take 33: every code is equally likely
    words = word_list()
    first, second, third = (words[drawn >> BITS_PER_WORD * n & 2047] for n in range(WORDS_PER_CODE))
    return Code(1 + int.from_bytes(random(8), "big") % MAX_NAMEPLATE, (first, second, third))


def parse_code(typed: str) -> Code:
    """The code that a person typed: case, kinds of dash and spaces do not matter, nor letters behind a word's
    fourth.

    Errors: Usage, with the likely word as a hint.
    """
    parts = [part for part in _SEPARATORS.split(typed[:MAX_TYPED_CHARACTERS].casefold()) if part]
    if len(typed) > MAX_TYPED_CHARACTERS or len(parts) != 1 + WORDS_PER_CODE:
        raise errors.Usage(
            "This is not a pairing code.", "A code is a number and three words: 417-abandon-zebra-lucky."
        )
    first, second, third = (_word(part) for part in parts[1:])
    return Code(_nameplate(parts[0]), (first, second, third))


def _nameplate(typed: str) -> int:
    number = int(typed) if re.fullmatch(r"[0-9]{1,6}", typed) else 0
    if not 1 <= number <= MAX_NAMEPLATE:
        raise errors.Usage(
            f"A pairing code begins with a number from 1 to {MAX_NAMEPLATE}, not with {shown(typed)}.",
            "Look at the other device again.",
        )
    return number


def _word(typed: str) -> str:
    word = completed(typed)
    if word is None:
        raise errors.Usage(f"{shown(typed)} is not a word of a pairing code.", _suggestion(typed))
    return word


def _suggestion(typed: str) -> str:
    close = close_to(typed)
    return f"Did you mean {' or '.join(close)}?" if close else "Look at the other device again."
