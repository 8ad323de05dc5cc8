"""`crdtlog doctor`: everything that may be wrong with this device or a file, each with what to do about it.

Knows a list of questions; each is asked by itself, so that one bad answer does not hide the next. Must not change
anything but take in waiting changes.
"""

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from peers.cli.arguments import json_option
from peers.cli.check import EXIT_NOT_IN_ORDER
from peers.cli.members import SHOWN_DIGITS
from peers.cli.output import GREEN, RED, YELLOW, count, say, show_data, show_json, styled, visible

if TYPE_CHECKING:
    from crdtlog import Database, Home

#: A clock that differs from another device's by more than this is told (rule R9 uses the same limit).
CLOCK_TOLERANCE_S = 300
_COLOURS = {"ok": GREEN, "note": YELLOW, "problem": RED}


class Finding(NamedTuple):
    """The answer to one question: `state` is ok, note (worth knowing) or problem; `next` is what to do."""

    name: str
    state: str
    message: str
    next: str = ""


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
@click.pass_context
def doctor(context: click.Context, file: Path | None, as_json: bool) -> None:
    """Look for everything that may be wrong with this device and, if given, with FILE.

    Exit code 3 if there is a problem; notes alone are no problem.

    \b
    Examples:
        crdtlog doctor
        crdtlog doctor notes.db
    """
    findings = list(examine_device())
    if file is not None:
        findings += examine_file(file)
    in_order = all(finding.state != "problem" for finding in findings)
    if as_json:
        show_json({"ok": in_order, "findings": [finding._asdict() for finding in findings]})
    else:
        for finding in findings:
            _show(finding)
        say("Everything is in order." if in_order else "There are problems.")
    if not in_order:
        context.exit(EXIT_NOT_IN_ORDER)


def _show(finding: Finding) -> None:
    mark = styled(f"{finding.state:<8}", sys.stdout, _COLOURS[finding.state])
    show_data(f"{mark} {finding.name}: {visible(finding.message)}")
    if finding.next:
        show_data(f"{'':<9}{finding.next}")


# --- this device --------------------------------------------------------------------------------------------------


def examine_device() -> Iterator[Finding]:
    """Programs, directories, keys and the daemon."""
    from crdtlog import Home

    home = Home.default()
    yield Finding("sqlite", "ok", f"SQLite {sqlite3.sqlite_version}, Python {sys.version.split()[0]}")
    yield _keys(home)
    yield _daemon(home)


def _keys(home: "Home") -> Finding:
    from crdtlog.device import KEY_FILE_NAME, load_device
    from crdtlog.errors import CrdtlogError

    if not (home.keys / KEY_FILE_NAME).exists():
        return Finding(
            "keys",
            "note",
            f"there are no keys in {home.keys} yet",
            "crdtlog init or crdtlog join makes them.",
        )
    try:
        device = load_device(home, create=False)
    except CrdtlogError as error:
        return Finding("keys", "problem", str(error), error.hint)
    return Finding("keys", "ok", f"device {device.name} ({device.id.hex()}), keys in {home.keys}")


def _daemon(home: "Home") -> Finding:
    from crdtlog.errors import CrdtlogError, DaemonUnavailable
    from peers.cli.overview import daemon_status

    try:
        answer = daemon_status(home)
    except DaemonUnavailable:
        return Finding(
            "daemon", "note", "no daemon runs, so nothing is exchanged by itself", "Start it: crdtlog up FILE"
        )
    except CrdtlogError as error:
        return Finding("daemon", "problem", str(error), error.hint)
    files = len(answer["files"])
    return Finding("daemon", "ok", f"runs (process {answer['pid']}), serves {count(files, 'file')}")


# --- a file -------------------------------------------------------------------------------------------------------


def examine_file(file: Path) -> list[Finding]:
    """Whether the file opens, and what is unusual in it."""
    from crdtlog.errors import CrdtlogError
    from peers.cli.files import drain_if_quick, opened

    try:
        with opened(file) as database:
            waiting = database.pending()
            drain_if_quick(database)
            return [found for ask in _QUESTIONS for found in ask(database)] + [_captures(database, waiting)]
    except CrdtlogError as error:
        return [Finding("file", "problem", str(error), error.hint)]


