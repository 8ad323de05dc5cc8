"""Hold: one signed entry is verified and stored, and merged at once if nothing can be said against it.

An entry is authenticated, must continue its log and stand on what is held, and takes effect by its kind if it counts,
all in one transaction (log invariants L1 to L4).
"""

from collections.abc import Mapping
from typing import cast

from crdtlog import changes, entry, forks, members, membership, naming, proof, rotating, tracking
from crdtlog.apply import apply_data
from crdtlog.device import verify_bytes
from crdtlog.entry import Entry, Signed
from crdtlog.errors import EntryRefused
from crdtlog.membership import Recover, Rotate
from crdtlog.state import State
from crdtlog.versions import device_of
from crdtlog.writers import Writer

#: The summary of an entry that is held and not merged.
WAITING = "held, not counted"


def accept_entry(state: State, blob: bytes) -> int | None:
    """Verify and store one entry in the caller's transaction; merge it if it counts and nothing else must come first.

    Returns its rows, or None when it was held. What is only held now, `settling.settle` merges once it can. An entry
    that proves a log to be forked may give other names to what is held: all of that is taken in again (`forks`).
    """
    signed, beside, item = read_entry(state, blob)
    if item.kind == entry.SNAPSHOT:
        return None  # for a device that has nothing yet
    log = forks.place(state.log, item, signed.hash)
    if log is None or (beside is not None and not forks.is_known(state.log, item, beside.hash)):
        _learn(state, item, signed, beside)
        log = forks.place(state.log, item, signed.hash)
    assert log is not None, "an entry at a fork has no name"
    if forks.is_held(state.log, log, item, signed.hash):
        return None
    state.log.check_succession(item, log)
    return _take_in(state, naming.read(state.log, item, log), item, signed, log.id)


def accept_proof(state: State, blob: bytes) -> int | None:
    """Know that a log is forked by an entry that stands beside one held, in the caller's transaction.

    The entry itself is not taken in: it may build on what is not held. Returns 0, or None if the entry proves nothing.
    """
    signed, beside, item = read_entry(state, blob)
    if item.kind == entry.SNAPSHOT or forks.place(state.log, item, signed.hash) is not None:
        return None
    _learn(state, item, signed, beside)
    return 0


def read_entry(state: State, blob: bytes) -> tuple[Signed, Signed | None, Entry]:
    """A signed entry with what proves a fork, if that comes with it, both verified; and what it says.

    Raises `EntryRefused`, `Malformed`, `TooLarge`.
    """
    signed, beside = proof.split(blob)
    item = entry.decode(signed.body)
    authenticate(state, item, signed)
    if beside is not None:
        _check_proof(state, item, signed, beside)
    return signed, beside, item


def _learn(state: State, item: Entry, signed: Signed, beside: Signed | None) -> None:
    with state.unhurried():
        for old in forks.learn(state, item, signed, beside):
            accept_entry(state, old.signed)


def _take_in(state: State, item: Entry, original: Entry, signed: Signed, name: bytes) -> int:
    """Store and perhaps merge the next entry of a log, which says in our names what its author signed in others."""
    context = state.log.context_of(item)
    if item.kind == "member":
        record = state.group.record(item, signed.hash, context, original)
        members.take(state, record)
        if isinstance(record.content, Rotate):
            rotating.unlock(state)
    rows, summary = 0, WAITING
    applied = _may_be_merged(state, item, state.log.writer(name), context)
    if applied:
        rows, summary = effect(state, item, state.log.writer(name).context)
    is_same = item is original
    state.log.append(
        item,
        signed if is_same else signed._replace(body=entry.encode(item)),
        state.log.writer(name),
        received_ms=state.now_ms(),
        rows=rows,
        summary=summary,
        applied=applied,
        original=None if is_same else signed.bytes(),
    )
    if not applied or (item.kind == "member" and not state.group.is_plain):
        state.must_settle = True
    return rows


def _check_proof(state: State, item: Entry, signed: Signed, beside: Signed) -> None:
    other = entry.decode(beside.body)
    authenticate(state, other, beside)
    if (other.writer, other.seq, other.previous) != (item.writer, item.seq, item.previous):
        raise EntryRefused("an entry beside another one that it does not stand beside")
    if beside.hash >= signed.hash:
        raise EntryRefused("an entry beside another one whose name it does not take")


def _may_be_merged(state: State, item: Entry, writer: Writer, context: Mapping[bytes, int]) -> bool:
    """Whether an entry can be merged at once: all before it is, and it counts whatever else is held.

    False is no judgement: it may count once all is looked at.
    """
    if writer.applied != item.seq - 1 or state.must_settle:
        return False
    if any(not state.log.is_applied(named.writer, named.seq) for named in item.context):
        return False
    if item.seq == writer.first and not all(state.log.is_applied(*dot) for dot in context.items()):
        return False  # what stands before a fork is another log's
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


def authenticate(state: State, item: Entry, signed: Signed) -> None:
    """Require that a device of this database signed an entry. Raises `EntryRefused`."""
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
    if (key := state.group.sign_keys().get(author)) is not None:
        return key  # let in by somebody who could not, so that nothing of it counts
    founder = state.founding.founder
    if founder.device == author:  # removed before this device joined: a welcome names members alone
        return founder.sign_key
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
