"""The devices of a database as this file knows them: who belongs, what each holds, and where it was last reached.

The rules of membership are in `membership`; here its records meet SQLite. Whatever writes does so inside the caller's
transaction.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

from crdtlog import catalog, membership
from crdtlog.certificate import belongs_to
from crdtlog.entry import Entry
from crdtlog.errors import EntryRefused
from crdtlog.membership import Newcomer
from crdtlog.state import State
from crdtlog.versions import device_of
from crdtlog.welcome import Welcome


class Member(NamedTuple):
    """A device of the database; `certificate` is DER, `added_by` a device id or None for the founder."""

    device: bytes
    name: str
    role: str
    sign_key: bytes
    receive_key: bytes
    certificate: bytes
    added_by: bytes | None


def members(state: State) -> list[Member]:
    """The devices of the database, this one first."""
    rows = state.connection.execute(
        "SELECT id, name, role, sign_key, receive_key, certificate, added_by FROM crdtlog__device "
        "ORDER BY id != ?, name, id",
        (state.device.id,),
    )
    return [Member(*row) for row in rows]


def add(state: State, newcomer: Newcomer) -> None:
    """Add a device, by an entry of the log; one that belongs already (and lost its file) stays as it is.

    Raises `EntryRefused` if this device may not add others.
    """
    roles = {member.device: member.role for member in members(state)}
    if roles[state.device.id] != "admin":
        raise EntryRefused("this device may not add others", "Run `crdtlog pair` on an admin's device.")
    membership.decode_record(record := membership.encode_record("add", newcomer))
    if newcomer.device in roles:
        return
    put_device(state, newcomer, state.device.id, confirmed=True)
    signed = state.append_own("member", record, summary=f"{newcomer.name} joined as {newcomer.role}")
    own = state.writer
    note_added(state, newcomer.device, own.id, own.seq, signed.hash)
    state.bump()


def welcome(state: State) -> Welcome:
    """What a new device needs to join; it holds the secrets of all epochs."""
    tables = [(tracked.table_id, tracked.table) for tracked in state.tables.values()]
    newcomers = [
        Newcomer(member.name, member.role, member.sign_key, member.receive_key, member.certificate)
        for member in members(state)
    ]
    genesis = cast(bytes, catalog.get_meta(state.connection, "genesis"))
    return Welcome(genesis, state.epoch, dict(state.epochs), newcomers, tables)


# --- membership records -------------------------------------------------------------------------------------------


def put_device(state: State, newcomer: Newcomer, added_by: bytes | None, *, confirmed: bool) -> None:
    """Have a device among the members; `confirmed` when the record that adds it has been applied."""
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


def apply_member(state: State, raw: bytes, item: Entry, hash_: bytes) -> str:
    """Put a received membership record into effect; returns a line for people."""
    _, content = membership.decode_record(raw)
    author = device_of(item.writer)
    if not isinstance(content, bytes):
        check_certificate(content)
    if isinstance(content, bytes):
        if membership.database_id(content) != state.database or item.seq != 1:
            raise EntryRefused("a founding record of another database")
        founder = membership.decode_genesis(content).founder
        if founder.device != author:
            raise EntryRefused("a founding record that its founder did not write")
        put_device(state, founder, None, confirmed=True)
        summary = f"{founder.name} founded the database"
    else:
        role = state.connection.execute("SELECT role FROM crdtlog__device WHERE id = ?", (author,)).fetchone()
        if role is None or role[0] != "admin":
            raise EntryRefused("a device was added by one that may not add devices")
        if _counts(state, content, item, hash_):
            put_device(state, content, author, confirmed=True)
            note_added(state, content.device, item.writer, item.seq, hash_)
        summary = f"{content.name} joined as {content.role}"
    state.bump()
    return summary


def check_certificate(newcomer: Newcomer) -> None:
    """Require that a device's certificate is its own: connections are told apart by certificates."""
    if not belongs_to(newcomer.certificate, newcomer.sign_key):
        raise EntryRefused(f"the certificate of {newcomer.name} holds another key")


def note_added(state: State, device: bytes, writer: bytes, seq: int, hash_: bytes) -> None:
    """Remember which entry's record counts for a device."""
    state.connection.execute(
        "UPDATE crdtlog__device SET add_writer = ?, add_seq = ?, add_hash = ? WHERE id = ?",
        (writer, seq, hash_, device),
    )


def _counts(state: State, newcomer: Newcomer, item: Entry, hash_: bytes) -> bool:
    """Whether an `add` counts: a member's name, role and keys are not changed by adding it again.

    Of two concurrent records for one device, the one in the entry with the lower hash counts on every device.
    """
    before = state.connection.execute(
        "SELECT add_writer, add_seq, add_hash FROM crdtlog__device WHERE id = ? AND confirmed = 1",
        (newcomer.device,),
    ).fetchone()
    if before is None:
        return True
    writer, seq, before_hash = before
    if writer is None:  # the founder
        return False
    author = state.log.writer(item.writer)
    seen = {
        **author.context,
        **{named.writer: named.seq for named in item.context},
        item.writer: item.seq - 1,
    }
    return bool(seen.get(writer, 0) < seq and hash_ < before_hash)


# --- what they hold, and where they are ---------------------------------------------------------------------------


def record_held(state: State, device: bytes, vector: Mapping[bytes, int]) -> None:
    """Remember what another device has acknowledged; never less than before."""
    numbers = {writer.id: writer.number for writer in state.log.writers.values()}
    state.connection.executemany(
        "INSERT INTO crdtlog__held VALUES (?, ?, ?) ON CONFLICT (device, writer) "
        "DO UPDATE SET seq = max(seq, excluded.seq)",
        [(device, numbers[writer], seq) for writer, seq in vector.items() if writer in numbers],
    )
    state.connection.execute("UPDATE crdtlog__device SET seen_ms = ? WHERE id = ?", (state.now_ms(), device))


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
