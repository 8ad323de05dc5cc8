"""The devices of a database as this file knows them: who belongs, what each holds, and where it was last reached.

The rules of membership are in `membership`, what they find in `group`; here it meets SQLite. Whatever writes does so
inside the caller's transaction.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple, cast

from crdtlog import catalog, membership
from crdtlog.certificate import belongs_to, certificate_of
from crdtlog.device import Device, new_writer
from crdtlog.entry import Entry
from crdtlog.errors import EntryRefused, Usage
from crdtlog.membership import Add, Content, Founding, Newcomer, Record, Recover, Remove, Role, Rotate, Seen
from crdtlog.recovery import RecoveryKey
from crdtlog.rotation import discovery_key
from crdtlog.state import State
from crdtlog.versions import device_of
from crdtlog.welcome import Welcome

#: So many logs of a device are known of which nothing is held.
_MAX_EMPTY_LOGS = 8


class Member(NamedTuple):
    """A device of the database; `certificate` is DER, `added_by` a device id or None for the founder.

    One that was removed has the role None, and who removed it as `removed_by`.
    """

    device: bytes
    name: str
    role: str | None
    sign_key: bytes
    receive_key: bytes
    certificate: bytes
    added_by: bytes | None
    removed_by: bytes | None = None


def members(state: State, *, removed: bool = False) -> list[Member]:
    """The devices of the database, this one first; those that were `removed`, too, at the end."""
    rows = state.connection.execute(
        "SELECT id, name, role, sign_key, receive_key, certificate, added_by, removed_by FROM crdtlog__device "
        "WHERE role IS NOT NULL OR ? ORDER BY role IS NULL, id != ?, name, id",
        (removed, state.device.id),
    )
    return [Member(*row) for row in rows]


def welcome(state: State, device: bytes | None = None) -> Welcome:
    """What a new device needs to join: the secrets of all epochs, or of those that it may know (see `add`)."""
    epochs, epoch = dict(state.epochs), state.epoch
    is_anew = device is not None and device in state.group.withheld
    if is_anew:
        epochs = {name: secret for name, secret in epochs.items() if device in recipients(state, name)}
        epoch = state.group.found.writing_epoch(epochs) or next(iter(epochs))
    tables = [(tracked.table_id, tracked.table) for tracked in state.tables.values()]
    newcomers = [
        Newcomer(member.name, member.role, member.sign_key, member.receive_key, member.certificate)
        for member in members(state)
        if member.role is not None
    ]
    genesis = cast(bytes, catalog.get_meta(state.connection, "genesis"))
    first = cast(bytes, catalog.get_meta(state.connection, "first_epoch"))
    return Welcome(genesis, first, epoch, epochs, newcomers, tables, not is_anew, meeting_key(state))


def recipients(state: State, epoch: bytes) -> frozenset[bytes]:
    """The devices that an epoch's secret was handed to by its record; none for the first one."""
    found = state.group.found.epochs.get(epoch, ())
    return frozenset.intersection(*(each.recipients for each in found)) if found else frozenset()


def meeting_key(state: State) -> bytes:
    """The key by which devices of this database recognise one another on a local network (32 bytes)."""
    first = state.epochs.get(cast(bytes, catalog.get_meta(state.connection, "first_epoch")))
    return discovery_key(first) if first is not None else state.keys.meeting()


# --- changing the group -------------------------------------------------------------------------------------------


def add(state: State, newcomer: Newcomer, note: str = "", *, history: bool = True) -> None:
    """Let a device in, by an entry of the log; one that belongs already (and lost its file) stays as it is.

    `note` goes into that entry's line in this file's log, and no further. Without `history` it is not to read what was
    written before: the caller rotates. Raises `EntryRefused` if this device may not add others, or not so.
    """
    _require_admin(state, "add others", "pair")
    if history and state.log.given:
        raise EntryRefused(
            "this device was let in without history, and has none to hand on",
            "Run `crdtlog pair` on a device that has it, or pair with --no-history.",
        )
    if state.role(newcomer.device) is not None:
        if not history and newcomer.device not in state.group.withheld:
            raise EntryRefused(
                f"{newcomer.name} belongs already, and has read what there is",
                "To let it join once more: pair without --no-history.",
            )
        return
    content = Add(newcomer) if state.group.is_plain else state.group.found.addition(newcomer)
    if content is not None:
        remark = f" ({note})" if note else ""
        how = "" if history else ", without history"
        say(
            state,
            content._replace(history=history),
            f"{newcomer.name} joined as {newcomer.role}{how}{remark}",
        )


def change_role(state: State, device: bytes, role: str) -> None:
    """Have a member do more, or less; what it is already is said once more if admins disagree about it.

    Raises `EntryRefused`, `Usage` (no member, the last admin).
    """
    _require_admin(state, "change roles", "role")
    member = _member(state, device)
    if role not in membership.ROLES:
        raise Usage(f"{role!r} is no role", f"Roles are: {', '.join(membership.ROLES)}.")
    if member.role == role and not _is_disputed(state, device):
        return
    if member.role == "admin" and role != "admin":
        _require_another_admin(state, device)
    content = Role(device, role) if state.group.is_plain else state.group.found.change(device, role)
    if isinstance(content, Add):
        content = content._replace(history=device not in state.group.withheld)
    say(state, content, f"{member.name} is {role} now")


