"""Of which rows a device without history needs earlier values all the same, to merge what is still on its way.

A delete or an overwriting is *settled* when every member is known to have it, and all that they wrote before is
here: from then on no entry can arrive that was written without it. What it replaced is needed no more, neither by a row
that a concurrent write brings back nor by a text that somebody goes on editing. Rows that have changed since are
*unsettled* and go along with all that the log says of them. (Causal stability: Baquero, Almeida and Shoker 2017.)
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from crdtlog import entry, members
from crdtlog.errors import CrdtlogError
from crdtlog.membership import Remove
from crdtlog.membership.graph import bits
from crdtlog.payload import decode_data
from crdtlog.rows import document_key
from crdtlog.state import State
from crdtlog.values import Value, normal_key
from crdtlog.versions import device_of, raise_to

#: Rows by their table's id and names (see `rows.document_key`).
Names = dict[bytes, set[Value]]


def settled(state: State) -> dict[bytes, int]:
    """Of each log the last applied entry that every member has, all that they wrote before they had it being here."""
    found = state.log.applied()
    for vector in acknowledged(state).values():
        found = {writer: min(seq, vector.get(writer, 0)) for writer, seq in found.items()}
    raise_to(found, state.log.given)  # that was settled when it came
    return found


def acknowledged(state: State, *, is_given: bool = True) -> dict[bytes, dict[bytes, int]]:
    """What each other member has, of all that is applied here, whatever it writes next, or vouches for.

    So has one that was removed, as long as members may not know that.
    With `is_given`, who was let in without history counts as having what it will have been given before it writes.
    """
    log, told = state.log, members.held(state)
    # Whoever is known to have written what is not here may have written it without knowing what it has now.
    ahead = {
        device_of(writer)
        for vector in told.values()
        for writer, seq in vector.items()
        if not log.is_applied(writer, seq)
    }
    found: dict[bytes, dict[bytes, int]] = {}
    staying: list[dict[bytes, int]] = []
    for member in members.members(state, removed=True):
        is_over = member.role is None and _all_know(state, member.device, staying)
        if member.device == state.device.id or (is_over and member.device not in ahead):
            continue
        # One without history begins with what the admin had who let it in, and writes nothing before.
        known = dict(state.group.withheld.get(member.device, {})) if is_given else {}
        for writer in log.writers.values():
            if device_of(writer.id) == member.device and writer.applied >= writer.first:
                raise_to(known, {**log.context(writer.id, writer.applied), writer.id: writer.applied})
        if member.device not in ahead:
            raise_to(known, told.get(member.device, {}))
        found[member.device] = known
        if member.role is not None:
            staying.append(known)
    return found


def _all_know(state: State, removed: bytes, vectors: Iterable[Mapping[bytes, int]]) -> bool:
    """Whether who has those entries knows that a device was removed; until then it may vouch for what that wrote."""
    nodes = state.group.graph.nodes
    records = [nodes[number].record for number in bits(state.group.graph.about.get(removed, 0))]
    removals = [(each.writer, each.seq) for each in records if isinstance(each.content, Remove)]
    return all(vector.get(writer, 0) >= seq for vector in vectors for writer, seq in removals)


class Unsettled(NamedTuple):
    """How many rows are not settled, and the devices that may not have their last changes."""

    rows: int
    devices: list[bytes]


def unsettled(state: State) -> Unsettled:
    """What is not settled now."""
    applied = state.log.applied()
    behind = [
        device
        for device, vector in acknowledged(state).items()
        if any(seq > vector.get(writer, 0) for writer, seq in applied.items())
    ]
    devices = [device for device in behind if state.role(device) is not None] or behind
    rows = unsettled_rows(state, settled(state))
    return Unsettled(sum(map(len, rows.values())), devices)


def unsettled_rows(state: State, frontier: Mapping[bytes, int]) -> Names:
    """The rows that entries behind `settled` wrote, and those whose documents wait for patches."""
    found: Names = {tracked.table_id: _waiting(state, tracked.number) for tracked in state.tables.values()}
    for item in _unsettled(state, frontier):
        try:
            sections = decode_data(item.payload(), item.first_stamp, item.last_stamp).sections
        except CrdtlogError:
            continue  # it was only held
        for section in sections:
            tracked = state.tables.get(section.table)
            if tracked is not None:
                keys = (normal_key(section.key(row), tracked.collations) for row in range(section.rows))
                found[section.table] |= {document_key(tracked, key) for key in keys}
    return found


def _waiting(state: State, table: int) -> set[Value]:
    sql = "SELECT key, aside FROM crdtlog__merge WHERE tab = ? AND problem IS NOT NULL"
    return {name for name, _ in state.connection.execute(sql, (table,))}


def _unsettled(state: State, frontier: Mapping[bytes, int]) -> Iterator[entry.Entry]:
    for writer in list(state.log.writers.values()):
        for (signed,) in state.connection.execute(
            "SELECT signed FROM crdtlog__log WHERE writer = ? AND seq > ? AND kind = 'data' ORDER BY seq",
            (writer.number, frontier.get(writer.id, 0)),
        ):
            yield entry.decode(entry.split(signed).body)
