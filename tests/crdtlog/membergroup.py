"""A group of devices in memory that exchange entries and apply what counts: membership without files or keys.

A `Peer` does what an honest device does. What it holds and what it has applied are two things: entries that do not
count are held and passed on, and named in no context. Tests write a liar's entries by hand (`Peer.forge`).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from crdtlog.membership import (
    Add,
    Content,
    Evaluated,
    Founding,
    Genesis,
    Graph,
    Logs,
    Newcomer,
    Own,
    Record,
    Recover,
    Seen,
    context_digest,
    database_id,
    encode_genesis,
    evaluate,
    recovery_message,
)
from crdtlog.versions import device_of

KEY = b"recovery key, of 32 bytes, right"
FIRST_EPOCH = b"first epoch (16)"


def sign(key: bytes, message: bytes) -> bytes:
    return hashlib.sha512(key + message).digest()


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    return sign(key, message) == signature


def newcomer(name: str, role: str = "admin") -> Newcomer:
    key = hashlib.sha256(name.encode()).digest()
    return Newcomer(name, role, key, key, b"certificate")


def device(name: str) -> bytes:
    return newcomer(name).device


def writer(name: str, number: int = 1) -> bytes:
    return device(name) + number.to_bytes(8, "big")


class Entry(NamedTuple):
    """An entry; `content` is None for data."""

    writer: bytes
    seq: int
    context: Mapping[bytes, int]
    content: Content | None
    hash: bytes

    @property
    def dot(self) -> tuple[bytes, int]:
        return self.writer, self.seq

    @property
    def record(self) -> Record | None:
        return (
            None
            if self.content is None
            else Record(self.writer, self.seq, self.hash, self.context, self.content)
        )


def made(log: bytes, seq: int, context: Mapping[bytes, int], content: Content | None) -> Entry:
    context = {name: at for name, at in {**context, log: seq - 1}.items() if at}
    digest = hashlib.sha256(repr((log, seq, sorted(context.items()), content)).encode()).digest()
    return Entry(log, seq, context, content, digest)


def graph_of(database: bytes, entries: Iterable[Entry]) -> Graph:
    return Graph.of(database, verify, [entry.record for entry in entries if entry.record is not None])


def logs_of(held: Mapping[tuple[bytes, int], Entry]) -> Logs:
    heads: dict[bytes, int] = {}
    for log, seq in held:
        heads[log] = max(seq, heads.get(log, 0))
    return Logs(heads, lambda log, seq: held[log, seq].context)


def applicable(found: Evaluated, entry: Entry) -> bool:
    match entry.content:
        case None:
            return found.may_write(entry.dot, entry.context)
        case Seen():
            return found.may_speak(entry.dot, entry.context)
        case _:
            return found.counts(entry.dot)


def apply_all(found: Evaluated, held: Mapping[tuple[bytes, int], Entry], applied: dict[bytes, int]) -> bool:
    """Apply what counts and whose context is applied; whether there was any."""
    more, any_ = True, False
    while more:
        more = False
        for entry in held.values():
            if entry.seq != applied.get(entry.writer, 0) + 1:
                continue
            if all(applied.get(log, 0) >= seq for log, seq in entry.context.items()) and applicable(
                found, entry
            ):
                applied[entry.writer] = entry.seq
                more = any_ = True
    return any_


@dataclass
class Peer:
    """A device: what it holds, what it has applied, and the log that it writes."""

    name: str
    database: bytes
    held: dict[tuple[bytes, int], Entry] = field(default_factory=dict)
    applied: dict[bytes, int] = field(default_factory=dict)
    number: int = 1

    @property
    def device(self) -> bytes:
        return device(self.name)

    @property
    def log(self) -> bytes:
        return writer(self.name, self.number)

    def state(self) -> Evaluated:
        own = Own(self.device, self.applied)
        return evaluate(graph_of(self.database, self.held.values()), logs_of(self.held), own, FIRST_EPOCH)

    def role(self, name: str) -> str | None:
        standing = self.state().members.get(device(name))
        return standing.role if standing else None

    def head(self, log: bytes) -> int:
        return max((seq for name, seq in self.held if name == log), default=0)

    # --- an honest device -----------------------------------------------------------------------------------------

    def write(self, content: Content | None = None) -> Entry:
        """Write an entry, in a new log if something of the old one does not count."""
        while self.head(self.log) > self.applied.get(self.log, 0):
            self.number += 1
        entry = made(self.log, self.head(self.log) + 1, self.applied, content)
        self.held[entry.dot] = entry
        self.settle()
        return entry

    def add(self, name: str, role: str = "admin") -> Entry | None:
        record = self.state().addition(newcomer(name, role))
        return None if record is None else self.write(record)

    def recover(self, key: bytes = KEY) -> Entry:
        self.number += 1
        message = recovery_message(self.database, newcomer(self.name), self.log, context_digest(self.applied))
        return self.write(Recover(newcomer(self.name), sign(key, message)))

    def receive(self, entries: Iterable[Entry]) -> None:
        """Hold what continues a log and names what is held, apply what counts, tell what must be told."""
        waiting = [entry for entry in entries if entry.dot not in self.held]
        more = True
        while more:
            more = False
            for entry in waiting:
                before = {**entry.context, entry.writer: entry.seq - 1}
                if entry.dot not in self.held and all(
                    not seq or (log, seq) in self.held for log, seq in before.items()
                ):
                    self.held[entry.dot] = entry
                    more = True
        self.settle()

    def settle(self) -> None:
        while True:
            found = self.state()
            standing = found.members.get(self.device)
            self._undo(found, member=standing is not None and standing.role is not None)
            if apply_all(found, self.held, self.applied):
                continue
            if not self.state().must_tell:
                return
            self.write(Seen())

    def _undo(self, found: Evaluated, *, member: bool) -> None:
        """Put aside own work that does not count, and what rests on it; a member has to undo nothing else."""
        kept: dict[bytes, int] = {}
        apply_all(
            found, {dot: self.held[dot] for dot in self.held if dot[1] <= self.applied.get(dot[0], 0)}, kept
        )
        undone = {device_of(log) for log, seq in self.applied.items() if kept.get(log, 0) < seq}
        assert not undone or self.device in undone or not member, "something applied was undone"
        self.applied = kept

    def sync(self, other: "Peer") -> None:
        """Exchange everything until there is nothing to exchange."""
        while self.held.keys() != other.held.keys():
            mine, theirs = list(self.held.values()), list(other.held.values())
            self.receive(theirs)
            other.receive(mine)

    # --- a liar ---------------------------------------------------------------------------------------------------

    def forge(self, content: Content | None, context: Mapping[bytes, int], number: int = 1) -> Entry:
        """Write what a liar likes: any record, with any context that names what is held."""
        log = writer(self.name, number)
        last = self.head(log)
        before = self.held[log, last].context if last else {}
        context = {name: max(context.get(name, 0), before.get(name, 0)) for name in {*context, *before}}
        entry = made(log, last + 1, context, content)
        self.held[entry.dot] = entry
        return entry


def founded(*names: str, roles: Mapping[str, str] | None = None, recovery: bytes | None = KEY) -> list[Peer]:
    """A group: the first founds it and adds the others (admins, if `roles` says nothing else); all know of all."""
    genesis = encode_genesis(Genesis(b"n" * 16, newcomer(names[0]), recovery))
    peers = [Peer(name, database_id(genesis)) for name in names]
    peers[0].write(Founding(genesis))
    for name in names[1:]:
        peers[0].write(Add(newcomer(name, (roles or {}).get(name, "admin"))))
    for peer in peers[1:]:
        peers[0].sync(peer)
    return peers


def meet(*peers: Peer) -> None:
    """All exchange everything, several times: what somebody tells in between arrives too."""
    before = -1
    while before != (before := sum(len(peer.held) for peer in peers)):
        for peer in peers[1:]:
            peers[0].sync(peer)
        for peer in peers[1:]:
            peers[0].sync(peer)


def vector(entries: Iterable[Entry]) -> dict[bytes, int]:
    """The least closed vector that covers some entries."""
    found: dict[bytes, int] = {}
    for entry in entries:
        for log, seq in {**entry.context, entry.writer: entry.seq}.items():
            found[log] = max(seq, found.get(log, 0))
    return found


def picture(found: Evaluated) -> object:
    """What devices must agree on."""
    epochs = {name: [(each.depth, each.recipients) for each in those] for name, those in found.epochs.items()}
    return found.members, found.conflicts, epochs


def roles(peer: Peer) -> dict[str, str | None]:
    return {standing.newcomer.name: standing.role for standing in peer.state().members.values()}


def agree(*peers: Peer) -> None:
    first, *others = [picture(peer.state()) for peer in peers]
    assert all(other == first for other in others)
    assert all(peer.applied == peers[0].applied for peer in peers)
