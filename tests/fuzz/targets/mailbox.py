"""What members read out of a mailbox: the contents of blobs, and blobs as a relay gives them."""

import os

from crdtlog import entry
from crdtlog.errors import EntryRefused, Malformed, Usage
from crdtlog.values import pack
from peers.mailbox import candidates, contents
from peers.mailbox.contents import Piece
from peers.mailbox.keys import epoch_mailbox
from peers.mailbox.sync import MailboxSync
from peers.node import welcoming
from peers.node.relay_address import RelayAddress
from tests.fuzz.mutate import MSGPACK
from tests.fuzz.targets.log import signed_entries
from tests.fuzz.targets.vectors import DATABASE, LAPTOP
from tests.fuzz.trial import Subject, Target, require

_MAILBOX = epoch_mailbox(DATABASE, b"e" * 16, b"s" * 32)


def _contents() -> list[bytes]:
    entries = signed_entries()
    return [
        contents.of_entries(entries),
        contents.of_entries(entries[:1]),
        *contents.cut(entries[0], bytes(16), 256),
    ]


def _content() -> Subject:
    def write(found: list[bytes] | Piece) -> bytes:
        if isinstance(found, list):
            return contents.of_entries(found)
        return (
            b"\x02" + found.name + found.number.to_bytes(2, "big") + found.of.to_bytes(2, "big") + found.data
        )

    return Subject(_contents(), contents.read, (Malformed,), write=write)


def _candidate() -> Subject:
    database = entry.decode(entry.split(signed_entries()[0]).body).database
    return Subject(
        signed_entries(),
        lambda signed: candidates.candidate(signed, database, 1),
        (Malformed, EntryRefused),
        write=lambda item: item.signed,
    )


def _sync(blob: bytes) -> MailboxSync:
    sync = MailboxSync(
        _MAILBOX, database=DATABASE, sign_key=LAPTOP.public.sign_key, random=os.urandom, saved=None
    )
    sync.receive(1, [(1, blob), (2, blob)], True, {})
    sync.ready({}, (), bytes(24))
    sync.dump()
    return sync


def _members_content() -> Subject:
    """What a member sealed: nothing of it comes out as an error."""

    def read(content: bytes) -> MailboxSync:
        return _sync(_MAILBOX.seal(content, bytes(16)))

    def holds(sync: MailboxSync) -> None:
        require(sync.read == 2, "every blob is read over")

    return Subject(_contents(), read, (), holds=holds)


def _relays_blob() -> Subject:
    """What a relay made up."""

    def holds(sync: MailboxSync) -> None:
        require(sync.read == 2, "every blob is read over")

    return Subject([_MAILBOX.seal(each, bytes(16)) for each in _contents()], _sync, (), holds=holds)


def _handed() -> Subject:
    """What an issuer hands to a joiner: a welcome, and relays."""
    seeds = [
        welcoming.packed(b"welcome", ["wss://relay.example", "ws://127.0.0.1:4711"]),
        welcoming.packed(pack([1, b"genesis"]), []),
    ]
    return Subject(
        seeds, welcoming.unpacked, (Malformed,), MSGPACK, write=lambda found: welcoming.packed(*found)
    )


def _address() -> Subject:
    """A relay as somebody named it."""
    pin = "ab" * 32
    seeds = [
        "wss://relay.example",
        f"wss://192.168.1.5:4711/x#sha256={pin}",
        f"wss://[fe80::1]:4711#sha256={pin}&token=secret",
        "ws://localhost:4711#token=x",
    ]

    def read(case: bytes) -> RelayAddress:
        return RelayAddress.parse(case.decode("utf-8", "surrogateescape"))

    def write(address: RelayAddress) -> bytes:
        return address.text.encode()

    return Subject([seed.encode() for seed in seeds], read, (Usage,), write=write)


TARGETS = [
    Target("mailbox.handed", 5_000, _handed),
    Target("mailbox.relay_address", 10_000, _address),
    Target("mailbox.content", 10_000, _content),
    Target("mailbox.candidate", 5_000, _candidate),
    Target("mailbox.members_content", 3_000, _members_content),
    Target("mailbox.relays_blob", 3_000, _relays_blob),
]
