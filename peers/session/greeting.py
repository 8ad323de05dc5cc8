"""What one device says first in a sync session, and how it judges what the other says first.

Pure functions over values: our own description, the peer's Hello, and nothing else. The one idea:
everything that makes two copies of a database unable to exchange entries safely is found here, before a
single entry moves.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from peers.session.effects import Close, Code, SessionEnds, violation
from peers.session.messages import (
    HEAD_HASH_BYTES,
    MAX_EPOCHS,
    VERSION,
    HeadSeen,
    Hello,
    Stranger,
    Window,
)


class Head(Protocol):
    """The end of a writer's log: the last entry's sequence number and hash (32 bytes)."""

    @property
    def seq(self) -> int: ...
    @property
    def hash(self) -> bytes: ...


HOME_BYTES = 16
"""So many bytes of a place name machine and home; the rest is of one process."""


@dataclass(frozen=True, slots=True)
class Local:
    """This device's side of a session, as it is when the session begins.

    `place` tells a copied home from ourselves (1 to 64 bytes): HOME_BYTES that name machine and home directory, then
    random ones that nobody else has, not even a clone of this machine.
    `epochs` are the ids of the epochs whose secrets we hold, deepest first. `versions` are (lowest, highest).
    `unconfirmed` are the hashes of those entries of our own log that others cannot know if the file is in order.
    """

    database: bytes
    device: bytes
    place: bytes
    name: str
    writer: bytes
    epochs: tuple[bytes, ...]
    heads: Mapping[bytes, Head] = field(default_factory=dict)
    versions: tuple[int, int] = (VERSION, VERSION)
    unconfirmed: Mapping[int, bytes] = field(default_factory=dict)


def home_of(place: bytes) -> bytes:
    """What stays of a place when its device is started again."""
    return place[:HOME_BYTES]


def hello(me: Local, nonce: bytes, clock_ms: int, window: Window) -> Hello:
    """Our first message."""
    return Hello(
        versions=me.versions,
        database=me.database,
        device=me.device,
        place=me.place,
        writer=me.writer,
        nonce=nonce,
        name=me.name,
        clock_ms=clock_ms,
        epochs=me.epochs[:MAX_EPOCHS],
        heads={w: HeadSeen(h.seq, h.hash[:HEAD_HASH_BYTES]) for w, h in me.heads.items() if h.seq},
        window=window,
    )


def session_id(mine: Hello, theirs: Hello) -> bytes:
    """32 bytes that name this session, equal on both sides: what sealed entries are bound to."""
    sides = sorted([mine.device + mine.nonce, theirs.device + theirs.nonce])
    return hashlib.sha256(b"crdtlog session" + mine.database + b"".join(sides)).digest()


def sealing_epoch(me: Local, theirs: Hello) -> bytes:
    """The deepest epoch of ours that the peer can open."""
    known = set(theirs.epochs)
    for epoch in me.epochs:
        if epoch in known:
            return epoch
    reason = f"'{theirs.name}' and this device hold no common epoch key: neither can read the other."
    hint = "Let both sync with a device that has been online more often, or pair them again."
    raise SessionEnds(Close(reason, False, Code.NO_EPOCH, hint))


def refuse_stranger(me: Local, stranger: Stranger) -> SessionEnds:
    """The end of a session with a device that speaks none of our versions."""
    ours, theirs = _range(me.versions), _range(stranger.versions)
    older = "this device" if me.versions[1] < stranger.versions[0] else "the other device"
    reason = f"No common sync protocol: this device speaks version {ours}, the other version {theirs}."
    return SessionEnds(Close(reason, True, Code.VERSION, f"Update crdtlog on {older}."))


def judge(me: Local, peer: bytes, mine: Hello, theirs: Hello, heads: Mapping[bytes, Head]) -> None:
    """Raise SessionEnds unless entries may be exchanged with this peer.

    `peer` is the device id that the connection proved, `mine` the Hello we sent, `heads` what we hold by now.
    """
    if theirs.database != me.database:
        raise SessionEnds(Close("The other device answers for another database.", True, Code.DATABASE))
    if theirs.device != peer:
        raise violation("its Hello names another device than its certificate", Code.IDENTITY)
    if theirs.device == me.device:
        raise _ourselves(me, theirs)
    if theirs.writer[: len(peer)] != peer:
        raise violation("its Hello names a writer of another device", Code.IDENTITY)
    told = theirs.heads.get(me.writer)
    if told:
        check_unsent(me, told)
    head = heads.get(me.writer)
    check_not_restored(me.writer, head.seq if head else 0, {w: seen.seq for w, seen in theirs.heads.items()})


def check_unsent(me: Local, told: HeadSeen) -> None:
    """Raise SessionEnds when somebody holds another entry of our own log where ours was never sent (DESIGN R11)."""
    own = me.unconfirmed.get(told.seq)
    if own is not None and own[:HEAD_HASH_BYTES] != told.hash:
        raise _restored(me.writer, told.seq, f"another entry {told.seq} of this device's log")


def check_not_restored(writer: bytes, own_seq: int, held: Mapping[bytes, int]) -> None:
    """Raise SessionEnds when somebody holds more of our own log than we do (DESIGN R11).

    Only the owner can tell: an entry is durable here before anybody else has it, while a third device may
    well hold more of the peer's log than the peer's Hello, composed earlier, says.
    """
    seq = held.get(writer, 0)
    if seq <= own_seq:
        return
    raise _restored(writer, seq, f"entry {seq} of this device's log, which ends here at {own_seq}")


def _restored(writer: bytes, seq: int, what: str) -> SessionEnds:
    reason = f"This device's file was restored from a backup, or copied: the other device holds {what}."
    return SessionEnds(Close(reason, False, Code.RESTORED, writer=writer, seq=seq))


def _ourselves(me: Local, theirs: Hello) -> SessionEnds:
    if theirs.place == me.place:
        return SessionEnds(Close("This address leads back to this device.", True, Code.SELF))
    reason = f"Another machine or home runs with the keys of this device ('{me.name}')."
    hint = "Keep one of the two; on the other, delete the copied home and file, and join with `crdtlog join`."
    return SessionEnds(Close(reason, True, Code.COPIED_HOME, hint))


def _range(versions: tuple[int, int]) -> str:
    low, high = versions
    return str(low) if low == high else f"{low} to {high}"
