"""`crdtlog sql`: one statement of plain SQL on a file.

Knows how to tell a statement that reads from one that writes. The one idea: every statement first runs on a connection
that cannot write; only if SQLite says that it wants to write does it run again, in one immediate transaction, so that a
query never takes the write lock. What it writes is captured like any client's write.
"""

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from peers.cli.arguments import file_argument, json_option
from peers.cli.files import opened
from peers.cli.output import count, json_value, say, shortened, show_json, show_table, visible

if TYPE_CHECKING:
    from crdtlog import Database


class Answer(NamedTuple):
    """What a statement gave: column names and rows, and how many rows it changed (None if it only read)."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    changed: int | None


@click.command()
@file_argument
@click.argument("query")
@click.option("--as-of", metavar="TIME", help="Read the past; not in this version.")
@json_option
def sql(file: Path, query: str, as_of: str | None, as_json: bool) -> None:
    """Run one SQL statement on FILE and print its rows.

    A statement that writes runs as one immediate transaction, and is captured like a write by any other program.

    \b
    Examples:
        crdtlog sql notes.db "SELECT * FROM notes"
        crdtlog sql notes.db "UPDATE notes SET title = 'Milk' WHERE id = 'a'"
        crdtlog sql notes.db "SELECT * FROM crdtlog_row_status" --json
    """
    from crdtlog.errors import Usage

    if as_of is not None:
        raise Usage(
            "reading a file as it was in the past (--as-of) is not in this version", "Leave --as-of out."
        )
    with opened(file) as database:
        answer = execute(database, query)
    if as_json:
        rows = [[json_value(value) for value in row] for row in answer.rows]
        changed = {} if answer.changed is None else {"changed": answer.changed}
        show_json({"columns": answer.columns, "rows": rows} | changed)
        return
    if answer.columns:
        show_table(answer.columns, [[shortened(visible(value)) for value in row] for row in answer.rows])
    if answer.changed is not None:
        say(f"{count(answer.changed, 'row')} changed.")


def execute(database: "Database", statement: str) -> Answer:
    """Run one statement; raises `Usage` for wrong SQL, and what `crdtlog.connection.translate` makes of the rest."""
    from crdtlog.connection import escaping_text, translate
    from crdtlog.errors import Usage

    connection = database.connection
    try:
        with escaping_text(connection):
            return _read(connection, statement) or _write(connection, statement)
    except sqlite3.Warning as error:  # more than one statement; a ProgrammingError from Python 3.12 on
        raise Usage(str(error), "Give one statement at a time.") from error
    except sqlite3.Error as error:
        translated = translate(error, database.path)
        if translated is not error:
            raise translated from error
        raise Usage(
            f"SQLite refused the statement: {error}", "See the tables: SELECT name FROM sqlite_master"
        ) from error


def _read(connection: sqlite3.Connection, statement: str) -> Answer | None:
    """The answer of a statement that only reads; None for one that wants to write."""
    connection.execute("PRAGMA query_only = ON")
    try:
        cursor = connection.execute(statement)
        return Answer([column[0] for column in cursor.description or ()], cursor.fetchall(), None)
    except sqlite3.OperationalError as error:
        if (error.sqlite_errorcode & 0xFF) != sqlite3.SQLITE_READONLY:
            raise
        return None
    finally:
        connection.execute("PRAGMA query_only = OFF")


def _write(connection: sqlite3.Connection, statement: str) -> Answer:
    connection.execute("BEGIN IMMEDIATE")
    try:
        cursor = connection.execute(statement)
        columns = [column[0] for column in cursor.description or ()]
        rows = cursor.fetchall()
        changed = connection.execute("SELECT changes()").fetchone()[0]
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return Answer(columns, rows, changed)
