"""The ways in which bytes may be written down, for tests that search for what must not be there."""

import base64
import binascii


def spellings(data: bytes) -> set[bytes]:
    """Raw, in hex, in base64 wherever in a longer text it may begin, and as Python shows it."""
    found = {data, data.hex().encode(), data.hex().upper().encode(), repr(data)[2:-1].encode()}
    found |= {binascii.hexlify(data, sep).lower() for sep in (":", " ")}
    for before in range(3):
        # The first and last characters also depend on what stands before and behind.
        encoded = base64.b64encode(bytes(before) + data + bytes(2))
        kept = encoded[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        found |= {kept, kept.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def holds(hay: bytes, data: bytes) -> bool:
    """Whether some spelling of the data is in the hay; base64 also where it is broken into lines."""
    unbroken = hay.replace(b"\r", b"").replace(b"\n", b"")
    return any(spelled in hay or spelled in unbroken for spelled in spellings(data))
