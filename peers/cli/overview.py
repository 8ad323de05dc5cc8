"""The status of a home's files: asked of the daemon if one runs, otherwise of the files, and shown a line a device.

Knows the shape of a status and how to ask for it. The one idea: beside a running daemon nothing of the engine is
imported, nor click: a socket and JSON are enough.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers.cli.output import BOLD, ago, count, say, show_data, show_json, show_table, styled, visible

if TYPE_CHECKING:
    from crdtlog.device import Home


def parse(arguments: list[str]) -> tuple[Path | None, bool] | None:
    """FILE and --json out of the arguments of `status`; None if there is anything else, which click should look at."""
    words = [word for word in arguments if word != "--json"]
    if len(words) > 1 or any(word.startswith("-") for word in words):
        return None
    return Path(words[0]) if words else None, len(words) < len(arguments)


def show(file: Path | None, as_json: bool) -> None:
    """Print the status of one file, or of all."""
    answer = current(file)
    if as_json:
        show_json(answer)
        return
    daemon = answer["daemon"]
    if daemon is None:
        say("No daemon runs; start it: crdtlog up FILE")
    else:
        say(f"The daemon (process {daemon['pid']}) listens on {daemon['listen'] or 'no address'}.")
    for found in answer["files"]:
        show_file(found)
    if not answer["files"]:
        say("It serves no files.")


def current(file: Path | None) -> dict[str, Any]:
    """The status as JSON has it: `daemon` (None if none runs) and `files`."""
    from crdtlog.device import Home
    from crdtlog.errors import DaemonUnavailable

    home = Home.default()
    try:
        answer = daemon_status(home)
    except DaemonUnavailable:
        return {"daemon": None, "files": [_offline(found) for found in _named_or_known(home, file)]}
    files = [{"served": True, **found} for found in answer["files"]]
    if file is not None:
        files = [found for found in files if same_file(found["path"], file)] or [_offline(file)]
    return {"daemon": {"pid": answer["pid"], "listen": answer["listen"]}, "files": files}


def _named_or_known(home: "Home", file: Path | None) -> list[Path]:
    """The file that was named, or those of this home that are still there. Raises `Usage` if there is none."""
    from crdtlog.errors import Usage
    from peers.node.known import known_files

    files = [file] if file is not None else [path for path in known_files(home) if path.exists()]
    if not files:
        raise Usage(
            "this home has no files yet, and no daemon runs", "Make a file a database: crdtlog init FILE"
        )
    return files


def daemon_status(home: "Home") -> dict[str, Any]:
    """What the daemon of this home says of itself and its files. Raises `DaemonUnavailable`."""
    from peers.control import Client

    with Client.connect(home) as client:
        return client.request("status")


def same_file(left: str, right: Path) -> bool:
    """Whether two paths lead to one file."""
    return os.path.realpath(left) == os.path.realpath(right)


def _offline(file: Path) -> dict[str, Any]:
    from peers.cli.offline import file_status

    return file_status(file)


# --- for people ---------------------------------------------------------------------------------------------------


def show_file(found: dict[str, Any]) -> None:
    """Print the status of one file."""
    where = "" if found["served"] else "  (not served by a daemon)"
    show_data(f"{styled(visible(found['path']), sys.stdout, BOLD)}{where}")
    rows = [_device_line(device) for device in found["devices"]]
    problems = {
        index: device["problem"] for index, device in enumerate(found["devices"]) if device["problem"]
    }
    show_table(("DEVICE", "PATH", "LAG", "LAST SEEN"), rows, indent="  ", notes=problems)
    for relay in found.get("relays", ()):  # a daemon of an earlier version has none
        state = relay["problem"] or ("connected" if relay["connected"] else "not connected")
        show_data(f"  relay {visible(relay['url'])}: {visible(state)}")
    if found["pending"]:
        show_data(f"  {count(found['pending'], 'change')} to be taken in")
    for table in found["tables"]:
        if table["paused"]:
            show_data(f"  paused: table {visible(table['name'])}: {visible(table['paused'])}")
        elif table["waiting"]:
            show_data(f"  {visible(table['name'])}: {_waiting_line(found, table['waiting'])}")


def _waiting_line(found: dict[str, Any], waiting: str) -> str:
    """Which rows of a table are not taken in yet, and who does it."""
    if waiting == "first exchange":
        return "rows from before joining are taken in after the first exchange"
    path = visible(found["path"])
    who = (
        "the daemon is at it" if found["served"] else f"run: crdtlog init {path}, or start: crdtlog up {path}"
    )
    return f"rows still to be taken in; {who}"


def _device_line(device: dict[str, Any]) -> tuple[str, str, str, str]:
    if device["self"]:
        return device["name"], "this device", "", ""
    path = device["path"] or "not connected"
    behind = count(device["lag"], "entry") if device["lag"] else "up to date"
    return device["name"], path, behind, "now" if device["connected"] else ago(device["last_seen"])
