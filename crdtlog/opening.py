"""Opening a database: found a new one in a file, join one that others founded, or open what is there.

Order of durable steps: the epoch's secret goes to the home first, then the file's tables commit as a whole; a crash
between the two leaves an unused secret and an untouched file.
"""

import secrets
import sqlite3
from pathlib import Path

from crdtlog import catalog, members, membership, tracking
from crdtlog.connection import open_file, switch_to_wal, translated
from crdtlog.device import KEY_FILE_NAME, Device, Home, load_device, new_writer
from crdtlog.epochs import Keys
from crdtlog.errors import KeysUnusable, NotInitialised, PairingFailed, Unsupported, Usage, WrongDevice
from crdtlog.log import Log
from crdtlog.membership import Founding, Genesis
from crdtlog.recovery import PUBLIC_BYTES, SEED_BYTES, RecoveryKey, is_public
from crdtlog.rotation import new_secret
from crdtlog.state import State
from crdtlog.welcome import Welcome


def new_recovery() -> RecoveryKey:
    """A new recovery key: its `words` are for paper, its `public` for `crdtlog.open` when that makes a database.

    Nothing keeps it. Show the words once, before anything else can go wrong; see docs/reference/python.md.
    """
    return RecoveryKey(secrets.token_bytes(SEED_BYTES))


def open_state(
    path: Path, home: Home, *, name: str | None, create: bool, recovery: bytes | None = None
) -> State:
    """The state of the database in a file, founded first if the file has none and `create` is given.

    Raises `NotInitialised`, `WrongDevice`, `Unsupported`, `Usage`, and what `open_file` and `load_device` raise.
    """
    if recovery is not None and not is_public(recovery):
        raise Usage(
            f"the public half of a recovery key has {PUBLIC_BYTES} bytes",
            "Give recovery=key.public of the key that crdtlog.new_recovery() made, or of none.",
        )
    connection = open_file(path, create=create)
    try:
        with translated(path):
            present = catalog.exists(connection)
        if not present:
            if not create:
                raise NotInitialised(f"{path} is not a crdtlog database yet", f"Run: crdtlog init {path}")
            device = load_device(home.prepare(), name=name)
            _found(connection, path, device, home, recovery)
        else:
            _check(connection, path)
            device = _own_device(path, home)
        database = catalog.get_meta(connection, "database")
        assert isinstance(database, bytes)
        _check_device(connection, path, device, home)
        return State(connection, path, device, Keys(home, database))
    except BaseException:
        connection.close()
        raise


def _check(connection: sqlite3.Connection, path: Path) -> None:
    version = catalog.get_meta(connection, "format")
    if version in (1, 2):
        with translated(path):
            connection.execute("BEGIN IMMEDIATE")
            try:
                if catalog.get_meta(connection, "format") == version:  # another program may have been faster
                    catalog.upgrade(connection)
                    if version < 3:
                        Log(connection).keep_member_contexts()
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
    elif version != catalog.FORMAT:
        raise Unsupported(
            f"{path} was written by another version of crdtlog (format {version}, this one reads {catalog.FORMAT})",
            "Use the newer program on this device.",
        )


def _own_device(path: Path, home: Home) -> Device:
    """This home's device, for a file that some device's home made. Raises what `load_device` raises."""
    try:
        return load_device(home, create=False)
    except KeysUnusable as error:
        if (home.keys / KEY_FILE_NAME).exists():
            raise
        raise KeysUnusable(
            f"there are no device keys in {home.keys}, and {path} belongs to a device",
            "Set CRDTLOG_HOME to the home that this file was made with. If that is lost, or this a copy: any program "
            "can read the rows; this device joins with a file of another name: crdtlog join CODE FILE",
        ) from error


def _check_device(connection: sqlite3.Connection, path: Path, device: Device, home: Home) -> None:
    if catalog.get_meta(connection, "device") != device.id:
        raise WrongDevice(
            f"{path} belongs to another device than the keys in {home.keys}",
            "A copied file cannot be shared by two devices: on the new one, run `crdtlog join CODE FILE` with a code "
            "from `crdtlog pair`; or set CRDTLOG_HOME to the home that this file was made with.",
        )


