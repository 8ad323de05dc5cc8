"""What each membership record says, about whom, and whether its author might say it: facts of its own past alone.

Records are added in causal order and numbered; sets of records are integers, one bit a record, so that "what does this
entry's past hold" is an OR and "who was the last to speak about this device" a shift. Nothing noted here is ever
changed by a record that comes later, so all orders of arrival give the same (`overrides` only names more).

Roles are levels: 0 no member, 1 reader, 2 writer, 3 admin. Each record about a device gives it a level. The records
that no later one supersedes are the device's heads, and the lowest head decides (`level`).
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from crdtlog.membership.records import (
    Add,
    Content,
    Founding,
    Recover,
    Remove,
    Role,
    Rotate,
    Seen,
    database_id,
    recovery_message,
)
from crdtlog.values import pack
from crdtlog.versions import device_of

OUT, READER, WRITER, ADMIN = range(4)
LEVELS = {"reader": READER, "writer": WRITER, "admin": ADMIN}
#: A record is refused when its own past holds so many. What only takes away goes up to twice as many.
MAX_RECORDS = 10_000
#: A record is refused when so many in its past are concurrent with one another.
MAX_HEADS = 1_000

Dot = tuple[bytes, int]
Verify = Callable[[bytes, bytes, bytes], bool]


class Said(NamedTuple):
    """Who an entry says that it is by, and what its context names, in its author's names for the logs."""

    writer: bytes
    context: Mapping[bytes, int]


class Record(NamedTuple):
    """A membership record in its entry: dot, hash, and everything that its author had (its own log included).

    `said`: the same in the author's names for logs, where these matter; None if they are ours.
    """

    writer: bytes
    seq: int
    hash: bytes
    context: Mapping[bytes, int]
    content: Content
    said: Said | None = None


class Node(NamedTuple):
    """What the graph knows of a record.

    `past` is a set of records; `need` the level its author must have; `subject` the device it has an effect on, if any;
    `gives` the level it gives to that; `narrows` whether it only takes away; `void` why it never counts, if so.
    """

    record: Record
    author: bytes
    past: int
    need: int
    subject: bytes | None
    gives: int
    narrows: bool
    void: str | None


