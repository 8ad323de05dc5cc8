"""What `crdtlog status` shows of a file, as values ready for JSON; the same with a daemon and without.

Knows the engine's questions and the shape of the answer. Must not know connections: who is connected comes in.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from crdtlog.database import Database


class Connection(NamedTuple):
    """How entries come from a device: `path` is `direct`, `address` its `host:port`; or `relay` and the relay's URL."""

    path: str
    address: str


def describe(
    engine: Database,
    connections: Mapping[bytes, Connection] | None = None,
    problems: Mapping[bytes, str] | None = None,
) -> dict[str, Any]:
    """One file: its tables, and its devices with how many entries each lacks.

    `connections` and `problems` are by device id; without a daemon there are none.
    """
    connections, problems = connections or {}, problems or {}
    heads = engine.heads()
    held, seen = engine.held(), engine.relays.seen()
    tables = engine.tables()
    _, times = engine.query("SELECT id, last_seen FROM crdtlog_devices")
    last_seen = {bytes.fromhex(device): at for device, at in times}
    devices = []
    for member in engine.members():
        is_self = member.device == engine.device.id
        connection = connections.get(member.device)
        # What it acknowledged, and what it had when it wrote what is held of it: through a relay none acknowledges.
        theirs = [held.get(member.device, {}), seen.get(member.device, {})]
        lag = sum(
            max(0, head.seq - max(known.get(writer, 0) for known in theirs)) for writer, head in heads.items()
        )
        devices.append(
            {
                "id": member.device.hex(),
                "name": member.name,
                "role": member.role,
                "self": is_self,
                "connected": connection is not None and connection.path == "direct",
                "path": connection.path if connection else None,
                "address": connection.address if connection else None,
                "lag": 0 if is_self else lag,
                "last_seen": None if is_self else last_seen.get(member.device),
                "problem": problems.get(member.device),
            }
        )
    return {
        "path": str(engine.path),
        "database": engine.id.hex(),
        "device": engine.device.id.hex(),
        "name": engine.device.name,
        "pending": sum(table.pending for table in tables),
        "tables": [table._asdict() for table in tables],
        "devices": devices,
        "relays": [{"url": _shown(url), "connected": False, "problem": None} for url in engine.relays.urls()],
    }


def _shown(url: str) -> str:
    return url.partition("#")[0]
