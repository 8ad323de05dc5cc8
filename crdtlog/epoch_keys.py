"""The epochs' secrets as those need them who seal for others: which there are, which is safe, what came alone."""

from crdtlog import entry, members, membership, rotating, rotation
from crdtlog.device import verify_bytes
from crdtlog.errors import EntryRefused
from crdtlog.membership import Rotate
from crdtlog.membership.graph import bits
from crdtlog.state import State
from crdtlog.versions import device_of, raise_to


class EpochKeys:
    """The secrets of one open file's epochs."""

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def meeting(self) -> bytes:
        """The key by which members recognise one another on a local network (32 bytes)."""
        return members.meeting_key(self._state)

    def held(self) -> dict[bytes, bytes]:
        """All secrets held: the current epoch's first, then the deepest."""
        depths: dict[bytes, int] = {}
        if rotating.rotations(self._state):
            depths = {
                name: max(epoch.depth for epoch in those)
                for name, those in self._state.group.found.epochs.items()
            }
        order = sorted(
            self._state.epochs, key=lambda epoch: (epoch != self._state.epoch, -depths.get(epoch, 0), epoch)
        )
        return {epoch: self._state.epochs[epoch] for epoch in order}

    @property
    def is_safe(self) -> bool:
        """Whether the epoch that is written under is known to nobody who was removed, as far as is known here."""
        return (
            self._state.group.is_plain
            or self._state.group.found.writing_epoch([self._state.epoch]) == self._state.epoch
        )

    def farewells(self) -> dict[bytes, dict[bytes, int]]:
        """What belongs into the mailbox of an epoch that others follow: all until the rotation that left it behind.

        A member that missed the rotation finds it there, with everything that it needs to believe it. Only where that
        holds nothing that was written under an epoch beside: who was left out of that may still read here.
        """
        self._state.refresh()
        nodes = self._state.group.graph.nodes
        before: dict[bytes, set[bytes]] = {}
        rotations = [(node, node.record.content) for node in nodes if isinstance(node.record.content, Rotate)]
        for _, content in rotations:
            above = before.setdefault(content.epoch, set())
            above |= {content.epoch, *content.parents}
            above |= set[bytes]().union(*(before.get(parent, set()) for parent in content.parents))
        found: dict[bytes, dict[bytes, int]] = {}
        for node, content in rotations:
            known = {
                other.epoch
                for number in bits(node.past)
                if isinstance(other := nodes[number].record.content, Rotate)
            }
            if node.void is not None or len(content.parents) != 1 or not known <= before[content.epoch]:
                continue
            until = found.setdefault(content.parents[0], {})
            for writer, seq in (*node.record.context.items(), (node.record.writer, node.record.seq)):
                until[writer] = max(seq, until.get(writer, 0))
        return found

    def spared(self) -> dict[bytes, dict[bytes, int]]:
        """By epoch, of each log the last entry that does not belong where all who know its secret can read it.

        Some of them were let in without history; or this device was, and does not have these entries as they were
        signed.
        """
        self._state.refresh()
        state, found = self._state, {}
        for epoch in state.epochs if state.group.withheld or state.log.given else ():
            vector = dict(state.log.given)
            for device, withheld in state.group.withheld.items():
                if device in members.recipients(state, epoch):
                    raise_to(vector, withheld)
            if vector:
                found[epoch] = vector
        return found

    def own_rotation(self) -> bytes | None:
        """The signed entry by which this device began the current epoch; None if it was another, or the first one."""
        self._state.refresh()
        for node in self._state.group.graph.nodes:
            record = node.record
            is_own = device_of(record.writer) == self._state.device.id
            if is_own and isinstance(record.content, Rotate) and record.content.epoch == self._state.epoch:
                return self._state.log.signed(self._state.log.writers[record.writer].number, record.seq)
        return None

    def learn(self, signed: bytes) -> bool:
        """Learn the secret of an epoch from a member's rotation that came alone, ahead of what it builds on.

        It is not believed before it comes again in its log; but what is sealed under it can be read. Returns whether it
        was news. Raises `Malformed`, `EntryRefused` for what no member said.
        """
        parts = entry.split(signed)
        item = entry.decode(parts.body)
        member = next((m for m in members.members(self._state) if m.device == device_of(item.writer)), None)
        if item.database != self._state.database or item.kind != "member" or member is None:
            raise EntryRefused("what should be a member's rotation is none")
        if not verify_bytes(member.sign_key, entry.SIGN_DOMAIN, parts.body, parts.signature):
            raise EntryRefused("a rotation has a wrong signature")
        content = membership.decode_content(item.payload())
        if not isinstance(content, Rotate):
            raise EntryRefused("what should be a member's rotation is another record")
        state = self._state
        found = rotation.secrets_from(state.database, state.device, [content], state.epochs)
        return rotating.keep(state, found)
