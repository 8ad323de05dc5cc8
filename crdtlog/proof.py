"""Proofs that a log is forked: two entries of one writer, both signed, under one number and on one entry before.

A device that knows of a fork keeps all entries that it knows to stand there (`crdtlog__fork`), whether it holds their
logs or not. Of these the one with the lowest hash keeps the writer's name; each other one begins a log that has a name
of its own, made from its hash. So the names are a function of the entries known, and nobody has to agree on anything.
The first entry of such a log travels with its proof: the entry that keeps the name.
"""

import hashlib
import sqlite3
from typing import NamedTuple

from crdtlog import entry
from crdtlog.entry import Signed
from crdtlog.errors import Malformed, TooLarge
from crdtlog.values import pack, unpack
from crdtlog.versions import WRITER_BYTES, device_of

#: A device whose logs are forked more often is refused from there on: it has to be removed.
MAX_FORKS = 16

_NAME_DOMAIN = b"crdtlog branch"


class Fork(NamedTuple):
    """Different entries under one number: what its device signed, by hash, and the one that kept the log's name."""

    device: bytes
    writer: bytes
    seq: int
    hashes: tuple[bytes, ...]

    @property
    def kept(self) -> bytes:
        """The hash of the entry that kept the log's name."""
        return self.hashes[0]


class Point(NamedTuple):
    """Where logs part: the writer as it signed, the number of the first entries that differ, what stands before."""

    writer: bytes
    seq: int
    previous: bytes


def branch_name(writer: bytes, digest: bytes) -> bytes:
    """What the log is called that begins at a fork with the entry of that hash, which does not keep the name."""
    device = device_of(writer)
    return device + hashlib.sha256(_NAME_DOMAIN + digest).digest()[: WRITER_BYTES - len(device)]


def known(connection: sqlite3.Connection, point: Point) -> list[bytes]:
    """The hashes of all entries known to stand at a fork, the lowest first; empty if there is none known."""
    rows = connection.execute(
        "SELECT hash FROM crdtlog__fork WHERE writer = ? AND seq = ? AND previous = ? ORDER BY hash", point
    )
    return [digest for (digest,) in rows]


def note(connection: sqlite3.Connection, point: Point, digest: bytes, signed: bytes) -> None:
    """Know one more entry at a fork; its bytes are empty if they are not known."""
    row = (digest, *point, signed)
    connection.execute("INSERT OR IGNORE INTO crdtlog__fork VALUES (?, ?, ?, ?, ?)", row)


def count(connection: sqlite3.Connection, device: bytes) -> int:
    """How many logs of a device have left another one."""
    rows = connection.execute("SELECT writer, seq, previous, count(*) FROM crdtlog__fork GROUP BY 1, 2, 3")
    return sum(entries - 1 for writer, _, _, entries in rows if device_of(writer) == device)


def forks(connection: sqlite3.Connection) -> list[Fork]:
    """All forks known."""
    found: dict[Point, list[bytes]] = {}
    for digest, *point in connection.execute(
        "SELECT hash, writer, seq, previous FROM crdtlog__fork ORDER BY writer, seq, previous, hash"
    ):
        found.setdefault(Point(*point), []).append(digest)
    return [
        Fork(device_of(point.writer), point.writer, point.seq, tuple(hashes))
        for point, hashes in found.items()
    ]


def entries(connection: sqlite3.Connection) -> list[tuple[Point, bytes, bytes]]:
    """Every entry of a proof: where it stands, its hash, and its signed bytes."""
    return [
        (Point(*point), digest, signed)
        for digest, signed, *point in connection.execute(
            "SELECT hash, signed, writer, seq, previous FROM crdtlog__fork ORDER BY hash"
        )
    ]


# --- as they travel -----------------------------------------------------------------------------------------------


def proven(connection: sqlite3.Connection, signed: bytes, digest: bytes) -> bytes:
    """The first entry of a log that left another one, with the entry that kept the name; alone if both are too large.

    Without the proof a device takes it for the entry that keeps the name, until it meets the other one.
    """
    item = entry.decode(entry.split(signed).body)
    point = (item.writer, item.seq, item.previous)
    row = connection.execute(
        "SELECT signed FROM crdtlog__fork WHERE writer = ? AND seq = ? AND previous = ? AND hash < ? AND signed != x'' "
        "ORDER BY hash",
        (*point, digest),
    ).fetchone()
    if row is None or len(signed) + len(row[0]) > entry.MAX_RAW_BYTES:
        return signed
    return pack([*unpack(signed), *unpack(row[0])])


def split(blob: bytes) -> tuple[Signed, Signed | None]:
    """A signed entry's bytes, and the entry that proves a fork if it comes with one; nothing verified."""
    if len(blob) > entry.MAX_RAW_BYTES + entry.MAX_HEADER_BYTES:
        raise TooLarge(f"an entry is larger than {entry.MAX_RAW_BYTES:,} bytes")
    parts = unpack(blob)
    if isinstance(parts, list) and len(parts) == 4:
        return entry.split(pack(parts[:2])), entry.split(pack(parts[2:]))
    if not isinstance(parts, list):
        raise Malformed("an entry must be a body and a signature")
    return entry.split(blob), None
