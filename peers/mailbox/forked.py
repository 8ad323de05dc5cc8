"""What the forks known here say of the names of logs: whose logs have other names than they signed with.

Knows proofs of forks as values. Must not know mailboxes. The one idea: an entry of a mailbox is named as its author
called its log, which tells nothing where logs are forked; there only hashes tell what is meant.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

from crdtlog.proof import Fork, branch_name
from crdtlog.values import pack
from crdtlog.versions import Head, Named, device_of

MAX_ASKED = 500
"""So many entries are looked for at a time."""


class Forked:
    """The forks that a device knows, and what follows from them."""

    def __init__(self, forks: Sequence[Fork] = ()) -> None:
        self.forks = tuple(forks)
        self.begins = {
            branch_name(fork.writer, digest): fork.seq for fork in forks for digest in fork.hashes[1:]
        }
        """Of each log that left another one at a fork, its first entry."""
        self._branches = Counter(fork.device for fork in forks for _ in fork.hashes[1:])

    def __contains__(self, device: bytes) -> bool:
        return device in self._branches

    def branches(self, device: bytes) -> int:
        """How many logs of a device left another one."""
        return self._branches[device]

    @property
    def digest(self) -> bytes:
        """What tells the names that logs have now from those at another time; empty while nothing is forked."""
        if not self.forks:
            return b""
        return hashlib.sha256(
            pack([[fork.writer, fork.seq, list(fork.hashes)] for fork in self.forks])
        ).digest()


class Sought:
    """Entries of devices with forked logs that others build on, and which of these are held here, by their hashes.

    Each is looked for once, and again when one more log has come that far, so that the work follows what is read.
    """

    def __init__(self, forked: Forked) -> None:
        self._forked = forked
        self._wanted: dict[tuple[bytes, int], Counter[Named]] = {}
        self._held: set[Named] = set()
        self._due: dict[Named, None] = {}
        self._reached: dict[bytes, int] = {}

    def __contains__(self, named: Named) -> bool:
        """Whether it is known to be held."""
        return named in self._held

    def want(self, named: Iterable[Named]) -> None:
        """Something builds on these."""
        for each in named:
            if device_of(each.writer) in self._forked:
                self._wanted.setdefault((device_of(each.writer), each.seq), Counter())[each] += 1
                if each not in self._held:
                    self._due[each] = None

    def leave(self, named: Iterable[Named]) -> None:
        """What built on these does not wait any more."""
        for each in named:
            place = device_of(each.writer), each.seq
            if place not in self._wanted:
                continue
            self._wanted[place][each] -= 1
            if not self._wanted[place][each]:
                del self._wanted[place][each]
                self._held.discard(each)
                self._due.pop(each, None)
            if not self._wanted[place]:
                del self._wanted[place]

    def asks(self, heads: Mapping[bytes, Head]) -> tuple[Named, ...]:
        """Those of which it is to be told now whether they are held."""
        if not self._wanted:
            return ()
        before = self._reached
        # What a log had that was cut off since (R11) is missing, until it is there again.
        self._reached = {
            writer: head.seq for writer, head in heads.items() if device_of(writer) in self._forked
        }
        for writer, seq in self._reached.items():
            if seq > before.get(writer, 0):
                self._look_again(device_of(writer), before.get(writer, 0), seq)
        return tuple(islice(self._due, MAX_ASKED))

    def told(self, asked: Iterable[Named], held: Collection[Named]) -> None:
        """Of those that were asked for, these are held."""
        for each in asked:
            if each in self._due:
                del self._due[each]
                if each in held:
                    self._held.add(each)

    def _look_again(self, device: bytes, behind: int, until: int) -> None:
        """One of a device's logs has come from a number to another one."""
        places: Iterable[tuple[bytes, int]] = ((device, seq) for seq in range(behind + 1, until + 1))
        if until - behind > len(self._wanted):
            places = [place for place in self._wanted if place[0] == device and behind < place[1] <= until]
        for place in places:
            self._due.update((each, None) for each in self._wanted.get(place, ()) if each not in self._held)
