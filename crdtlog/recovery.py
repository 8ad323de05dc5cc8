"""The recovery key: what makes a device an admin when no admin is left, written down as 24 words.

Knows the key, its words and how people write words down. Must not know files, databases or where randomness comes
from. The one idea: the private half is nowhere but on paper. A database's founding record names the public half;
whoever types the words has the private half again. A seed of Ed25519 (RFC 8032) has 32 bytes; with the first byte of
its SHA-256 behind it these are 24 words of 11 bits, as BIP-39 writes 256 bits of entropy. (The key is that entropy
itself; the derivation of wallets in BIP-39 has no part in it.)
"""

import dataclasses
import hashlib
import re

from crdtlog.errors import Usage
from crdtlog.words import BITS_PER_WORD, completed, nearest, shown, word_list

SEED_BYTES = 32
PUBLIC_BYTES = 32
WORDS = 24
MAX_TYPED_CHARACTERS = 2_000
_SEPARATORS = re.compile(r"[\s,;]+")
#: A word's number, before it or alone: `7.`, `7)`, `7:` or `7`.
_NUMBER = re.compile(r"^[0-9]{1,2}(?:[.):]+|$)")


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class RecoveryKey:
    """A recovery key, private half and all: not for logs and files. Made of 32 secret random bytes, the seed.

    `crdtlog.new_recovery()` makes a new one, `read_words` one that somebody has the words of.
    """

    _seed: bytes

    def __post_init__(self) -> None:
        """Refuse what is no seed."""
        if len(self._seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(self._seed)}")

    def __repr__(self) -> str:
        return f"RecoveryKey(public={self.public.hex()})"

    @property
    def public(self) -> bytes:
        """The public half (32 bytes), which the founding record names: no secret."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self._seed).public_key().public_bytes_raw()

    @property
    def words(self) -> tuple[str, ...]:
        """The 24 words to write down: the secret itself."""
        number = int.from_bytes(self._seed + _checksum(self._seed), "big")
        last = WORDS - 1
        return tuple(word_list()[number >> BITS_PER_WORD * (last - n) & 2047] for n in range(WORDS))

    def sign(self, message: bytes) -> bytes:
        """The key's signature of a message, such as `membership.recovery_message` (Ed25519, 64 bytes)."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self._seed).sign(message)


def is_public(value: object) -> bool:
    """Whether this has the form of a recovery key's public half."""
    return isinstance(value, bytes) and len(value) == PUBLIC_BYTES


def read_words(typed: str) -> RecoveryKey:
    """The recovery key whose 24 words somebody typed.

    Case, spaces, line breaks, commas and numbers (`1. word`) do not matter, nor letters behind a word's fourth. Raises
    `Usage`, which says that there are not 24, which one is not in the list, or that they do not belong together.
    """
    if len(typed) > MAX_TYPED_CHARACTERS:
        raise Usage(f"This text is too long for {WORDS} words.", "Type the words and nothing else.")
    parts = split_words(typed)
    words = [completed(part) for part in parts]
    if len(words) != WORDS:
        raise Usage(
            f"A recovery key has {WORDS} words, and not {len(words)}.",
            " ".join(_unknown(parts, words))
            or "Type them in the order of their numbers, with spaces between them.",
        )
    if problem := _unknown(parts, words):
        raise Usage(*problem)
    places = {word: n for n, word in enumerate(word_list())}
    number = 0
    for word in words:
        number = number << BITS_PER_WORD | places[str(word)]
    seed, checksum = divmod(number, 256)
    key = RecoveryKey(seed.to_bytes(SEED_BYTES, "big"))
    if _checksum(key._seed) != bytes([checksum]):
        raise Usage(
            "These 24 words do not belong together: one of them is another word of the list, or two are swapped.",
            "Compare each with what was written down, in the order of the numbers.",
        )
    return key


def split_words(typed: str) -> list[str]:
    """What was typed, a part for each word, in lower case and without numbers; not all need be words of the list."""
    parts = _SEPARATORS.split(typed.casefold())
    return [word for part in parts if (word := _NUMBER.sub("", part, count=1))]


def _checksum(seed: bytes) -> bytes:
    return hashlib.sha256(seed).digest()[:1]


def _unknown(parts: list[str], words: list[str | None]) -> tuple[str, str] | tuple[()]:
    """An error's message and hint for the first part that is no word; nothing if all are."""
    if None not in words:
        return ()
    place = words.index(None)
    likely = nearest(parts[place])
    hint = f"Did you mean {likely}?" if likely else "Compare it with what was written down."
    return f"Word {place + 1}, {shown(parts[place])}, is not in the list of words.", hint
