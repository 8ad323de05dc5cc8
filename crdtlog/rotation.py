"""Epoch secrets on their way to members: wrapped for each device, and earlier ones sealed under later ones.

A rotation makes a random secret and wraps it for every device that is to have it by HPKE (RFC 9180: X25519,
HKDF-SHA256, ChaCha20-Poly1305). Under it lie the secrets of the epochs that it follows, so that whoever is let in later
reads what was sealed before. An epoch's id is a hash of its secret: no record can give one epoch two secrets. This file
knows keys and records; it opens no file and does not decide who is a member.
"""

import hashlib
import secrets
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from crdtlog.device import Device
from crdtlog.entry import EPOCH_BYTES
from crdtlog.membership import Rotate

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hpke import Suite

SECRET_BYTES = 32
_ID_DOMAIN = b"crdtlog epoch id 1"
_WRAP_INFO = b"crdtlog wrapped epoch 1"
_SEAL_INFO = b"crdtlog earlier epoch 1"
#: Each key that seals an earlier secret seals nothing else.
_NONCE = bytes(12)


def new_secret() -> tuple[bytes, bytes]:
    """A new epoch: its id (16 bytes) and its secret (32 bytes)."""
    secret = secrets.token_bytes(SECRET_BYTES)
    return epoch_id(secret), secret


def epoch_id(secret: bytes) -> bytes:
    """The id of the epoch with that secret."""
    return hashlib.sha256(_ID_DOMAIN + secret).digest()[:EPOCH_BYTES]


def rotate(
    database: bytes,
    earlier: Mapping[bytes, bytes],
    recipients: Mapping[bytes, bytes],
    *,
    unsealed: Collection[bytes] = (),
) -> tuple[Rotate, bytes]:
    """A new epoch after some earlier ones (id → secret), for some devices (id → X25519 key): its record and its secret.

    Those `unsealed` of the earlier ones do not lie under it: who gets only this epoch cannot read what was sealed
    before. A device whose key nobody can encrypt for is left out.
    """
    epoch, secret = new_secret()
    wrapped = []
    for device, key in sorted(recipients.items()):
        try:
            wrapped.append((device, _wrap(secret, key, _wrap_info(database, epoch, device))))
        except ValueError:
            continue
    sealed = [
        (before, _seal(secret, database, epoch, before, key))
        for before, key in sorted(earlier.items())
        if before not in unsealed
    ]
    return Rotate(epoch, tuple(sorted(earlier)), tuple(wrapped), tuple(sealed)), secret


def secrets_from(
    database: bytes, device: Device, records: Iterable[Rotate], held: Mapping[bytes, bytes]
) -> dict[bytes, bytes]:
    """The secrets that a device can have: those it holds, those wrapped for it, and all sealed under any of them.

    What does not open, or is another secret than the epoch's, is as if it were not there.
    """
    found = dict(held)
    records = list(records)
    for record in records:
        own = dict(record.wrapped).get(device.id)
        if own is not None and record.epoch not in found:
            secret = _unwrap(own, device, _wrap_info(database, record.epoch, device.id))
            if secret is not None and epoch_id(secret) == record.epoch:
                found[record.epoch] = secret
    under: dict[bytes, list[Rotate]] = {}
    for record in records:
        under.setdefault(record.epoch, []).append(record)
    todo = list(found)
    while todo:
        epoch = todo.pop()
        for record in under.pop(epoch, ()):
            for before, blob in record.sealed:
                if before in found:
                    continue
                secret = _open(found[epoch], database, epoch, before, blob)
                if secret is not None and epoch_id(secret) == before:
                    found[before] = secret
                    todo.append(before)
    return found


def discovery_key(first_epoch_secret: bytes) -> bytes:
    """The key of a database's discovery ids (32 bytes), from the secret of its first epoch.

    It outlives rotations, so that a member who missed one is still found and can be told. The price: a removed device
    goes on recognising that some member is near. It learns no more, since TLS refuses it.
    """
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), SECRET_BYTES, b"", b"crdtlog discovery").derive(first_epoch_secret)


# --- one secret ---------------------------------------------------------------------------------------------------


def _wrap_info(database: bytes, epoch: bytes, device: bytes) -> bytes:
    return _WRAP_INFO + database + epoch + device


def _wrap(secret: bytes, key: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    return _suite().encrypt(secret, X25519PublicKey.from_public_bytes(key), info=info)


def _unwrap(blob: bytes, device: Device, info: bytes) -> bytes | None:
    from cryptography.exceptions import InvalidTag

    try:
        return _suite().decrypt(blob, device.receive, info=info)
    except (InvalidTag, ValueError):
        return None


def _suite() -> "Suite":
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def _seal(secret: bytes, database: bytes, epoch: bytes, before: bytes, what: bytes) -> bytes:
    return _under(secret, before).encrypt(_NONCE, what, database + epoch + before)


def _open(secret: bytes, database: bytes, epoch: bytes, before: bytes, blob: bytes) -> bytes | None:
    from cryptography.exceptions import InvalidTag

    try:
        return _under(secret, before).decrypt(_NONCE, blob, database + epoch + before)
    except (InvalidTag, ValueError):
        return None


def _under(secret: bytes, before: bytes) -> "AESGCM":
    """The cipher for one earlier secret under another: its key is used for that alone."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESGCM(HKDF(SHA256(), SECRET_BYTES, before, _SEAL_INFO).derive(secret))
