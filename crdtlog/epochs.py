"""Where epoch secrets rest: in the device's home beside its keys, never in the SQLite file that people copy around."""

from pathlib import Path
from typing import cast

from crdtlog.device import Home, private_directory, read_private, write_private
from crdtlog.errors import KeysUnusable
from crdtlog.values import pack, unpack

_MAX_BYTES = 4 << 20


def _path(home: Home, database: bytes, what: str = "epochs") -> Path:
    return private_directory(home.keys / "databases") / f"{database.hex()}.{what}"


class Keys:
    """The secrets of one database in one home."""

    def __init__(self, home: Home, database: bytes) -> None:
        self._home = home
        self._database = database

    def keep(self, epochs: dict[bytes, bytes]) -> None:
        """Keep secrets (id → 32 bytes), together with those kept before; durable on return."""
        path = _path(self._home, self._database)
        write_private(path, pack(sorted({**_read(path), **epochs}.items())))

    def load(self) -> dict[bytes, bytes]:
        """The secrets, by id. Raises `KeysUnusable` if there are none."""
        found = _read(_path(self._home, self._database))
        if not found:
            raise self._missing()
        return found

    def keep_meeting(self, key: bytes) -> None:
        """Keep the key by which members recognise one another, of a device without the first epoch's secret."""
        write_private(_path(self._home, self._database, "meeting"), key)

    def meeting(self) -> bytes:
        """That key (32 bytes). Raises `KeysUnusable`."""
        try:
            return read_private(_path(self._home, self._database, "meeting"), _MAX_BYTES)
        except FileNotFoundError:
            raise self._missing() from None

    def _missing(self) -> KeysUnusable:
        return KeysUnusable(
            f"the keys of this database are not in {self._home.keys}",
            "Set CRDTLOG_HOME to the home that the file was used with, or join the database anew with "
            "`crdtlog join`.",
        )


def _read(path: Path) -> dict[bytes, bytes]:
    try:
        data = read_private(path, _MAX_BYTES)
    except FileNotFoundError:
        return {}
    items = unpack(data)
    return {cast(bytes, name): cast(bytes, secret) for name, secret in items}
