"""The bytes of membership records, as the payload of `member` entries: read strictly, `Malformed` alone raised.

The genesis record founds the database (its hash is the database's id) and names the first device; `add` and `readmit`
name a further one, `role` changes what one may do, `remove` ends it (`leave` is the removal of oneself). `seen` says
nothing: its entry's context tells what its author held. `rotate` hands a new epoch's secret to devices; `recover` makes
its own author an admin by the word of the recovery key.
"""

import hashlib
from typing import NamedTuple

from crdtlog.entry import EPOCH_BYTES, SIGNATURE_BYTES
from crdtlog.errors import Malformed
from crdtlog.values import check_bytes, pack, unpack
from crdtlog.versions import DEVICE_BYTES

ROLES = ("admin", "writer", "reader")
MAX_PARENTS = 16
MAX_RECIPIENTS = 10_000
_GENESIS_DOMAIN = b"crdtlog genesis"
_DEVICE_DOMAIN = b"crdtlog device"
_RECOVERY_DOMAIN = b"crdtlog recovery\0"
_VERSION = 1
#: How a record's kind ends that lets a device in without history.
_ANEW = " without history"
_MAX_NAME = 200
_MAX_CERTIFICATE = 4_096
_MAX_WRAPPED = 1_024


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
    """The founding record: a nonce, the founder, the recovery key (Ed25519; None if the database has none)."""

    nonce: bytes
    founder: Newcomer
    recovery: bytes | None


# --- what records say ---------------------------------------------------------------------------------------------


class Founding(NamedTuple):
    """The genesis record's bytes."""

    record: bytes

    @property
    def genesis(self) -> Genesis:
        """What they say."""
        return decode_genesis(self.record)


class Add(NamedTuple):
    """A device joins.

    With `again`, it is let in whatever was said about it by those who are no admins in this record's own past, and
    that this record does not know of. Without `history`, it is not to read what was written before this record.
    """

    newcomer: Newcomer
    again: bool = False
    history: bool = True


class Role(NamedTuple):
    """A device may do more, or less, from here on."""

    device: bytes
    role: str


class Remove(NamedTuple):
    """A device no longer belongs."""

    device: bytes


class Seen(NamedTuple):
    """Nothing but what the entry's context says."""


class Rotate(NamedTuple):
    """A new epoch: the epochs it follows, its secret wrapped for each device, and earlier secrets sealed under it."""

    epoch: bytes
    parents: tuple[bytes, ...]
    wrapped: tuple[tuple[bytes, bytes], ...]
    sealed: tuple[tuple[bytes, bytes], ...]


class Recover(NamedTuple):
    """The author's device is an admin, by a signature of the recovery key over `recovery_message`."""

    newcomer: Newcomer
    signature: bytes


Content = Founding | Add | Role | Remove | Seen | Rotate | Recover


# --- the founding record ------------------------------------------------------------------------------------------


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


def recovery_message(database: bytes, newcomer: Newcomer, writer: bytes, context: bytes) -> bytes:
    """What the recovery key signs: who becomes an admin, in which log, after what (`context_digest`).

    Were the context not in it, a recovered device that was removed could write its log's first entry once more, after
    its removal, and be an admin again.
    """
    return b"".join((_RECOVERY_DOMAIN, database, writer, context, pack(list(newcomer))))


# --- all records --------------------------------------------------------------------------------------------------


def encode_content(content: Content) -> bytes:
    """A membership record as an entry's payload."""
    match content:
        case Founding(record):
            return pack(["genesis", record])
        case Add(newcomer, again, history):
            return pack([("readmit" if again else "add") + ("" if history else _ANEW), list(newcomer)])
        case Role(device, role):
            return pack(["role", [device, role]])
        case Remove(device):
            return pack(["remove", device])
        case Seen():
            return pack(["seen", None])
        case Rotate(epoch, parents, wrapped, sealed):
            return pack(
                [
                    "rotate",
                    [epoch, list(parents), [list(to) for to in wrapped], [list(old) for old in sealed]],
                ]
            )
        case Recover(newcomer, signature):
            return pack(["recover", [list(newcomer), signature]])


