"""`crdtlog doc`: one row as a Yjs document, for people as JSON, for programs as bytes.

Knows where a document goes. Must not know how it is made. The one idea: a terminal gets what a person can read, and
whatever else reads gets the document itself.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from peers.cli.arguments import NEGATIVE_KEY, file_argument, json_option
from peers.cli.files import drain, opened
from peers.cli.output import (
    count,
    is_terminal,
    json_value,
    printable_json,
    say,
    show_data,
    show_json,
    visible,
)

if TYPE_CHECKING:
    from crdtlog.yjs_writer import Node


@click.command(context_settings=NEGATIVE_KEY)
@file_argument
@click.argument("table")
@click.argument("key")
@click.option(
    "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write the document's bytes there."
)
@json_option
def doc(file: Path, table: str, key: str, output: Path | None, as_json: bool) -> None:
    """Give one row as a Yjs document, as it shows now.

    A terminal shows it as JSON; a pipe or a file gets its bytes, a Yjs update (version 1). KEY is as for `history`.

    \b
    Examples:
        crdtlog doc notes.db notes milk
        crdtlog doc notes.db notes milk --output milk.yjs
        crdtlog doc notes.db notes milk | node show.mjs
    """
    if output is not None:
        _refuse_database(output, file)
    with opened(file) as database:
        drain(database)
        snapshot = database.snapshot(table, key)
    if output is not None:
        data = snapshot.update()
        output.write_bytes(data)
        say(f"Wrote {count(len(data), 'byte')} to {visible(str(output))}.")
    if as_json:
        show_json({"doc": {"row": _readable(snapshot.row)}})
    elif output is None and is_terminal(sys.stdout):
        show_data(printable_json(json.dumps({"row": _readable(snapshot.row)}, ensure_ascii=False, indent=2)))
    elif output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(snapshot.update())


def _refuse_database(output: Path, file: Path) -> None:
    from crdtlog.errors import Usage

    if output.exists() and file.exists() and output.samefile(file):
        raise Usage(f"{output} is the database itself", "Name another file for the document.")


def _readable(node: "Node") -> object:
    """What a document holds as JSON has it."""
    from crdtlog.yjs_writer import Exact, Text

    if isinstance(node, dict):
        return {name: _readable(item) for name, item in node.items()}
    if isinstance(node, list):
        return [_readable(item) for item in node]
    if isinstance(node, Text):
        return node.text
    return {node.form: node.spelled} if isinstance(node, Exact) else json_value(node)