class _Spoken:
    """One log's records: their sequence numbers, and for each the set of it and all that is before it."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.numbers: list[int] = []
        self.closed: list[int] = []


class Graph:
    """All membership records held of one database.

    `verify(public key, message, signature)` says whether a signature of the recovery key is right.
    """

    def __init__(self, database: bytes, verify: Verify) -> None:
        self._database = database
        self._verify = verify
        self._recovery: bytes | None = None
        self._dots: set[Dot] = set()
        self._levels: dict[tuple[bytes, int], int] = {}
        self._overriding: dict[bytes, int] = {}
        self.nodes: list[Node] = []
        self.logs: dict[bytes, _Spoken] = {}
        #: The records that are no void; those that let a device in; those that give less than a level.
        self.valid = 0
        self.admissions = 0
        self.below = [0, 0, 0, 0]
        #: The recoveries that the recovery key signed.
        self.recoveries: list[int] = []
        #: For each device, the records that have an effect on it.
        self.about: dict[bytes, int] = {}
        #: For each device, the records that override others, and which.
        self.overrides: dict[bytes, dict[int, int]] = {}

    # --- reading ------------------------------------------------------------------------------------------------

    def past(self, context: Mapping[bytes, int]) -> int:
        """The set of records in the past of an entry with that context: what it names, and what they had seen."""
        found = 0
        if len(context) < len(self.logs):
            pairs = ((self.logs.get(writer), seq) for writer, seq in context.items())
        else:
            pairs = ((log, context.get(writer, 0)) for writer, log in self.logs.items())
        for log, seq in pairs:
            if log is not None and seq:
                place = bisect_right(log.seqs, seq)
                if place:
                    found |= log.closed[place - 1]
        return found

    def is_record(self, writer: bytes, seq: int) -> bool:
        """Whether that entry is known to be a membership record."""
        return (writer, seq) in self._dots

    def level(self, device: bytes, past: int, counting: int) -> int:
        """A device's level after some past, if of it those in `counting` count.

        Every record about a device is an upper bound; those that count also supersede what they had seen. So the more
        count, the higher the level: that is what lets `evaluation` find the least fixed point.
        """
        left = self.about.get(device, 0) & past
        if not left & counting & self.admissions:
            return OUT
        left &= ~self.overridden(device, past & counting)
        lowest = ADMIN
        while left:
            head = left.bit_length() - 1
            lowest = min(lowest, self.nodes[head].gives)
            if lowest == OUT:
                break
            left &= ~(1 << head)
            if counting >> head & 1:
                left &= ~self.nodes[head].past
        return lowest

    def heads(self, device: bytes, counting: int) -> list[int]:
        """The records about a device that nothing supersedes."""
        left = self.about.get(device, 0) & ~self.overridden(device, counting)
        found = []
        while left:
            head = left.bit_length() - 1
            found.append(head)
            left &= ~(1 << head)
            if counting >> head & 1:
                left &= ~self.nodes[head].past
        return found

    def overridden(self, device: bytes, those: int) -> int:
        """The records about a device that some of those override."""
        found = 0
        for number, others in self.overrides.get(device, {}).items():
            if those >> number & 1:
                found |= others
        return found

    def number(self, dot: Dot) -> int:
        """The number of a record that is not `seen`; raises `KeyError`."""
        log = self.logs[dot[0]]
        place = bisect_right(log.seqs, dot[1])
        if not place or log.seqs[place - 1] != dot[1]:
            raise KeyError(dot)
        return log.numbers[place - 1]

    def numbers(self, writer: bytes) -> Sequence[int]:
        """The records of a log, `seen` left out."""
        return self.logs[writer].numbers if writer in self.logs else ()

    def count(self, writer: bytes, before: int) -> int:
        """How many of them stand in front of an entry."""
        return bisect_right(self.logs[writer].seqs, before - 1) if writer in self.logs else 0

    def first(self, writer: bytes) -> int:
        """The set of the record that a log begins with, if that lets its own author in."""
        log = self.logs.get(writer)
        if log is None or log.seqs[0] != 1:
            return 0
        return 1 << log.numbers[0] if self.nodes[log.numbers[0]].need == OUT else 0

    # --- adding -------------------------------------------------------------------------------------------------

    def refusal(self, record: Record) -> str | None:
        """Why a record is not to be taken in, or None. Depends on its own past alone, so all devices refuse alike."""
        node = self._read(record)
        if node.void is not None:
            return node.void
        if isinstance(record.content, Seen):
            return None
        count = node.past.bit_count()
        if count >= MAX_RECORDS and not (node.narrows and count < 2 * MAX_RECORDS):
            return f"the group has had over {MAX_RECORDS:,} changes"
        if not node.narrows and sum(1 for _ in islice(self._tops(node.past), MAX_HEADS + 1)) > MAX_HEADS:
            return f"over {MAX_HEADS:,} changes of the group know nothing of one another"
        return None

    def add(self, record: Record) -> None:
        """Take in a record; everything in its past must be there. One that is there already changes nothing."""
        dot = (record.writer, record.seq)
        if dot in self._dots:
            return
        self._dots.add(dot)
        if isinstance(record.content, Seen):
            return
        node = self._read(record)
        number, bit = len(self.nodes), 1 << len(self.nodes)
        self.nodes.append(node)
        log = self.logs.setdefault(record.writer, _Spoken())
        log.seqs.append(record.seq)
        log.numbers.append(number)
        log.closed.append(node.past | bit)
        if node.void is None:
            self._note(node, number, bit)

    def _note(self, node: Node, number: int, bit: int) -> None:
        content = node.record.content
        self.valid |= bit
        if isinstance(content, Founding):
            self._recovery = content.genesis.recovery
        if node.subject is None:
            return
        for level in range(node.gives + 1, ADMIN + 1):
            self.below[level] |= bit
        known = self.about.get(node.subject, 0)
        self.about[node.subject] = known | bit
        overrides = self.overrides.setdefault(node.subject, {})
        for overriding in bits(self._overriding.get(node.subject, 0) & ~node.past):
            if self._overrides(self.nodes[overriding], node):
                overrides[overriding] = overrides.get(overriding, 0) | bit
        if isinstance(content, Recover):
            self.recoveries.append(number)
        if isinstance(content, Add | Founding | Recover):
            self.admissions |= bit
        if isinstance(content, Recover) or (isinstance(content, Add) and content.again):
            self._overriding[node.subject] = self._overriding.get(node.subject, 0) | bit
            for other in bits(known & ~node.past):
                if self._overrides(node, self.nodes[other]):
                    overrides[number] = overrides.get(number, 0) | 1 << other

    def _overrides(self, node: Node, other: Node) -> bool:
        """Whether a readmission or recovery lets its device in whatever another record, concurrent to it, says."""
        if isinstance(other.record.content, Recover):
            return False
        if isinstance(node.record.content, Recover):
            return True
        again = isinstance(other.record.content, Add) and other.record.content.again
        return not again and self._allowed(other.author, node.past) < ADMIN

    def _read(self, record: Record) -> Node:
        author, content = device_of(record.writer), record.content
        past = self.past(record.context)
        subject: bytes | None = None
        need, gives, narrows = ADMIN, ADMIN, False
        match content:
            case Founding():
                need, subject = OUT, content.genesis.founder.device
                gives = LEVELS[content.genesis.founder.role]
            case Recover(newcomer):
                need, subject = OUT, newcomer.device
            case Add(newcomer, again, _):
                gives = LEVELS[newcomer.role]
                if again or self._allowed(newcomer.device, past) == OUT:
                    subject = newcomer.device
            case Role(device, role):
                gives, before = LEVELS[role], self._allowed(device, past)
                subject, narrows = (device, gives < before) if before else (None, False)
            case Remove(device):
                gives, narrows = OUT, True
                need = READER if device == author else ADMIN
                subject = device if self._allowed(device, past) else None
            case Seen():
                need = READER
            case Rotate():
                need = WRITER
        return Node(
            record, author, past, need, subject, gives, narrows, self._void(record, author, past, need)
        )

    def _void(self, record: Record, author: bytes, past: int, need: int) -> str | None:
        match record.content:
            case Founding(raw):
                founder = record.content.genesis.founder.device
                first = record.seq == 1 and not any(record.context.values())
                if database_id(raw) != self._database or not first or founder != author:
                    return "a founding record that did not found this database"
            case Recover(newcomer, signature):
                said = record.said or Said(record.writer, record.context)
                message = recovery_message(
                    self._database, newcomer, said.writer, context_digest(said.context)
                )
                if record.seq != 1 or newcomer.device != author:
                    return "a recovery that does not begin a log of the device it is for"
                if not past or self._recovery is None or not self._verify(self._recovery, message, signature):
                    return "a recovery that the recovery key did not sign"
            case _:
                if self._allowed(author, past) < need:
                    return "its author had no authority to say so"
        return None

    def _allowed(self, device: bytes, past: int) -> int:
        """A device's level if all valid records of that past count: the most that it may have believed to have."""
        seen = self.about.get(device, 0) & past
        key = (device, seen)
        if key not in self._levels:
            self._levels[key] = self.level(device, seen, self.valid)
        return self._levels[key]

    def _tops(self, past: int) -> Iterator[int]:
        while past:
            head = past.bit_length() - 1
            yield head
            past &= ~(self.nodes[head].past | 1 << head)

    @classmethod
    def of(cls, database: bytes, verify: Verify, records: Iterable[Record]) -> "Graph":
        """The graph of some records that come in any order; those whose past is not there count as if it were."""
        graph = cls(database, verify)
        for record in causal_order(list(records)):
            graph.add(record)
        return graph


