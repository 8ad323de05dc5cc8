"""What a home remembers between runs of a daemon: its files and its port; and what tells one home from its copy.

Knows small files in the home's state directory. Must not know databases or sockets, and stays light: the command line
loads it at every start.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path

from crdtlog.device import Home, private_directory

_MAX_FILES = 1_000
_PLACE_BYTES = 16


def remember_file(home: Home, path: Path | str) -> None:
    """Have `crdtlog up` without arguments serve this file from now on."""
    files = known_files(home)
    absolute = Path(path).absolute()
    if absolute not in files:
        _write(
            home, "files.json", {"v": 1, "files": [str(file) for file in (*files, absolute)][-_MAX_FILES:]}
        )


def forget_file(home: Home, path: Path | str) -> None:
    """Undo `remember_file`."""
    absolute = Path(path).absolute()
    _write(
        home, "files.json", {"v": 1, "files": [str(file) for file in known_files(home) if file != absolute]}
    )


def known_files(home: Home) -> list[Path]:
    """The files of this home, in the order in which they were remembered."""
    content = _read(home, "files.json")
    files = content.get("files")
    return [Path(file) for file in files if isinstance(file, str)] if isinstance(files, list) else []


def last_port(home: Home) -> int:
    """The port that this home listened on last; 0 if there was none."""
    port = _read(home, "port.json").get("port")
    return port if isinstance(port, int) and 0 < port < 1 << 16 else 0


def remember_port(home: Home, port: int) -> None:
    """Listen on this port next time as well, so that others find us where they left us."""
    if port != last_port(home):
        _write(home, "port.json", {"v": 1, "port": port})


def place_of(home: Home) -> bytes:
    """16 bytes that differ between a home and most copies: machine, path and inode of the keys' directory.

    Two of these beside one device key mean that somebody copied the keys. A cloned machine has the same.
    """
    keys = home.keys.resolve()
    status = keys.stat()
    parts = [_machine_id(), os.fsencode(keys), b"%d %d" % (status.st_dev, status.st_ino)]
    return hashlib.sha256(b"\0".join((b"crdtlog place", *parts))).digest()[:_PLACE_BYTES]


def _machine_id() -> bytes:
    for name in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            found = Path(name).read_bytes().strip()
        except OSError:
            continue
        if found:
            return found
    return os.uname().nodename.encode()


def _read(home: Home, name: str) -> dict[str, object]:
    try:
        content = json.loads((home.state / name).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(home: Home, name: str, content: dict[str, object]) -> None:
    """Replace the file in one step: a reader finds the old or the new, never half of one."""
    directory = private_directory(home.state)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=f".{name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(temporary, directory / name)
    except BaseException:
        os.unlink(temporary)
        raise