def remove(state: State, device: bytes) -> None:
    """Have a device belong no more; a member may remove itself. Raises `EntryRefused`, `Usage`."""
    if device != state.device.id:
        _require_admin(state, "remove others", "remove")
    member = _member(state, device)
    if member.role == "admin" and len(members(state)) > 1:
        _require_another_admin(state, device)
    say(
        state,
        Remove(device),
        f"{member.name} was removed" if device != state.device.id else f"{member.name} left",
    )


def recover(state: State, key: RecoveryKey) -> None:
    """Become an admin by the recovery key: what the first entry of a new log says. Raises `Usage` for another key."""
    genesis = state.founding
    if genesis.recovery is None:
        raise Usage(
            "this database was founded without a recovery key",
            "An admin can let devices in: crdtlog pair FILE",
        )
    if genesis.recovery != key.public:
        raise Usage(
            "these are the words of another database's recovery key",
            "Look for those that `crdtlog init` showed for this one.",
        )
    state.become(new_writer(state.device))
    own = state.writer
    newcomer = newcomer_of(state.device, "admin")
    context = {named.writer: named.seq for named in state.log.next_context(own)}
    message = membership.recovery_message(
        state.database, newcomer, own.id, membership.context_digest(context)
    )
    say(state, Recover(newcomer, key.sign(message)), f"{newcomer.name} is admin, by the recovery key")


def newcomer_of(device: Device, role: str) -> Newcomer:
    """How records name this device."""
    public = device.public
    return Newcomer(device.name, role, public.sign_key, public.receive_key, certificate_of(device))


def say(state: State, content: Content, summary: str) -> None:
    """Write a membership record into the log, and put it into effect.

    Raises `EntryRefused` before this device has the record that let it in: nobody would heed it.
    """
    if not isinstance(content, Recover) and not state.group.knows_itself():
        raise EntryRefused(
            "this device cannot change the group before its first exchange with another",
            f"Run: crdtlog sync {state.path}",
        )
    state.append_own("member", membership.encode_content(content), summary=summary)
    put_in_effect(state, content, state.device.id)


def _require_admin(state: State, what: str, command: str) -> None:
    if state.role(state.device.id) != "admin":
        raise EntryRefused(f"this device may not {what}", f"Run `crdtlog {command}` on an admin's device.")


def _require_another_admin(state: State, device: bytes) -> None:
    if not any(member.role == "admin" and member.device != device for member in members(state)):
        raise Usage(
            "the last admin cannot go or be made less: nobody could let devices in any more",
            "Make another device an admin first: crdtlog role FILE DEVICE admin",
        )


def _is_disputed(state: State, device: bytes) -> bool:
    return not state.group.is_plain and any(
        conflict.device == device for conflict in state.group.found.conflicts
    )


def _member(state: State, device: bytes) -> Member:
    for member in members(state):
        if member.device == device:
            return member
    raise Usage(f"device {device.hex()[:12]} is no member", f"See: crdtlog devices {state.path}")


# --- membership records -------------------------------------------------------------------------------------------


def take(state: State, record: Record) -> None:
    """Take in a record of an entry that is about to be held. Raises `EntryRefused`."""
    match record.content:
        case Add(newcomer) | Recover(newcomer):
            check_certificate(newcomer)
        case Founding():
            check_certificate(record.content.genesis.founder)
    state.group.take(record)


def check_certificate(newcomer: Newcomer) -> None:
    """Require that a device's certificate is its own: connections are told apart by certificates."""
    if not belongs_to(newcomer.certificate, newcomer.sign_key):
        raise EntryRefused(f"the certificate of {newcomer.name} holds another key")


def effect(state: State, item: Entry) -> str:
    """Put a received membership record that counts into effect; returns a line for people."""
    content = membership.decode_content(item.payload())
    author = device_of(item.writer)
    put_in_effect(state, content, author)
    match content:
        case Founding():
            return f"{content.genesis.founder.name} founded the database"
        case Add(newcomer):
            how = "" if content.history else ", without history"
            return f"{newcomer.name} joined as {newcomer.role}{how}"
        case Recover(newcomer):
            return f"{newcomer.name} is admin, by the recovery key"
        case Role(device, role):
            return f"{state.device_name(device)} is {role} now"
        case Remove(device):
            return f"{state.device_name(device)} " + ("left" if device == author else "was removed")
        case Rotate():
            return "new keys for all members"
        case Seen():
            return "told what it had"