def _belongs(database: "Database") -> Iterator[Finding]:
    known, own = database.devices(), database.device.id
    me = next(member for member in known if member.device == own)
    others = sum(member.role is not None and member.device != own for member in known)
    what = f"database {database.id.hex()[:16]}, here {me.name}, shared with {count(others, 'device')}"
    if me.role is not None and database.awaits_snapshot:
        yield Finding(
            "file", "note", f"{what}: let in without history, and not given yet what there is",
            f"An admin's device gives it: crdtlog sync {database.path}, while one can be reached.",
        )  # fmt: skip
    elif me.role is not None:
        yield Finding("file", "ok", f"{what}{', may only read' if me.role == 'reader' else ''}")
    elif me.removed_by == own:
        yield Finding("file", "note", f"{me.name} has left: nothing of this file is exchanged any more")
    else:
        yield Finding(
            "file", "problem", f"{me.name} was removed: nothing of this file is exchanged any more",
            f"Who did it: crdtlog devices {database.path} --all. An admin can let it in again: crdtlog pair",
        )  # fmt: skip


def _group(database: "Database") -> Iterator[Finding]:
    """What admins who did not know of one another said of the same device."""
    known = {member.device: member for member in database.devices()}
    where = "Decide" if known[database.device.id].role == "admin" else "On an admin's device"
    for conflict in database.admins_conflict():
        member = known[conflict.device]
        said = sorted({f"{known[by].name} said {role or 'removed'}" for _, by, role in conflict.said})
        what = f"admins who did not know of one another disagree about {member.name}: {', '.join(said)}"
        if member.role is None:
            yield Finding(
                "admins", "note", f"{what}; it is removed",
                f"If it should belong, let it in again: crdtlog pair {database.path}",
            )  # fmt: skip
        else:
            yield Finding(
                "admins", "problem", f"{what}; it is {member.role} until an admin decides",
                f"{where}: crdtlog role {database.path} {member.device.hex()[:SHOWN_DIGITS]} ROLE, or crdtlog remove",
            )  # fmt: skip


def _forks(database: "Database") -> Iterator[Finding]:
    """Devices that signed different entries under one number: keys that were in use twice, or a liar."""
    names = {member.device: member.name for member in database.devices()}
    forks = database.forks()
    for device in sorted({fork.device for fork in forks}, key=lambda device: names[device]):
        times = sum(fork.device == device for fork in forks)
        yield Finding(
            "forks", "note", f"{names[device]} signed different entries under one number ({count(times, 'time')}): its "
            "keys were in use on two machines, or it lies; all of them count",
            f"See: crdtlog verify {database.path}. If it goes on: crdtlog remove {database.path} {names[device]}",
        )  # fmt: skip


def _aside(database: "Database") -> Iterator[Finding]:
    if number := database.query("SELECT count(*) FROM crdtlog_aside")[1][0][0]:
        yield Finding(
            "aside", "note", f"{count(number, 'value')} written on this device count nowhere and were put aside",
            f"See them: crdtlog aside {database.path}",
        )  # fmt: skip


def _held(database: "Database") -> Iterator[Finding]:
    """Entries that are held and not merged: those that count wait for something, the others are kept all the same."""
    from crdtlog.holding import WAITING

    rows = database.query(
        "SELECT device, summary, count(*) FROM crdtlog_log WHERE summary = ? OR summary LIKE 'waits: %' "
        "GROUP BY device, summary ORDER BY device, summary",
        (WAITING,),
    )[1]
    for device, summary, number in rows:
        entries = f"{count(number, 'entry')} of {device}"
        if summary == WAITING:
            yield Finding(
                "held", "note", f"{entries} held, not counted: {device} was removed, or might not write",
                f"Who did it: crdtlog log {database.path} --kind member",
            )  # fmt: skip
        else:
            yield Finding(
                "waiting", "note", f"{entries}: {summary}", "They are merged as soon as that is settled."
            )


def _wal(database: "Database") -> Iterator[Finding]:
    mode = database.query("PRAGMA journal_mode")[1][0][0]
    if mode == "wal":
        yield Finding("wal", "ok", "write-ahead logging is on")
    else:
        yield Finding(
            "wal", "problem", f"the journal mode is {mode}, so readers and writers block one another",
            f"Run: sqlite3 {database.path} 'PRAGMA journal_mode = WAL'",
        )  # fmt: skip


def _writable(database: "Database") -> Iterator[Finding]:
    for path in (database.path, database.path.parent):
        if not os.access(path, os.W_OK):
            yield Finding(
                "permissions",
                "problem",
                f"{path} cannot be written, so nothing from other devices can arrive",
                "Check its permissions, and whether its disk is mounted read-only.",
            )


