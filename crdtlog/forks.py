"""Forks: one device signed two entries under one number, as a copied home does, or a liar (R11).

The entries of a writer form a tree. Where it forks, the entry with the lowest hash keeps the log's name, and each other
one begins a log of its own name (`proof`), which shares the history before it. So both copies' changes count as
concurrent ones, and nobody has to write anything anew. All devices that know the same entries have the same names, and
hence the same documents: whoever learns of an entry that takes the name from another one goes back to before that, and
takes in everything again.
"""

from collections.abc import Collection, Mapping
from enum import Enum
from itertools import chain

from crdtlog import proof
from crdtlog.device import new_writer
from crdtlog.entry import Entry, Signed
from crdtlog.errors import AnotherHistory, EntryRefused
from crdtlog.log import Log
from crdtlog.proof import Point
from crdtlog.rewinding import Rewound, rewind
from crdtlog.state import State
from crdtlog.versions import device_of
from crdtlog.writers import Writer


class Stand(Enum):
    """Where an entry stands to those that are held."""

    HELD = "it is held"
    NEXT = "the one before it is held, and what its log is called is known"
    BESIDE = "the one before it is held, and another one is known that follows it"
    APART = "the one before it is not held"


def root_of(log: Writer) -> Writer:
    """The log that one left, if need be by way of others: its name is what all its entries are signed with."""
    while log.parent is not None:
        log = log.parent
    return log


def hashes(log: Log, asked: Mapping[bytes, Collection[int]]) -> dict[bytes, dict[int, bytes]]:
    """Of the entries asked for, by writer and number, the hashes of those that are held."""
    return {
        writer: {seq: digest for seq in seqs if (digest := log.hash_at(log.writers[writer], seq))}
        for writer, seqs in asked.items()
        if writer in log.writers
    }


def place(log: Log, item: Entry, digest: bytes) -> Writer | None:
    """The log that an entry belongs to: its next one, or one that it is held in; None if it begins no log yet.

    An entry that stands beside others which are known gets one from `learn`. Raises `EntryRefused` for what
    continues nothing that is held.
    """
    root = log.writer(item.writer)
    _check_root(root)
    if (
        item.seq == root.seq + 1
        and item.previous == root.hash
        and not proof.known(log.connection, _point(item))
    ):
        return root
    if item.seq <= root.seq and log.hash_of(root.number, item.seq) == digest:
        return root
    parent = _holder(log, root, item)
    for child in _children(log, parent, item.seq):
        if log.hash_of(child.number, item.seq) == digest:
            return child
    names = proof.known(log.connection, _point(item))
    if digest in names:
        return _named(log, parent, item, digest, names)
    if not names and not _children(log, parent, item.seq):
        return parent
    return None


def stand(log: Log, item: Entry, digest: bytes) -> tuple[Stand, Writer | None]:
    """Where an entry stands, and the log that holds it if it is held; changes nothing.

    Raises `EntryRefused` as `place`.
    """
    names = proof.known(log.connection, _point(item))
    root = log.writers.get(item.writer)
    if root is None:
        is_named = not names or digest in names
        return (Stand.APART if item.seq > 1 else Stand.NEXT if is_named else Stand.BESIDE), None
    _check_root(root)
    for held in chain((root,), log.writers.values()):
        is_of_it = held.first <= item.seq <= held.seq and root_of(held) is root
        if is_of_it and log.hash_of(held.number, item.seq) == digest:
            return Stand.HELD, held
    parent = _before(log, root, item)
    if parent is None:
        return Stand.APART, None
    is_beside = digest not in names and (names or _children(log, parent, item.seq))
    return (Stand.BESIDE if is_beside else Stand.NEXT), None


def is_held(log: Log, own: Writer, item: Entry, digest: bytes) -> bool:
    """Whether the log that an entry belongs to has it already."""
    return own.seq >= item.seq and log.hash_of(own.number, item.seq) == digest


