"""What counts: from all records, and from what every log names, to who belongs and which entries are applied.

A record about a device that gives it less than an entry needs *cuts* that entry, unless the entry had the record in its
past (then its author's level in that past decides). What is cut counts as far as its author had it who wrote the
cutting record, and as far as any other member's entries that count name it. That is a circle, so it is solved from
below: nothing counts at first, and what follows from what counts is added until nothing follows (least fixed point).
Every rule here is such that more that counts never makes less count. So devices that vouch only for one another never
begin to count, and the order in which things are found out is no matter.

Invariants, for a member that hands in what it has applied (`Own`), while it stays a member:
 E1  what has counted and was applied counts for ever, whatever arrives (but for its own entries that are cut, and what
     rests on them: its word is none for itself);
 E2  two members that hold the same, and have both told what they must (`must_tell`), find the same to count.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from crdtlog.membership.graph import ADMIN, OUT, READER, WRITER, Dot, Graph, Node, bits
from crdtlog.membership.records import Add, Founding, Newcomer, Recover, Remove, Role, Rotate
from crdtlog.versions import MAX_SEQ, device_of

_ROLES = {READER: "reader", WRITER: "writer", ADMIN: "admin"}


class Logs(NamedTuple):
    """All entries held, those that do not count included, if what they name is held too.

    `heads`: for each writer the last entry's number. `context(writer, seq)`: everything that the author of that entry
    had, its own log up to the entry before included.
    """

    heads: Mapping[bytes, int]
    context: Callable[[bytes, int], Mapping[bytes, int]]


class Own(NamedTuple):
    """This device, and what it has applied: it vouches for that before it has written so."""

    device: bytes
    applied: Mapping[bytes, int]


class Standing(NamedTuple):
    """A device that belongs or belonged: `role` is None once it is removed.

    `added_by` is a device (None for the founder, itself for one that recovered); `at` is the record that decided its
    role, `removed_by` that record's author if it is removed.
    """

    device: bytes
    newcomer: Newcomer
    role: str | None
    added_by: bytes | None
    removed_by: bytes | None
    at: Dot


class Conflict(NamedTuple):
    """Admins who did not know of one another said different things about a device: dot, author, role (None: out)."""

    device: bytes
    said: tuple[tuple[Dot, bytes, str | None], ...]


class Epoch(NamedTuple):
    """An epoch that somebody rotated to: `known` is the set of records in that one's past."""

    id: bytes
    depth: int
    recipients: frozenset[bytes]
    known: int


def evaluate(graph: Graph, logs: Logs, own: Own | None = None, first_epoch: bytes = b"") -> "Evaluated":
    """The state that follows from the records and logs held; pure."""
    return Evaluated(graph, logs, own, first_epoch)