def bits(those: int) -> Iterator[int]:
    """The numbers in a set."""
    while those:
        lowest = those & -those
        yield lowest.bit_length() - 1
        those ^= lowest


def context_digest(context: Mapping[bytes, int]) -> bytes:
    """A hash of what an entry's author had, for `recovery_message`: writers and sequence numbers."""
    named = [[writer, seq] for writer, seq in sorted(context.items()) if seq]
    return hashlib.sha256(b"crdtlog context" + pack(named)).digest()


def causal_order(records: list[Record]) -> list[Record]:
    """The records, each behind what its context names."""
    logs: dict[bytes, list[tuple[int, int]]] = {}
    for place, record in enumerate(records):
        logs.setdefault(record.writer, []).append((record.seq, place))
    for log in logs.values():
        log.sort()
    ordered: list[Record] = []
    done: set[int] = set()
    ahead = list(range(len(records) - 1, -1, -1))
    while ahead:
        place = ahead[-1]
        if place in done:
            ahead.pop()
            continue
        before = [at for at in _named(records[place], logs) if at not in done]
        if before:
            ahead.extend(before)
        else:
            ahead.pop()
            done.add(place)
            ordered.append(records[place])
    return ordered


def _named(record: Record, logs: Mapping[bytes, list[tuple[int, int]]]) -> Iterator[int]:
    """Of each log, the last record that another's context names."""
    for writer, seq in record.context.items():
        log = logs.get(writer)
        if log and seq:
            place = bisect_right(log, (seq, len(log) + (1 << 60)))
            if place:
                yield log[place - 1][1]
