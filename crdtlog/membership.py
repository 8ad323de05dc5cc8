"""Who belongs to a database: signed records, and the pure rules by which they count.

The genesis record founds the database (its hash is the database's id) and names the first device; an `add` record names
a further one. Records are the payload of `member` entries, so every device sees them in an order that respects
causality. An add counts if its author was an admin, which is decided by what the author's own past holds.
This file opens no file and reads no clock.
"""

import hashlib
from typing import NamedTuple

from crdtlog.errors import Malformed
from crdtlog.values import pack, unpack
from crdtlog.versions import DEVICE_BYTES

ROLES = ("admin", "writer", "reader")
_GENESIS_DOMAIN = b"crdtlog genesis"
_DEVICE_DOMAIN = b"crdtlog device"
_VERSION = 1
_MAX_NAME = 200
_MAX_CERTIFICATE = 4_096


class Newcomer(NamedTuple):
    """A device as a record names it: Ed25519 key to sign, X25519 key to receive keys, TLS certificate (DER)."""

    name: str
    role: str
    sign_key: bytes
    receive_key: bytes
    certificate: bytes

    @property
    def device(self) -> bytes:
        """The device's 16-byte id."""
        return hashlib.sha256(_DEVICE_DOMAIN + self.sign_key).digest()[:DEVICE_BYTES]


class Genesis(NamedTuple):
    """The founding record: a nonce, the founder, the recovery key (none in databases of this version)."""

    nonce: bytes
    founder: Newcomer
    recovery: bytes | None


def encode_genesis(genesis: Genesis) -> bytes:
    """The record's bytes, which name the database."""
    return pack([_VERSION, genesis.nonce, list(genesis.founder), genesis.recovery, list(ROLES)])


def decode_genesis(record: bytes) -> Genesis:
    """The founding record in some bytes; raises `Malformed`."""
    parts = unpack(record)
    if not isinstance(parts, list) or len(parts) != 5 or parts[0] != _VERSION:
        raise Malformed("a founding record of an unknown form")
    _, nonce, founder, recovery, _ = parts
    if not isinstance(nonce, bytes) or len(nonce) != 16 or not (recovery is None or _is_key(recovery)):
        raise Malformed("a founding record holds a nonce and perhaps a recovery key")
    return Genesis(nonce, _newcomer(founder), recovery)


def database_id(record: bytes) -> bytes:
    """The 32-byte id of the database that a genesis record founds."""
    return hashlib.sha256(_GENESIS_DOMAIN + record).digest()


def encode_record(kind: str, content: object) -> bytes:
    """A membership record as an entry's payload: `genesis` with the record's bytes, or `add` with a newcomer."""
    return pack([kind, list(content) if isinstance(content, Newcomer) else content])


def decode_record(raw: bytes) -> tuple[str, bytes | Newcomer]:
    """The record in an entry's payload; raises `Malformed`."""
    parts = unpack(raw)
    if not isinstance(parts, list) or len(parts) != 2:
        raise Malformed("a membership record has a kind and a content")
    match parts:
        case ["genesis", bytes(record)]:
            decode_genesis(record)
            return "genesis", record
        case ["add", content]:
            return "add", _newcomer(content)
        case _:
            raise Malformed("a membership record of an unknown kind")


def newcomer_from(item: object) -> Newcomer:
    """A device description received from elsewhere; raises `Malformed`."""
    return _newcomer(item)


def _newcomer(item: object) -> Newcomer:
    if not isinstance(item, list) or len(item) != 5:
        raise Malformed("a device is named by name, role, two keys and a certificate")
    name, role, sign_key, receive_key, certificate = item
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise Malformed("a device's name must be short printable text")
    if role not in ROLES:
        raise Malformed("a device has one of the roles admin, writer, reader")
    if not _is_key(sign_key) or not _is_key(receive_key):
        raise Malformed("a device's keys have 32 bytes")
    if not isinstance(certificate, bytes) or not 0 < len(certificate) <= _MAX_CERTIFICATE:
        raise Malformed("a device's certificate is a few hundred bytes")
    return Newcomer(name, role, sign_key, receive_key, certificate)


def _is_key(item: object) -> bool:
    return isinstance(item, bytes) and len(item) == 32
