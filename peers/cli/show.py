"""`crdtlog conflicts`, `aside` and `log`: what the file's views hold, for people and for scripts.

Knows the three views and how to follow a log that grows. The one idea: the file answers, whether a daemon runs or not;
changes that nobody has taken in yet are drained first, so that the answer is about the file as it is.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from peers.cli.arguments import file_argument, json_option
from peers.cli.files import drain, opened
from peers.cli.history import short_dots
from peers.cli.output import json_row, moment, say, shortened, show_data, show_json, show_table, visible

if TYPE_CHECKING:
    from crdtlog import Database

FOLLOW_POLL_SECONDS = 0.1


@click.command()
@file_argument
@json_option
def conflicts(file: Path, as_json: bool) -> None:
    """List the values that lost against a concurrent write, with the device and the time of each.

    The table shows the winner. A write of the same cell by any device that has both settles the conflict; `crdtlog
    restore-value` writes one of the values again. COLUMN is NULL for a row that was deleted as a whole.

    \b
    Example:
        crdtlog conflicts notes.db
    """
    with opened(file) as database:
        drain(database)
        rows = database.conflicts()
        dots = short_dots(database)
    if as_json:
        show_json({"conflicts": [json_row(row) for row in rows]})
    elif rows:
        show_table(
            ("TABLE", "KEY", "COLUMN", "LOSING VALUE", "DEVICE", "WRITTEN (UTC)", "DOT"),
            [
                (
                    *(_short(row[name]) for name in ("table", "key", "column", "value")),
                    row["device"],
                    moment(row["at"]),
                    dots(row["dot"]),
                )
                for row in rows
            ],
        )
    else:
        say("No conflicts.")


@click.command()
@file_argument
@json_option
def aside(file: Path, as_json: bool) -> None:
    """List what was written on this device and counts nowhere, as it may only read, or might not write any more.

    The rows show what counts. What was put aside stays in FILE on this device, one line a cell; no other device has it.

    \b
    Example:
        crdtlog aside notes.db
    """
    with opened(file) as database:
        drain(database)
        names, found = database.query("SELECT * FROM crdtlog_aside")
    rows = [dict(zip(names, values, strict=True)) for values in found]
    if as_json:
        show_json({"aside": [json_row(row) | {"deleted": bool(row["deleted"])} for row in rows]})
    elif rows:
        show_table(
            ("TABLE", "KEY", "COLUMN", "VALUE", "WRITTEN (UTC)", "WHY"),
            [
                (
                    *(_short(row[name]) for name in ("table", "key", "column")),
                    "(row deleted)" if row["deleted"] else _short(row["value"]),
                    moment(row["at"]),
                    row["reason"],
                )
                for row in rows
            ],
        )
    else:
        say("Nothing was put aside.")


@click.command()
@file_argument
@click.option("--follow", "-f", is_flag=True, help="Go on printing entries as they come, until interrupted.")
@click.option("--kind", metavar="KIND", help="Only entries of one kind: data, schema or member.")
@json_option
def log(file: Path, follow: bool, kind: str | None, as_json: bool) -> None:
    """Show the entries of all devices by time.

    With --follow and --json each line is one object with the entries that came together.

    \b
    Examples:
        crdtlog log notes.db
        crdtlog log notes.db --follow --kind data
    """
    from crdtlog.entry import KINDS
    from crdtlog.errors import Usage

    if kind is not None and kind not in KINDS:
        raise Usage(f"there is no kind of entry {kind!r}", f"Kinds: {', '.join(KINDS)}.")
    with opened(file) as database:
        drain(database)
        rows = database.log(kind)
        _print_entries(rows, as_json)
        if not rows and not follow and not as_json:
            say("No entries of that kind." if kind else "No entries.")
        if follow:
            last = max((row["position"] for row in rows), default=0)
            for more in _followed(database, kind, last):
                _print_entries(more, as_json)


def _followed(database: "Database", kind: str | None, last: int) -> Iterator[list[dict[str, Any]]]:
    """The entries behind position `last`, each time that some have come; never ends."""
    database.data_changed()
    while True:
        database.drain_all()
        rows = database.log(kind, last)
        if rows:
            last = max(row["position"] for row in rows)
            yield rows
        while not database.data_changed():
            time.sleep(FOLLOW_POLL_SECONDS)


def _print_entries(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json({"entries": [json_row(row) for row in rows]})
        return
    for row in rows:
        show_data(_entry_line(row))
    sys.stdout.flush()


def _entry_line(row: Mapping[str, Any]) -> str:
    name = f"{visible(row['device'])} {row['sequence']}"
    return f"{moment(row['at'])}  {name:<20}  {row['kind']:<7}  {visible(row['summary'])}".rstrip()


def _short(value: object) -> object:
    """A value that fits a column; NULL and numbers stay."""
    return shortened(visible(value))
