"""Who counts in this file: the pure rules of `membership`, fed with the logs held, and remembered while these stay.

A group is *plain* while each device was let in once, by somebody who might, and nothing was ever said of it again: then
everything counts that a writer wrote, and nothing needs to be evaluated. That is most groups, most of the time.
"""

from collections.abc import Mapping

from crdtlog import entry, membership
from crdtlog.device import verify_bytes
from crdtlog.entry import Entry
from crdtlog.errors import EntryRefused
from crdtlog.log import Log
from crdtlog.membership import (
    Add,
    Content,
    Evaluated,
    Founding,
    Graph,
    Logs,
    Own,
    Record,
    Recover,
    Rotate,
    Said,
    Seen,
)
from crdtlog.membership.graph import bits
from crdtlog.versions import raise_to

Context = Mapping[bytes, int]


class Group:
    """The members of one file's database, as the records held tell."""

    def __init__(self, log: Log, database: bytes, device: bytes, first_epoch: bytes) -> None:
        self._log = log
        self._database = database
        self._device = device
        self._first_epoch = first_epoch
        self._graph: Graph | None = None
        self._found: Evaluated | None = None
        self._plain = True
        self._withheld: dict[bytes, dict[bytes, int]] | None = None

    def forget(self) -> None:
        """What was remembered may not be what the file holds."""
        self._graph = self._found = self._withheld = None

    def changed(self) -> None:
        """Entries were taken in that may vouch for others."""
        self._found = None

    @property
    def graph(self) -> Graph:
        """The records held."""
        return self._graph or self._load()

    def _load(self) -> Graph:
        graph = self._graph = Graph(self._database, _verify)
        self._plain = True
        for digest, context, item in self._log.member_entries():
            self._note(self.record(item, digest, context, self._original(item)))
        return graph

    @property
    def is_plain(self) -> bool:
        """Whether everything counts that a writer wrote."""
        if self._graph is None:
            self._load()
        return self._plain

    @property
    def found(self) -> Evaluated:
        """What counts of all that is held."""
        if self._found is None:
            graph, log = self.graph, self._log
            heads = {writer: head.seq for writer, head in log.heads().items()}
            own = Own(self._device, log.applied())
            self._found = membership.evaluate(graph, Logs(heads, log.context), own, self._first_epoch)
        return self._found

    @property
    def is_evaluated(self) -> bool:
        """Whether `found` is known without any work."""
        return self._found is not None

    def _original(self, item: Entry) -> Entry:
        """An entry as it was signed, if that matters: at the beginning of a log it does (`Recover`)."""
        if item.seq > 1:
            return item
        return entry.decode(entry.split(self._log.original(self._log.writers[item.writer].number, 1)).body)

    def record(self, item: Entry, digest: bytes, context: Context, original: Entry) -> Record:
        """The membership record in an entry, and as it was signed. Raises `Malformed`."""
        content = membership.decode_content(item.payload())
        said = Said(original.writer, {named.writer: named.seq for named in original.context})
        return Record(item.writer, item.seq, digest, context, content, said)

    def take(self, record: Record) -> None:
        """Take in a record whose entry is about to be held. Raises `EntryRefused` for what nobody should hold."""
        if refusal := self.graph.refusal(record):
            raise EntryRefused(
                f"entry {record.seq} of writer {record.writer.hex()[:12]} changes the group in vain: {refusal}"
            )
        self._note(record)

    def counts(self, item: Entry, context: Context) -> bool:
        """Whether a held entry counts, so that it may be applied."""
        dot = (item.writer, item.seq)
        if item.kind != "member":
            return self.found.may_write(dot, context)
        if isinstance(membership.decode_content(item.payload()), Seen):
            return self.found.may_speak(dot, context)
        return self.found.counts(dot)

    @property
    def withheld(self) -> Mapping[bytes, Context]:
        """The devices that were let in without history: of each log the last entry that one of them is not to read.

        That is what the admin had who let it in, unless it was let in once more since.
        """
        graph = self.graph
        if self._withheld is None:
            self._withheld = {}
            anew: dict[bytes, int] = {}
            for number in bits(graph.admissions):
                content = graph.nodes[number].record.content
                if isinstance(content, Add) and not content.history:
                    device = content.newcomer.device
                    if self._was_let_in_whole(device, number):
                        continue
                    if graph.nodes[number].past & anew.get(device, 0) and self._belonged(device, number):
                        continue  # it goes on with the file that it has
                    anew[device] = anew.get(device, 0) | 1 << number
                    raise_to(self._withheld.setdefault(device, {}), graph.nodes[number].record.context)
        return self._withheld

    def sign_keys(self) -> dict[bytes, bytes]:
        """The keys of all devices that somebody let in, whether that counts or not."""
        contents = (self.graph.nodes[number].record.content for number in bits(self.graph.admissions))
        return {
            content.newcomer.device: content.newcomer.sign_key
            for content in contents
            if isinstance(content, (Add, Recover))
        }

    def _was_let_in_whole(self, device: bytes, number: int) -> bool:
        """Whether a device was let in with its history, and not before that record: by one who knew of it, or apart."""
        nodes = self.graph.nodes
        return any(
            isinstance(content := nodes[later].record.content, Add)
            and content.history
            and not nodes[number].past >> later & 1
            for later in bits(self.graph.about[device] & self.graph.admissions)
        )

    def _belonged(self, device: bytes, number: int) -> bool:
        """Whether a device was a member for the author of a record, who only gave it a role (`Evaluated.change`)."""
        graph, past = self.graph, self.graph.nodes[number].past & ~(1 << number)
        heads = [head for head in graph.heads(device, past) if past >> head & 1]
        return all(graph.nodes[head].gives for head in heads)

    def knows_itself(self) -> bool:
        """Whether this device has applied the record that let it in: before that it says nothing about the group."""
        graph = self.graph
        past = graph.past(self._log.applied())
        return bool(past & graph.about.get(self._device, 0) & graph.admissions)

    def _note(self, record: Record) -> None:
        assert self._graph is not None
        self._graph.add(record)
        self._found = self._withheld = None
        if not isinstance(record.content, Seen):
            self._plain = self._plain and self._is_plain(record.content)

    def _is_plain(self, content: Content) -> bool:
        """Whether the record added last leaves the group plain."""
        assert self._graph is not None
        node = self._graph.nodes[-1]
        if node.void is not None:
            return False
        match content:
            case Founding() | Rotate():
                return True
            case Add(_, False):
                return node.subject is None or self._graph.about[node.subject].bit_count() == 1
            case _:
                return False


def role_counts(role: str | None) -> bool:
    """Whether a device of that role may write."""
    return role in ("admin", "writer")


def _verify(key: bytes, message: bytes, signature: bytes) -> bool:
    return verify_bytes(key, b"", message, signature)