def put_in_effect(state: State, content: Content | None = None, author: bytes = b"") -> None:
    """Have the devices as the records held tell, of which `content` is the last taken in."""
    if not state.group.is_plain:
        _put_found(state)
        return
    match content:
        case Founding():
            put_device(state, content.genesis.founder, None, confirmed=True)
            state.bump()
        case Add(newcomer) if not _is_confirmed(state, newcomer.device):
            put_device(state, newcomer, author, confirmed=True)
            state.bump()


def _put_found(state: State) -> None:
    changed = False
    known = {member.device: member for member in members(state, removed=True)}
    for device, standing in state.group.found.members.items():
        newcomer = standing.newcomer
        now = Member(
            device,
            newcomer.name,
            standing.role,
            newcomer.sign_key,
            newcomer.receive_key,
            newcomer.certificate,
            standing.added_by,
            standing.removed_by,
        )
        if known.get(device) != now:
            put_device(state, newcomer, standing.added_by, confirmed=True)
            state.connection.execute(
                "UPDATE crdtlog__device SET role = ?, removed_by = ? WHERE id = ?",
                (standing.role, standing.removed_by, device),
            )
            changed = True
    for device, member in known.items():
        # Let in by somebody who could not, as it has turned out.
        is_told_of = bool(state.group.graph.about.get(device))
        if is_told_of and member.role is not None and device not in state.group.found.members:
            state.connection.execute("UPDATE crdtlog__device SET role = NULL WHERE id = ?", (device,))
            changed = True
    if changed:
        state.bump()


def put_device(state: State, newcomer: Newcomer, added_by: bytes | None, *, confirmed: bool) -> None:
    """Have a device among the members; `confirmed` when the record that adds it is held."""
    state.connection.execute(
        "INSERT INTO crdtlog__device (id, name, role, sign_key, receive_key, certificate, added_by, confirmed) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name, role = excluded.role, "
        "receive_key = excluded.receive_key, certificate = excluded.certificate, added_by = excluded.added_by, "
        "confirmed = max(confirmed, excluded.confirmed)",
        (
            newcomer.device,
            newcomer.name,
            newcomer.role,
            newcomer.sign_key,
            newcomer.receive_key,
            newcomer.certificate,
            added_by,
            int(confirmed),
        ),
    )


def _is_confirmed(state: State, device: bytes) -> bool:
    row = state.connection.execute("SELECT confirmed FROM crdtlog__device WHERE id = ?", (device,)).fetchone()
    return bool(row and row[0])


# --- what they hold, and where they are ---------------------------------------------------------------------------


def record_held(state: State, device: bytes, vector: Mapping[bytes, int]) -> None:
    """Remember what another device has acknowledged; never less than before.

    That somebody has written something which is not here yet is remembered, too: of a few new logs of each device.
    """
    _begin_logs(state, vector)
    numbers = {writer.id: writer.number for writer in state.log.writers.values()}
    state.connection.executemany(
        "INSERT INTO crdtlog__held VALUES (?, ?, ?) ON CONFLICT (device, writer) "
        "DO UPDATE SET seq = max(seq, excluded.seq)",
        [(device, numbers[writer], seq) for writer, seq in vector.items() if writer in numbers],
    )
    state.connection.execute("UPDATE crdtlog__device SET seen_ms = ? WHERE id = ?", (state.now_ms(), device))


def _begin_logs(state: State, vector: Mapping[bytes, int]) -> None:
    news = [name for name in vector if name not in state.log.writers]
    if not news:
        return
    empty = Counter(device_of(writer.id) for writer in state.log.writers.values() if writer.seq == 0)
    known = {member.device for member in members(state, removed=True)}
    for name in news:
        device = device_of(name)
        if device in known and empty[device] < _MAX_EMPTY_LOGS:
            empty[device] += 1
            state.log.writer(name)


def held(state: State) -> dict[bytes, dict[bytes, int]]:
    """What each other device has acknowledged: device → writer → sequence number."""
    result: dict[bytes, dict[bytes, int]] = {}
    for device, number, seq in state.connection.execute("SELECT device, writer, seq FROM crdtlog__held"):
        result.setdefault(device, {})[state.log.ids[number]] = seq
    return result


def record_address(state: State, device: bytes, address: str, seen_ms: int) -> None:
    """Remember that a device was reached at `host:port`; the last few are kept."""
    state.connection.execute(
        "INSERT OR REPLACE INTO crdtlog__address VALUES (?, ?, ?)", (device, address, seen_ms)
    )
    state.connection.execute(
        "DELETE FROM crdtlog__address WHERE device = ? AND address NOT IN "
        "(SELECT address FROM crdtlog__address WHERE device = ? ORDER BY seen_ms DESC LIMIT 8)",
        (device, device),
    )


def addresses(state: State) -> dict[bytes, list[str]]:
    """Where other devices were last reached, `host:port`, latest first."""
    result: dict[bytes, list[str]] = {}
    for device, address in state.connection.execute(
        "SELECT device, address FROM crdtlog__address ORDER BY seen_ms DESC"
    ):
        result.setdefault(device, []).append(address)
    return result
