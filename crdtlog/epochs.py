"""Where epoch secrets rest: in the device's home beside its keys, never in the SQLite file that people copy around."""

from pathlib import Path
from typing import cast

from crdtlog.device import Home, private_directory, read_private, write_private
from crdtlog.errors import KeysUnusable
from crdtlog.values import pack, unpack

_MAX_BYTES = 4 << 20


def _path(home: Home, database: bytes) -> Path:
    return private_directory(home.keys / "databases") / f"{database.hex()}.epochs"


def save(home: Home, database: bytes, epochs: dict[bytes, bytes]) -> None:
    """Keep the secrets (id → 32 bytes) of a database, together with those kept before; durable on return."""
    known = _read(_path(home, database))
    write_private(_path(home, database), pack(sorted({**known, **epochs}.items())))


def load(home: Home, database: bytes) -> dict[bytes, bytes]:
    """The secrets of a database. Raises `KeysUnusable` if there are none."""
    found = _read(_path(home, database))
    if not found:
        raise KeysUnusable(
            f"the keys of this database are not in {home.keys}",
            "Set CRDTLOG_HOME to the home that the file was used with, or join the database anew with `crdtlog join`.",
        )
    return found


def _read(path: Path) -> dict[bytes, bytes]:
    try:
        data = read_private(path, _MAX_BYTES)
    except FileNotFoundError:
        return {}
    items = unpack(data)
    return {cast(bytes, name): cast(bytes, secret) for name, secret in items}
