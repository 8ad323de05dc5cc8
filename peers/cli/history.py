"""`crdtlog history` and `restore-value`: what was written of one row, and putting a version back.

Knows how a row, a column and a version are named on the command line, and how to tell what the engine found or did. The
one idea: what one command prints is what the next one takes.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from peers.cli.arguments import NEGATIVE_KEY, file_argument, json_option
from peers.cli.files import drain, opened
from peers.cli.output import json_row, moment, say, shortened, show_json, show_table, visible

if TYPE_CHECKING:
    from crdtlog import Database, Restored


@click.command(context_settings=NEGATIVE_KEY)
@file_argument
@click.argument("table")
@click.argument("key")
@click.option("--column", metavar="COLUMN", help="Only one column's writes, and the row's deletes.")
@json_option
def history(file: Path, table: str, key: str, column: str | None, as_json: bool) -> None:
    """Tell who wrote what of one row and when, as far as the log goes, and what shows now.

    KEY is the row's primary key as `crdtlog conflicts` shows it: several columns are a JSON array.

    \b
    Examples:
        crdtlog history notes.db notes milk
        crdtlog history notes.db notes milk --column title
        crdtlog history places.db visits '["Rome", 2]'
    """
    with opened(file) as database:
        drain(database)
        lines = database.history(table, key, column)
        dots = short_dots(database)
    if as_json:
        show_json({"history": [json_row(line._asdict()) for line in lines]})
        return
    show_table(
        ("WRITTEN (UTC)", "DEVICE", "OPERATION", "COLUMN", "VALUE", "STATE", "DOT"),
        [
            (
                moment(line.at) if line.at else "?",
                line.device,
                line.operation,
                line.column or "",
                "" if line.column is None else shortened(visible(line.value)),
                line.state,
                dots(line.dot),
            )
            for line in lines
        ],
    )


@click.command(context_settings=NEGATIVE_KEY)
@file_argument
@click.argument("table")
@click.argument("key")
@click.argument("column")
@click.argument("dot")
@json_option
def restore_value(file: Path, table: str, key: str, column: str, dot: str, as_json: bool) -> None:
    """Put one version back: write its value again, as a change made now on this device.

    DOT names the version as `crdtlog conflicts` and `crdtlog history` show it. The value shows on all devices once they
    have it, and the conflict is settled; so give the DOT of the value that shows to keep that one. A row that was
    deleted comes back whole. If a conflict is about a whole row, its COLUMN is NULL.

    \b
    Examples:
        crdtlog restore-value notes.db notes milk title phone:12
        crdtlog restore-value notes.db notes call NULL phone:13
    """
    with opened(file) as database:
        done = database.restore_value(table, key, column, dot)
    if as_json:
        show_json({"restored": json_row(done._asdict())})
    else:
        say(_told(done))


def _told(done: "Restored") -> str:
    key, table = shortened(visible(done.key)), visible(done.table)
    if done.dot is None:
        return f"Row {key} of {table}: {visible(done.column)} shows that value already; nothing was written."
    back = f"Row {key} of {table} is back"
    if done.column is None:
        return f"{back}."
    value = f"{visible(done.column)} is {shortened(visible(done.value))}"
    return f"{back}; {value}." if done.revived else f"Row {key} of {table}: {value} again."


_DEVICE_HEX = 32
_WRITER_HEX = 8


def short_dots(database: "Database") -> Callable[[str], str]:
    """How dots are shown to people: device:number, where that name needs no quotes and is one device's alone.

    Otherwise the beginning of the writer's id stands for the name. `restore-value` takes both, and whole dots.
    """
    names = {member.device.hex(): member.name for member in database.members()}
    shared = Counter(names.values())

    def short(dot: str) -> str:
        writer, _, number = dot.partition(":")
        name = names.get(writer[:_DEVICE_HEX], "")
        plain = re.fullmatch(r"\w[\w.-]*", name, re.ASCII) and shared[name] == 1
        return f"{name if plain else writer[:_WRITER_HEX]}:{number}"

    return short