def is_known(log: Log, item: Entry, beside: bytes) -> bool:
    """Whether it is known that the entry of that hash stands beside another one."""
    return beside in proof.known(log.connection, _point(item))


def learn(state: State, item: Entry, signed: Signed, beside: Signed | None = None) -> list[Rewound]:
    """Know that an entry stands beside others, inside the caller's transaction: what is captured has been drained.

    `beside` proves it where no other one is held. Returns the entries that have to be taken in again, in this order:
    they have other names now, or rest on such. Raises `EntryRefused` if the device has forked its logs too often.
    """
    log, point = state.log, _point(item)
    connection, device = log.connection, device_of(item.writer)
    root = log.writer(item.writer)
    parent = _holder(log, root, item)
    check_room(state, device)
    is_ours = root_of(state.writer) is root
    held = log.hash_of(parent.number, item.seq)
    if held is not None:
        is_given = log.is_given(parent.number, item.seq)
        proof.note(connection, point, held, b"" if is_given else log.original(parent.number, item.seq))
    for known in (signed, beside):
        if known is not None:
            proof.note(connection, point, known.hash, known.bytes())
    # What others are known to have of these logs was told in other names.
    connection.execute(
        "DELETE FROM crdtlog__held WHERE writer IN (SELECT id FROM crdtlog__writer WHERE device = ?)",
        (device,),
    )
    rewound = []
    if held is not None and held != proof.known(connection, point)[0]:
        rewound = rewind(state, log.position_of(parent.number, item.seq))
    if is_ours:
        state.become(new_writer(state.device))  # the other copy goes on under the old name
    state.bump()
    state.group.forget()
    if rewound and not state.group.is_plain:
        state.must_settle = state.must_finish = True
    return rewound


def check_room(state: State, device: bytes) -> None:
    """Require that a device may fork its logs once more. Raises `EntryRefused`."""
    if proof.count(state.connection, device) >= proof.MAX_FORKS:
        raise EntryRefused(
            f"{state.device_name(device)} signed different entries under one number again and again",
            f"Remove it: crdtlog remove {state.path} {state.device_name(device)}",
        )


def _check_root(log: Writer) -> None:
    if log.parent is not None:
        raise EntryRefused("an entry signed with the name that a log has been given")


def _point(item: Entry) -> Point:
    return Point(item.writer, item.seq, item.previous)


def _before(log: Log, root: Writer, item: Entry) -> Writer | None:
    """The log that holds the entry before one, the writer's own one for a first; None if it is not held."""
    if item.seq == 1:
        return root
    for other in log.writers.values():
        if root_of(other) is not root or not other.first <= item.seq - 1 <= other.seq:
            continue
        if log.hash_of(other.number, item.seq - 1) == item.previous:
            return other
    return None


def _holder(log: Log, root: Writer, item: Entry) -> Writer:
    """The same. Raises `EntryRefused` if it is not held."""
    found = _before(log, root, item)
    if found is not None:
        return found
    longest = max(other.seq for other in log.writers.values() if root_of(other) is root)
    if longest < item.seq - 1:
        raise EntryRefused(
            f"entry {item.seq} arrived where {longest + 1} is next (writer {item.writer.hex()[:12]})"
        )
    raise AnotherHistory(f"entry {item.seq} of writer {item.writer.hex()[:12]} breaks its log's hash chain")


def _children(log: Log, parent: Writer, seq: int) -> list[Writer]:
    """The logs that hold an entry of that number on the one before it, which `parent` holds."""
    return [
        other
        for other in log.writers.values()
        if other.seq >= seq and (other is parent or (other.parent is parent and other.first == seq))
    ]


def _named(log: Log, parent: Writer, item: Entry, digest: bytes, names: list[bytes]) -> Writer:
    """The log of an entry that is known to stand at a fork."""
    if digest == names[0]:
        return parent
    return log.branch(proof.branch_name(item.writer, digest), parent, item.seq)
