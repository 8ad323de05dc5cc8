"""Dots and version vectors: which entries have been seen.

A dot names an entry (and every cell version it wrote) by its writer and sequence number. A version vector gives, for
each writer, the highest sequence number held without a gap, so "is this dot covered" is one comparison. An entry's
context is its author's vector when it wrote (Parker et al. 1983; dotted version vectors, Preguiça et al. 2010).
This file knows nothing of rows, files or networks.
"""

from collections.abc import Mapping
from typing import NamedTuple

WRITER_BYTES = 24
DEVICE_BYTES = 16
MAX_SEQ = (1 << 62) - 1


class Head(NamedTuple):
    """The last entry held of one log: its sequence number and its 32-byte hash."""

    seq: int
    hash: bytes


class Named(NamedTuple):
    """One line of a context difference: an entry newly seen, with the first 8 bytes of its hash."""

    writer: bytes
    seq: int
    hash8: bytes


def raise_to(vector: dict[bytes, int], other: Mapping[bytes, int]) -> None:
    """Raise a vector to the maximum of both."""
    for writer, seq in other.items():
        vector[writer] = max(seq, vector.get(writer, 0))


def device_of(writer: bytes) -> bytes:
    """The device that a writer is an incarnation of."""
    return writer[:DEVICE_BYTES]


def covers(vector: Mapping[bytes, int], writer: bytes, seq: int) -> bool:
    """Whether the vector contains the dot (writer, seq)."""
    return vector.get(writer, 0) >= seq


def context_difference(heads: Mapping[bytes, Head], before: Mapping[bytes, int], own: bytes) -> list[Named]:
    """What a context names anew since the author's previous entry, in canonical order.

    The author's own log is left out: an entry's sequence number already covers all of it.
    """
    return [
        Named(writer, head.seq, head.hash[:8])
        for writer, head in sorted(heads.items())
        if writer != own and head.seq > before.get(writer, 0)
    ]


def vector_of(heads: Mapping[bytes, Head]) -> dict[bytes, int]:
    """The version vector of some heads."""
    return {writer: head.seq for writer, head in heads.items()}
