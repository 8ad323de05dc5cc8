"""Whose mailbox it is: names and keys that only members can derive, one mailbox for each epoch.

Knows secrets of epochs and of pairs of devices. Must not know relays or what blobs contain. The one idea: whoever holds
an epoch's secret finds the mailbox, opens it and reads it, and nobody else can tell it from any other.

    seed of an epoch's mailbox   HKDF(epoch secret, salt "", info "crdtlog mailbox 1" + database id)
    seed of a pair's mailbox     HKDF(X25519 of their receiving keys, salt "", info "crdtlog pairwise mailbox 1"
                                 + database id + both device ids, the lower first)
    a pair's secret              the same with "crdtlog pairwise secret 1"
    for another purpose          each with " " and the purpose behind it
"""

from typing import NamedTuple

from crdtlog.device import Device
from crdtlog.errors import Malformed
from crdtlog.rotation import epoch_id
from peers import envelope
from peers.relay.access import MailboxKey
from peers.relay.messages import size_for

_INFO = b"crdtlog mailbox 1"
_PAIR_INFO = b"crdtlog pairwise mailbox 1"
_PAIR_SECRET_INFO = b"crdtlog pairwise secret 1"
_BINDING = b"crdtlog mailbox blob 1"


class Mailbox(NamedTuple):
    """One mailbox: what opens it at the relay, and the epoch id and secret under which its blobs are sealed."""

    key: MailboxKey
    epoch: bytes
    secret: bytes

    @property
    def id(self) -> bytes:
        """Its name at the relay (32 bytes)."""
        return self.key.mailbox

    def seal(self, content: bytes, salt: bytes) -> bytes:
        """The blob of some content, of the smallest size that holds it; `salt` (16 bytes) is drawn for each anew."""
        size = size_for(len(content) + envelope.SIZED_OVERHEAD_BYTES)
        return envelope.seal_to_size(
            content, size, epoch_id=self.epoch, secret=self.secret, salt=salt, binding=_BINDING + self.id
        )

    def open(self, blob: bytes) -> bytes:
        """The content of a blob of this mailbox. Raises `Malformed`, `EntryRefused` (altered, or another's)."""
        return envelope.open_sized(blob, {self.epoch: self.secret}, _BINDING + self.id)

    def __repr__(self) -> str:
        return "Mailbox(…)"  # all of it is secret


def epoch_mailbox(database: bytes, epoch: bytes, secret: bytes) -> Mailbox:
    """The mailbox of an epoch, for all who hold its secret (32 bytes)."""
    seed = envelope.hkdf(secret, salt=b"", info=_INFO + database)
    return Mailbox(MailboxKey.of(seed), epoch, secret)


def pairwise_mailbox(
    database: bytes, own: Device, other: bytes, receive_key: bytes, purpose: bytes = b""
) -> Mailbox:
    """The mailbox of this device and another one (its id and X25519 key); both derive the same, for each purpose.

    Raises `Malformed` for a key with which nothing can be agreed.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        shared = own.receive.exchange(X25519PublicKey.from_public_bytes(receive_key))
    except ValueError:
        raise Malformed("a receiving key with which no secret can be agreed") from None
    pair = database + b"".join(sorted((own.id, other)))
    what = pair + (b" " + purpose if purpose else b"")
    secret = envelope.hkdf(shared, salt=b"", info=_PAIR_SECRET_INFO + what)
    seed = envelope.hkdf(shared, salt=b"", info=_PAIR_INFO + what)
    return Mailbox(MailboxKey.of(seed), epoch_id(secret), secret)
