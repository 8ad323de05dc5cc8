"""What a new device is handed: the engine's welcome, and the relays that the database's devices use.

Knows the two parts. Must not know what is in the welcome. Without relays it is the engine's welcome alone.

    ["relays", welcome, [URL, …]]     msgpack; a welcome alone begins with a number
"""

from collections.abc import Sequence

from crdtlog.errors import Malformed
from crdtlog.values import pack, unpack
from peers.node.relay_address import MAX_CHARACTERS, MAX_RELAYS

_MARK = "relays"


def packed(welcome: bytes, relays: Sequence[str]) -> bytes:
    """The bytes to hand over."""
    return pack([_MARK, welcome, list(relays)[:MAX_RELAYS]]) if relays else welcome


def unpacked(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The welcome, and the relays' URLs as they were told. Raises `Malformed`."""
    match unpack(data):
        case ["relays", bytes(welcome), list(relays)] if 0 < len(relays) <= MAX_RELAYS:
            if all(
                isinstance(url, str) and url.isprintable() and len(url) <= MAX_CHARACTERS for url in relays
            ):
                return welcome, tuple(relays)
            raise Malformed("a welcome whose relays are none")
    return data, ()
