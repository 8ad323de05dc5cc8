"""What a new device is given when it joins: who founded the database, the epochs' secrets, the members, the tables.

A welcome travels only inside a pairing's encrypted channel. It tells the joiner whom to trust before the first log
entry arrives; everything in it but the secrets comes again, signed, in the logs.
"""

from dataclasses import dataclass
from typing import cast

from crdtlog import membership, schema
from crdtlog.entry import EPOCH_BYTES
from crdtlog.errors import Malformed
from crdtlog.membership import Newcomer
from crdtlog.schema import Table
from crdtlog.values import check_bytes, pack, unpack

_VERSION = 2
#: The form that tells a device that it gets no history, which an earlier program cannot do with.
_VERSION_ANEW = 3
_MAX_MEMBERS = 10_000
_MAX_TABLES = 10_000


@dataclass(frozen=True, slots=True)
class Welcome:
    """The contents of a welcome: `epochs` gives secrets (32 bytes) by id, of them `epoch` is the current one's id.

    `first_epoch` is the id of the one that the database began with. Without `history`, the device is given a snapshot
    instead of the log; `meeting` is the key by which members find one another, which others make from the first secret.
    """

    genesis: bytes
    first_epoch: bytes
    epoch: bytes
    epochs: dict[bytes, bytes]
    members: list[Newcomer]
    tables: list[tuple[bytes, Table]]
    history: bool = True
    meeting: bytes = b""

    @property
    def database(self) -> bytes:
        """The id of the database."""
        return membership.database_id(self.genesis)


def encode(welcome: Welcome) -> bytes:
    """The bytes to send."""
    return pack(
        [
            _VERSION if welcome.history else _VERSION_ANEW,
            welcome.genesis,
            welcome.first_epoch,
            welcome.epoch,
            sorted(welcome.epochs.items()),
            [list(member) for member in welcome.members],
            [[identity, schema.to_wire(table)] for identity, table in welcome.tables],
            *([] if welcome.history else [welcome.meeting]),
        ]
    )


def decode(data: bytes) -> Welcome:
    """The welcome in some bytes, checked. Raises `Malformed`, `SchemaRefused`."""
    parts = unpack(data)
    match parts:
        case [version, genesis, first_epoch, epoch, epochs, members, tables] if version == _VERSION:
            meeting, history = b"", True
        case [version, genesis, first_epoch, epoch, epochs, members, tables, bytes(meeting)] if (
            version == _VERSION_ANEW and len(meeting) == 32
        ):
            history = False
        case _:
            raise Malformed(
                "a welcome of an unknown form", "Use the same version of crdtlog on both devices."
            )
    if not isinstance(genesis, bytes):
        raise Malformed("a welcome without a founding record")
    membership.decode_genesis(genesis)
    secrets = _epochs(epochs)
    if not isinstance(epoch, bytes) or epoch not in secrets:
        raise Malformed("a welcome without the secret of its epoch")
    check_bytes(first_epoch, EPOCH_BYTES, "the first epoch's id")
    if not isinstance(members, list) or not 0 < len(members) <= _MAX_MEMBERS:
        raise Malformed("a welcome names between one member and the limit")
    newcomers = [membership.newcomer_from(member) for member in members]
    return Welcome(
        genesis, cast(bytes, first_epoch), epoch, secrets, newcomers, _tables(tables), history, meeting
    )


def _epochs(items: object) -> dict[bytes, bytes]:
    if not isinstance(items, list) or not 0 < len(items) <= 10_000:
        raise Malformed("a welcome holds epochs")
    result = {}
    for item in items:
        match item:
            case [bytes(name), bytes(secret)] if len(name) == 16 and len(secret) == 32:
                result[name] = secret
            case _:
                raise Malformed("an epoch has an id and a secret")
    return result


def _tables(items: object) -> list[tuple[bytes, Table]]:
    if not isinstance(items, list) or len(items) > _MAX_TABLES:
        raise Malformed("a welcome holds tables")
    result = []
    for item in items:
        match item:
            case [bytes(identity), wire] if len(identity) == 8:
                result.append((identity, schema.from_wire(wire)))
            case _:
                raise Malformed("a table has an id and a description")
    return result