def _tables(database: "Database") -> Iterator[Finding]:
    tables = database.tables()
    for table in tables:
        if table.paused:
            undo = "Undo the change of its schema; then it goes on by itself."
            what = f"table {table.name} is not exchanged, its changes are kept: {table.paused}"
            yield Finding("paused", "problem", what, "" if "crdtlog check" in table.paused else undo)
    running = sum(not table.paused for table in tables)
    yield Finding("tables", "ok" if tables else "note", f"{count(running, 'table')} replicated")


def _rows(database: "Database") -> Iterator[Finding]:
    waiting = {table.name: table.waiting for table in database.tables() if not table.paused}
    for item in database.check():
        rows = f"{count(item.total, 'row')} of {item.table}"
        if item.damaged:
            yield Finding(
                "damaged", "problem",
                f"the merge documents of {count(item.damaged, 'row')} of {item.table} are not what the log says",
                f"Build them anew: crdtlog check {database.path} --fix",
            )  # fmt: skip
        if item.null_keys:
            yield Finding(
                "null keys", "note", f"{count(item.null_keys, 'row')} of {item.table} have a NULL key and stay here",
                "Give each a key; a key column with a DEFAULT, or NOT NULL, keeps it from happening.",
            )  # fmt: skip
        if item.total and waiting.get(item.table) == "unfinished":
            hint = f"Run: crdtlog init {database.path}, or start: crdtlog up {database.path}"
            yield Finding("waiting rows", "note", f"{rows} are still to be taken in", hint)
        elif item.total and waiting.get(item.table):
            hint = (
                "They are taken in after the first exchange with another device: crdtlog up, or crdtlog sync"
            )
            yield Finding("waiting rows", "note", f"{rows} were here before joining", hint)
        elif item.total and not database.pending():
            yield Finding(
                "rows", "problem", f"{rows} differ from their documents",
                f"If the rows are right: crdtlog check {database.path} --fix",
            )  # fmt: skip


def _merging(database: "Database") -> Iterator[Finding]:
    for item in database.unmerged():
        if not item.rows:
            yield Finding("merging", "problem", f"{item.column} of {item.table}: {item.reason}", "")
            continue
        which = f"row {item.key}" if item.rows == 1 else f"the first is row {item.key}"
        where = f"{item.column} in {count(item.rows, 'row')} of {item.table} ({which})"
        yield Finding("merging", "problem", f"{where}: {item.reason}", item.next)


def _untracked(database: "Database") -> Iterator[Finding]:
    from crdtlog import schema

    known = {table.name for table in database.tables()}
    for name, why in schema.trackable_tables(database.connection):
        if name not in known:
            hint = f"Run: crdtlog track {database.path} {name}" if why is None else ""
            yield Finding(
                "untracked", "note", f"table {name} stays on this device{f': {why}' if why else ''}", hint
            )


def _clocks(database: "Database") -> Iterator[Finding]:
    """Whether another device's last write lies in our future: one of the two clocks is wrong."""
    seconds = "(julianday(last_write) - 2440587.5) * 86400.0"
    # What a removed device's clock says settles nothing any more.
    sql = f"SELECT name, {seconds} FROM crdtlog_devices WHERE last_write IS NOT NULL AND role IS NOT NULL"
    for name, written in database.query(sql)[1]:
        ahead = written - time.time()
        if ahead > CLOCK_TOLERANCE_S:
            yield Finding(
                "clock", "problem", f"{name} wrote at a time that is {ahead / 60:.0f} minutes ahead of our clock",
                "Set the clock of the device that is wrong; its writes win over concurrent ones until time catches up.",
            )  # fmt: skip


def _captures(database: "Database", before: int) -> Finding:
    waiting = database.pending()
    if not waiting:
        took = f" ({count(before, 'change')} taken in now)" if before else ""
        return Finding("captures", "ok", f"nothing waits to be taken in{took}")
    return Finding(
        "captures", "note", f"{count(waiting, 'change')} wait to be taken in",
        "A running daemon takes them in; without one: crdtlog check FILE. Those of paused tables stay.",
    )  # fmt: skip


_QUESTIONS: tuple[Callable[["Database"], Iterator[Finding]], ...] = (
    _belongs, _group, _forks, _aside, _held, _wal, _writable, _tables, _rows, _merging, _untracked, _clocks,
)  # fmt: skip
