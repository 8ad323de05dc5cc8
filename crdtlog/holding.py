"""Hold: one signed entry is verified and stored, and merged at once if nothing can be said against it.

An entry is authenticated, must continue its log and stand on what is held, and takes effect by its kind if it counts,
all in one transaction (log invariants L1 to L4).
"""

from collections.abc import Mapping
from typing import cast

from crdtlog import changes, entry, members, membership, rotating, tracking
from crdtlog.apply import apply_data
from crdtlog.device import verify_bytes
from crdtlog.entry import Entry, Signed
from crdtlog.errors import EntryRefused
from crdtlog.log import Writer
from crdtlog.membership import Recover, Rotate
from crdtlog.state import State
from crdtlog.versions import device_of

#: The summary of an entry that is held and not merged.
WAITING = "held, not counted"


def accept_entry(state: State, blob: bytes) -> int | None:
    """Verify and store one entry in the caller's transaction; merge it if it counts and nothing else must come first.

    Returns its rows, or None when it was held. What is only held now, `settling.settle` merges once it can.
    """
    signed = entry.split(blob)
    item = entry.decode(signed.body)
    _authenticate(state, item, signed)
    known = state.log.writers.get(item.writer)
    if known is not None and not state.log.check_succession(item, signed.hash, known):
        return None
    writer = state.log.writer(item.writer)
    if known is None and not state.log.check_succession(item, signed.hash, writer):
        return None
    state.log.check_context(item)
    context = state.log.context_of(item)
    if item.kind == "member":
        members.take(state, record := state.group.record(item, signed.hash, context))
        if isinstance(record.content, Rotate):
            rotating.unlock(state)
    rows, summary = 0, WAITING
    applied = _may_be_merged(state, item, writer, context)
    if applied:
        rows, summary = effect(state, item, state.log.writer(item.writer).context)
        writer = state.log.writer(item.writer)
    now = state.now_ms()
    state.log.append(item, signed, writer, received_ms=now, rows=rows, summary=summary, applied=applied)
    if not applied or (item.kind == "member" and not state.group.is_plain):
        state.must_settle = True
    return rows


def _may_be_merged(state: State, item: Entry, writer: Writer, context: Mapping[bytes, int]) -> bool:
    """Whether an entry can be merged at once: all before it is, and it counts whatever else is held.

    False is no judgement: it may count once all is looked at.
    """
    if writer.applied != item.seq - 1 or state.must_settle:
        return False
    if any(not state.log.is_applied(named.writer, named.seq) for named in item.context):
        return False
    group = state.group
    if group.is_plain:
        return item.kind == "member" or state.role(device_of(item.writer)) in ("admin", "writer")
    # What has counted once counts whatever else is taken in, but for new records (which have all settled first).
    return (
        item.kind != "member"
        and group.is_evaluated
        and writer.seq > 0
        and group.found.may_write((item.writer, item.seq), context)
    )


def _authenticate(state: State, item: Entry, signed: Signed) -> None:
    if item.database != state.database:
        raise EntryRefused("an entry of another database")
    key = _key_of(state, item)
    if not verify_bytes(key, entry.SIGN_DOMAIN, signed.body, signed.signature):
        raise EntryRefused(f"entry {item.seq} of writer {item.writer.hex()[:12]} has a wrong signature")


def _key_of(state: State, item: Entry) -> bytes:
    """The key that an entry must be signed with."""
    author = device_of(item.writer)
    row = state.connection.execute("SELECT sign_key FROM crdtlog__device WHERE id = ?", (author,)).fetchone()
    if row is not None:
        return cast(bytes, row[0])
    if item.kind == "member" and item.seq == 1:
        content = membership.decode_content(item.payload())
        if isinstance(content, Recover) and content.newcomer.device == author:
            return content.newcomer.sign_key
    raise EntryRefused(f"an entry by a device that is not a member ({author.hex()[:12]})")


def effect(state: State, item: Entry, before: Mapping[bytes, int]) -> tuple[int, str]:
    """What an entry does, after its log's context `before`; returns its rows, and a line for people."""
    match item.kind:
        case "data":
            rows, counts = apply_data(state, item, before)
            return rows, changes.summarise(counts)
        case "member":
            summary = members.effect(state, item)
            rotating.choose(state)
            return 0, summary
        case "schema":
            return 0, tracking.apply_schema(state, item, before)
        case _:
            return 0, item.kind