def decode_content(raw: bytes) -> Content:
    """The record in an entry's payload; raises `Malformed`."""
    parts = unpack(raw)
    if not isinstance(parts, list) or len(parts) != 2:
        raise Malformed("a membership record has a kind and a content")
    match parts:
        case ["genesis", bytes(record)]:
            decode_genesis(record)
            return Founding(record)
        case [str(kind), content] if kind.removesuffix(_ANEW) in ("add", "readmit"):
            return Add(_newcomer(content), kind.startswith("readmit"), not kind.endswith(_ANEW))
        case ["role", [device, role]]:
            check_bytes(device, DEVICE_BYTES, "device")
            return Role(device, _role(role))
        case ["remove", device]:
            check_bytes(device, DEVICE_BYTES, "device")
            return Remove(device)
        case ["seen", None]:
            return Seen()
        case ["rotate", [epoch, parents, wrapped, sealed]]:
            return _rotate(epoch, parents, wrapped, sealed)
        case ["recover", [newcomer, signature]]:
            check_bytes(signature, SIGNATURE_BYTES, "signature of the recovery key")
            return Recover(_newcomer(newcomer), signature)
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
    if not _is_key(sign_key) or not _is_key(receive_key):
        raise Malformed("a device's keys have 32 bytes")
    if not isinstance(certificate, bytes) or not 0 < len(certificate) <= _MAX_CERTIFICATE:
        raise Malformed("a device's certificate is a few hundred bytes")
    return Newcomer(name, _role(role), sign_key, receive_key, certificate)


def _role(item: object) -> str:
    if not isinstance(item, str) or item not in ROLES:
        raise Malformed("a device has one of the roles admin, writer, reader")
    return item


def _rotate(epoch: object, parents: object, wrapped: object, sealed: object) -> Rotate:
    if not isinstance(epoch, bytes) or len(epoch) != EPOCH_BYTES:
        raise Malformed("an epoch's id has 16 bytes")
    if not isinstance(parents, list) or len(parents) > MAX_PARENTS:
        raise Malformed("an epoch follows a few others")
    for parent in parents:
        check_bytes(parent, EPOCH_BYTES, "an epoch's parent")
    _check_order(parents, "an epoch's parents")
    handed = _secrets(wrapped, MAX_RECIPIENTS, DEVICE_BYTES, "a device that an epoch is wrapped for")
    earlier = _secrets(sealed, MAX_PARENTS, EPOCH_BYTES, "an epoch sealed under another")
    if not handed or epoch in parents or not {before for before, _ in earlier} <= set(parents):
        raise Malformed("an epoch is handed to devices, and seals secrets of epochs that it follows")
    return Rotate(epoch, tuple(parents), handed, earlier)


def _secrets(items: object, most: int, size: int, what: str) -> tuple[tuple[bytes, bytes], ...]:
    if not isinstance(items, list) or len(items) > most:
        raise Malformed(f"{what}: not a short array")
    for item in items:
        if not isinstance(item, list) or len(item) != 2:
            raise Malformed(f"{what}: not an id and a secret")
        check_bytes(item[0], size, what)
        if not isinstance(item[1], bytes) or not 0 < len(item[1]) <= _MAX_WRAPPED:
            raise Malformed(f"{what}: a wrapped secret has some hundred bytes")
    _check_order([name for name, _ in items], what)
    return tuple((name, secret) for name, secret in items)


def _check_order(names: list[bytes], what: str) -> None:
    if sorted(set(names)) != names:
        raise Malformed(f"{what}: not once each, in order")


def _is_key(item: object) -> bool:
    return isinstance(item, bytes) and len(item) == 32