def _prepare(
    connection: sqlite3.Connection,
    device: Device,
    genesis: bytes,
    epoch: bytes,
    first_epoch: bytes,
) -> None:
    """Create the internal tables, inside the caller's transaction."""
    catalog.create(connection)
    settings: dict[str, object] = {
        "format": catalog.FORMAT,
        "database": membership.database_id(genesis),
        "genesis": genesis,
        "device": device.id,
        "writer": new_writer(device),
        "epoch": epoch,
        "first_epoch": first_epoch,
        "seed": secrets.randbits(62),
        "generation": 0,
        "drains": 0,
    }
    for name, value in settings.items():
        catalog.set_meta(connection, name, value)


def _found(
    connection: sqlite3.Connection, path: Path, device: Device, home: Home, recovery: bytes | None
) -> None:
    founder = members.newcomer_of(device, "admin")
    genesis = membership.encode_genesis(Genesis(secrets.token_bytes(16), founder, recovery))
    epoch, secret = new_secret()
    keys = Keys(home, membership.database_id(genesis))
    keys.keep({epoch: secret})
    switch_to_wal(connection, path)
    with translated(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            _prepare(connection, device, genesis, epoch, epoch)
            state = State(connection, path, device, keys)
            members.put_device(state, founder, None, confirmed=True)
            record = membership.encode_content(Founding(genesis))
            state.append_own("member", record, summary=f"{device.name} founded the database")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def join_state(path: Path, home: Home, welcome: Welcome, *, name: str | None) -> State:
    """Make a file part of the database that a welcome describes: all of it or, on any error, nothing.

    The file may be missing, empty, or hold tables of its own, whose rows then merge by key after the first catch-up.
    Raises `WrongDevice` (it belongs to a database already), `SchemaRefused` (a table does not fit).
    """
    device = load_device(home.prepare(), name=name)
    if device.id not in {member.device for member in welcome.members}:
        raise PairingFailed("the welcome does not name this device", "Ask for a new code and join again.")
    existed = path.exists()
    written_ms = file_time_ms(path) if existed else 0
    connection = open_file(path, create=True)
    try:
        if catalog.exists(connection):
            raise WrongDevice(
                f"{path} belongs to a database already",
                "Join with a file of another name; the rows can be copied over with SQL afterwards.",
            )
        with translated(path):  # before anything changes, the journal's mode included
            for identity, table in welcome.tables:
                tracking.check_identity(welcome.database, identity, table)
                tracking.check_fit(connection, table)
                if not welcome.history:
                    tracking.check_empty(connection, table)
        keys = Keys(home, welcome.database)
        keys.keep(welcome.epochs)
        if not welcome.history:
            keys.keep_meeting(welcome.meeting)
        switch_to_wal(connection, path)
        state = _join(connection, path, device, keys, welcome, written_ms)
    except BaseException:
        connection.close()
        if not existed:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        raise
    return state


def _join(
    connection: sqlite3.Connection, path: Path, device: Device, keys: Keys, welcome: Welcome, written_ms: int
) -> State:
    with translated(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            _prepare(connection, device, welcome.genesis, welcome.epoch, welcome.first_epoch)
            state = State(connection, path, device, keys)
            for member in welcome.members:
                members.check_certificate(member)
                members.put_device(state, member, None, confirmed=False)
            for identity, table in welcome.tables:
                tracking.add_table(state, identity, table, reconcile_ms=-written_ms if welcome.history else 0)
            if not welcome.history:
                catalog.set_meta(connection, "awaits", 1)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    return state


def file_time_ms(path: Path) -> int:
    """When the file was last written, in Unix milliseconds: the latest moment at which its rows can have changed.

    Never 0, even for a file dated 1970: 0 means that there is nothing to compare.
    """
    times = [
        file.stat().st_mtime_ns
        for file in (path, path.with_name(path.name + "-wal"))
        if file.exists() and (file == path or file.stat().st_size)
    ]
    return max(1, max(times) // 1_000_000)