class Evaluated:
    """What counts of the records and logs held, and what follows from it. Of use until either changes."""

    def __init__(self, graph: Graph, logs: Logs, own: Own | None, first_epoch: bytes) -> None:
        self._graph = graph
        self._logs = logs
        self._own = own
        self._first_epoch = first_epoch
        self._pasts: dict[Dot, int] = {}
        self._vouched: dict[bytes, int] = {}
        self._clear: dict[bytes, int] = {}  # of each log, so many first records are known to be applied
        self._reach: dict[bytes, int] = dict.fromkeys(logs.heads, 0)
        self._watched = frozenset(writer for writer in logs.heads if self._may_be_cut(writer))
        self._counting = 0
        while self._count_records() | self._reach_logs():
            pass

    # --- the fixed point ----------------------------------------------------------------------------------------

    def _may_be_cut(self, writer: bytes) -> bool:
        about = self._graph.about.get(device_of(writer), 0)
        return bool(
            about & self._graph.below[ADMIN] and about & self._graph.below[ADMIN] & ~self._past(writer, 1)
        )

    def _count_records(self) -> bool:
        """Find more records that count; whether there were any."""
        before = self._counting
        for number, node in enumerate(self._graph.nodes):
            if not self._counting >> number & 1 and self._follows(node):
                self._counting |= 1 << number
        return self._counting != before

    def _follows(self, node: Node) -> bool:
        if node.void is not None:
            return False
        record = node.record
        if isinstance(record.content, Founding | Recover):
            return True
        if self._graph.level(node.author, node.past, self._counting) < node.need:
            return False
        if isinstance(record.content, Role) and not self._was_member(node):
            return False  # to supersede what is said about one that is out takes an addition
        return not self._is_cut((record.writer, record.seq), node.past, node.need) and not self._is_behind(
            record.writer, record.seq
        )

    def _was_member(self, node: Node) -> bool:
        return node.subject is None or self._graph.level(node.subject, node.past, self._counting) > OUT

    def _reach_logs(self) -> bool:
        """Find how far each log vouches for others, and what is vouched for; whether that has become more."""
        if not self._watched:
            return False
        before = dict(self._vouched)
        ahead: list[bytes] = []
        for number in self._graph.recoveries:
            # The recovery key signed this context: nobody's word is better, for the device's own earlier logs too.
            ahead += self._vouch(b"", self._graph.nodes[number].record.context)
        if self._own is not None and self._level(self._own.device) > OUT:
            ahead += self._vouch(self._own.device, self._own.applied)
        ahead += [writer for writer, head in self._logs.heads.items() if self._reach[writer] < head]
        while ahead:
            writer = ahead.pop()
            reach = self._reached(writer, self._logs.heads[writer])
            if reach > self._reach[writer]:
                self._reach[writer] = reach
                ahead += self._vouch(device_of(writer), self._logs.context(writer, reach))
        return self._vouched != before

    def _vouch(self, device: bytes, context: Mapping[bytes, int]) -> list[bytes]:
        """Note what a member's context names; returns the logs of which more is vouched for now."""
        more = [
            writer
            for writer in self._watched
            if context.get(writer, 0) > self._vouched.get(writer, 0) and device_of(writer) != device
        ]
        self._vouched.update((writer, context[writer]) for writer in more)
        return more

    def _reached(self, writer: bytes, head: int) -> int:
        """The last entry of a log whose author was a member and not removed, as far as is known yet."""
        device, graph = device_of(writer), self._graph
        if not graph.about.get(device, 0) & graph.admissions & self._counting:
            return 0
        for number in bits(graph.about[device] & graph.below[READER] & ~self._past(writer, 1)):
            end = self._end(number, writer)
            if end < head and not self._is_back(device, number, writer, self._next_lasting(writer, end + 1)):
                head = end
        while head and self._was_out(device, past := self._past(writer, head)):
            if not past & graph.about[device] & graph.admissions & self._counting:
                return 0
            # Those with the same past need not be asked; pasts only grow.
            head = bisect_left(range(1, head), 1, key=lambda seq: int(self._past(writer, seq) == past))
        return head

    def _was_out(self, device: bytes, past: int) -> bool:
        return all(
            self._graph.level(device, reading, self._counting) == OUT
            for reading in self._readings(device, past)
        )

    def _next_lasting(self, writer: bytes, seq: int) -> int:
        """The first entry of a log, from `seq` on, that does not take away: what does is applied in any case."""
        for number in self._graph.numbers(writer)[self._graph.count(writer, seq) :]:
            node = self._graph.nodes[number]
            if node.record.seq != seq or node.void is not None or not node.narrows:
                break
            seq += 1
        return seq

    def _is_back(self, device: bytes, removal: int, writer: bytes, seq: int) -> bool:
        """Whether a device that was removed belonged again when it wrote that entry, if it is held."""
        if seq > self._logs.heads[writer]:
            return False
        past = self._past(writer, seq)
        known = past >> removal & 1 or self._undone(device, past) >> removal & 1
        return bool(known) and self._graph.level(device, past, self._counting) > OUT

    # --- cuts ---------------------------------------------------------------------------------------------------

    def _past(self, writer: bytes, seq: int) -> int:
        """The past of an entry; a record that lets its own author in by beginning a log counts as before it."""
        if (writer, seq) not in self._pasts:
            past = self._graph.past(self._logs.context(writer, seq))
            self._pasts[writer, seq] = past | self._graph.first(writer)
        return self._pasts[writer, seq]

    def _undone(self, device: bytes, past: int) -> int:
        return self._graph.overridden(device, past & self._counting)

    def _end(self, cutting: int, writer: bytes) -> int:
        """The last entry of a log that a cutting record leaves: its author had it, or a member vouches for it."""
        record = self._graph.nodes[cutting].record
        had = record.seq if record.writer == writer else record.context.get(writer, 0)
        return max(had, self._vouched.get(writer, 0))

    def _cutting(self, device: bytes, past: int, need: int) -> int:
        """The records that cut what a device does with that past and needs that level for."""
        graph = self._graph
        found = graph.about.get(device, 0) & graph.below[need] & ~past
        return found & ~self._undone(device, past) if found else 0

    def _is_cut(self, dot: Dot, past: int, need: int) -> bool:
        writer, seq = dot
        if seq <= self._vouched.get(writer, 0):
            return False
        return any(
            seq > self._end(number, writer) for number in bits(self._cutting(device_of(writer), past, need))
        )

    def _is_behind(self, writer: bytes, seq: int) -> bool:
        """Whether an entry stands behind one of its own log that does not count (and so cannot be applied either)."""
        records, before = self._graph.numbers(writer), self._graph.count(writer, seq)
        while (clear := self._clear.get(writer, 0)) < before and self._passes(records[clear]):
            self._clear[writer] = clear + 1
        if clear < before:
            return True
        if writer not in self._watched or seq - 1 <= self._vouched.get(writer, 0):
            return False
        device, graph = device_of(writer), self._graph
        for number in bits(graph.about.get(device, 0) & graph.below[WRITER] & ~self._past(writer, 1)):
            write = self._next_write(writer, self._end(number, writer) + 1)
            if write < seq:
                past = self._past(writer, write)
                if not (past | self._undone(device, past)) >> number & 1:
                    return True
        return False

    def _passes(self, number: int) -> bool:
        """Whether what stands behind a record can be applied: it counts, or only takes away."""
        node = self._graph.nodes[number]
        return bool(self._counting >> number & 1) or (node.void is None and node.narrows)

    def _next_write(self, writer: bytes, seq: int) -> int:
        while self._graph.is_record(writer, seq):
            seq += 1
        return seq

    def _next_needing(self, need: int, writer: bytes, seq: int) -> int:
        """The first entry of a log, from `seq` on, for which its author may have needed that level."""
        if need <= READER:
            return seq
        nodes, numbers = self._graph.nodes, self._graph.numbers(writer)
        records = (nodes[at].record.seq for at in numbers[self._graph.count(writer, seq) :])
        first = next(records, MAX_SEQ)
        return min(first, self._next_write(writer, seq)) if need <= WRITER else first

    # --- what entries may do ------------------------------------------------------------------------------------

    def may_write(self, dot: Dot, context: Mapping[bytes, int]) -> bool:
        """Whether an entry of data (or a schema change, event, error, command) with that context counts."""
        return self._may(dot, context, WRITER)

    def may_speak(self, dot: Dot, context: Mapping[bytes, int]) -> bool:
        """Whether a `seen` entry counts."""
        return self._may(dot, context, READER)

    def _may(self, dot: Dot, context: Mapping[bytes, int], need: int) -> bool:
        writer, seq = dot
        device = device_of(writer)
        return any(
            self._graph.level(device, past, self._counting) >= need and not self._is_cut(dot, past, need)
            for past in self._readings(device, self._graph.past(context))
        ) and not self._is_behind(writer, seq)

    def _readings(self, device: bytes, past: int) -> list[int]:
        """A past, and what it may be taken for.

        A device that has just joined writes before the record that let it in has reached it. What names nothing about
        its author is taken as written after one of the records that let it in, whichever serves best: so could the
        author have written it.
        """
        about = self._graph.about.get(device, 0)
        if past & about:
            return [past]
        let_in = about & self._graph.admissions & self._counting
        return [past | 1 << number | (self._graph.nodes[number].past & about) for number in bits(let_in)]

    def counts(self, dot: Dot) -> bool:
        """Whether a membership record (other than `seen`) counts, so that its entry may be applied.

        What takes away has its effect in any case, but its entry cannot be applied before those in front of it.
        """
        number = self._graph.number(dot)
        if self._counting >> number & 1:
            return True
        return self._passes(number) and not self._is_behind(*dot)

    def why_not(self, dot: Dot) -> str | None:
        """For people: why a membership record has no effect, or not its full effect; None if it has."""
        number = self._graph.number(dot)
        node = self._graph.nodes[number]
        if node.void is not None:
            return node.void
        if self._counting >> number & 1:
            if node.subject is None and not isinstance(node.record.content, Rotate):
                return "it says nothing new: " + _vain(node)
            return None
        only = "; it only takes away" if node.subject is not None else ""
        if self._graph.level(node.author, node.past, self._counting) < node.need:
            return "its author's own admission does not count" + only
        if self._is_cut(dot, node.past, node.need):
            return "its author had been removed, or made less, and no member vouches for it" + only
        if self._is_behind(*dot):
            return "it stands behind an entry that does not count" + only
        return "the device was no member" + only

    # --- the state ----------------------------------------------------------------------------------------------

    def _level(self, device: bytes) -> int:
        return self._graph.level(device, self._graph.valid, self._counting)

    @property
    def members(self) -> dict[bytes, Standing]:
        """All devices that ever belonged, removed ones with the role None."""
        return {
            device: standing
            for device in self._graph.about
            if (standing := self._standing(device)) is not None
        }

    def _standing(self, device: bytes) -> Standing | None:
        graph, nodes = self._graph, self._graph.nodes
        admissions = graph.about[device] & graph.admissions & self._counting
        if not admissions:
            return None
        latest = _tops(graph, admissions)
        admission = min((nodes[number] for number in latest), key=lambda node: node.record.hash)
        heads = [nodes[number] for number in graph.heads(device, self._counting)]
        decides = min(heads, key=lambda node: (node.gives, node.record.hash))
        content = admission.record.content
        founder = isinstance(content, Founding)
        return Standing(
            device,
            _newcomer(content),
            _ROLES.get(self._level(device)),
            None if founder else admission.author,
            decides.author if decides.gives == OUT else None,
            (decides.record.writer, decides.record.seq),
        )

    @property
    def conflicts(self) -> list[Conflict]:
        """The devices about which concurrent records disagree."""
        found = []
        for device, standing in sorted(self.members.items()):
            heads = self._graph.heads(device, self._counting)
            decides = self._graph.number(standing.at)
            others = [at for at in heads if self._disagree(at, decides)]
            if others:
                said = sorted(self._said(at) for at in (decides, *others))
                found.append(Conflict(device, tuple(said)))
        return found

    def _disagree(self, one: int, other: int) -> bool:
        a, b = self._graph.nodes[one], self._graph.nodes[other]
        return a.gives != b.gives and not a.past >> other & 1 and not b.past >> one & 1

    def _said(self, number: int) -> tuple[Dot, bytes, str | None]:
        node = self._graph.nodes[number]
        return (node.record.writer, node.record.seq), node.author, _ROLES.get(node.gives)

    @property
    def cuts(self) -> dict[bytes, int]:
        """The logs of which data is cut: writer → the last entry that counts whatever its author knew."""
        found = {}
        for writer in self._watched:
            graph = self._graph
            cutting = graph.about[device_of(writer)] & graph.below[WRITER] & ~self._past(writer, 1)
            cutting &= ~self._undone(device_of(writer), self._past(writer, 1))
            ends = [self._end(number, writer) for number in bits(cutting)]
            if ends:
                found[writer] = min(ends)
        return found

    @property
    def must_tell(self) -> bool:
        """Whether this device has applied what is cut unless it says so: then its next entry is a `seen`, at once."""
        if self._own is None or self._level(self._own.device) == OUT:
            return False
        told = Evaluated(self._graph, self._logs, None, self._first_epoch)
        return any(
            device_of(writer) != self._own.device and told._loses(writer, self._own.applied.get(writer, 0))
            for writer in self._watched
        )

    def _loses(self, writer: bytes, applied: int) -> bool:
        """Whether of the entries up to `applied` of a log some do not count."""
        device, graph = device_of(writer), self._graph
        if applied <= self._vouched.get(writer, 0):
            return False
        next_ = self._vouched.get(writer, 0) + 1
        if self._was_out(device, self._past(writer, next_)):
            return True
        for number in bits(graph.about.get(device, 0) & graph.below[ADMIN] & ~self._past(writer, 1)):
            first = self._next_needing(graph.nodes[number].gives + 1, writer, self._end(number, writer) + 1)
            if first <= applied:
                past = self._past(writer, first)
                if not (past | self._undone(device, past)) >> number & 1:
                    return True
        return False

    def doubtful(self, writer: bytes) -> int | None:
        """The first entry of a log that may not count; None if all that is held of it counts."""
        graph, device = self._graph, device_of(writer)
        about = graph.about.get(device, 0)
        if writer not in self._watched or about.bit_count() == 1:
            return None
        ends = [
            self._end(number, writer) for number in bits(about & graph.below[ADMIN] & ~self._past(writer, 1))
        ]
        first = min(ends, default=self._logs.heads[writer]) + 1
        return first if first <= self._logs.heads[writer] else None

    def addition(self, newcomer: Newcomer) -> Add | None:
        """The record that an admin here writes to let a device in; None if it belongs already."""
        if self._level(newcomer.device) > OUT:
            return None
        return Add(newcomer, again=bool(self._graph.about.get(newcomer.device, 0)))

    def change(self, device: bytes, role: str) -> Add | Role:
        """The record that an admin here writes to give a member a role.

        What a removed admin said behind entries that do not count is in no context: it takes a readmission to end it.
        """
        known = self._graph.past(self._own.applied) if self._own is not None else 0
        if any(not known >> head & 1 for head in self._graph.heads(device, self._counting)):
            return Add(self.members[device].newcomer._replace(role=role), again=True)
        return Role(device, role)

    # --- epochs -------------------------------------------------------------------------------------------------

    @property
    def epochs(self) -> dict[bytes, list[Epoch]]:
        """The epochs after the first, by id: two that were given one id are both there, and bind both."""
        found: dict[bytes, list[tuple[int, Epoch]]] = {}
        for number, node in enumerate(self._graph.nodes):
            content = node.record.content
            if not isinstance(content, Rotate) or not self._counting >> number & 1:
                continue
            # Only what its author knew is a parent: so there is no circle, whatever ids are chosen.
            parents = (
                epoch.depth
                for parent in content.parents
                for at, epoch in found.get(parent, ())
                if node.past >> at & 1
            )
            recipients = frozenset(device for device, _ in content.wrapped)
            epoch = Epoch(content.epoch, 1 + max(parents, default=0), recipients, node.past)
            found.setdefault(content.epoch, []).append((number, epoch))
        return {name: [epoch for _, epoch in those] for name, those in found.items()}

    def writing_epoch(self, held: Iterable[bytes]) -> bytes | None:
        """The epoch to write under, of those whose secrets are held: the deepest that nobody removed knows.

        None if there is none: then somebody must rotate. Who was let in after an epoch began, or without its author
        knowing, may have been told its secret; who is no recipient though the author knew of it, was left out. A device
        that left has nothing to keep from itself: under the epoch of till now it tells the others.
        """
        epochs = self.epochs
        own = self._own.device if self._own is not None else None
        gone = [device for device, it in self.members.items() if it.role is None and device != own]
        best: tuple[int, bytes] | None = None
        for name in held:
            depth = max((epoch.depth for epoch in epochs.get(name, ())), default=0)
            if name == self._first_epoch:
                safe = not gone
            else:
                safe = name in epochs and not any(
                    self._may_know(device, epoch) for epoch in epochs[name] for device in gone
                )
            if safe and (best is None or (depth, name) > best):
                best = depth, name
        return best[1] if best else None

    def _may_know(self, device: bytes, epoch: Epoch) -> bool:
        admitted = self._graph.about[device] & self._graph.admissions
        return device in epoch.recipients or bool(admitted & ~epoch.known)

    def lacking(self, epoch: Epoch) -> list[bytes]:
        """The members that an epoch's author did not hand the secret to, as when it did not know of them."""
        return [
            device
            for device, standing in self.members.items()
            if standing.role is not None and device not in epoch.recipients
        ]


def _tops(graph: Graph, those: int) -> list[int]:
    found = []
    while those:
        head = those.bit_length() - 1
        found.append(head)
        those &= ~(graph.nodes[head].past | 1 << head)
    return found


def _newcomer(content: object) -> Newcomer:
    match content:
        case Founding():
            return content.genesis.founder
        case Add(newcomer) | Recover(newcomer):
            return newcomer
        case _:
            raise TypeError("a record that lets nobody in")


def _vain(node: Node) -> str:
    match node.record.content:
        case Remove():
            return "the device was no member"
        case Role():
            return "the device was no member"
        case _:
            return "the device belonged already"
