"""`crdtlog init` and `crdtlog track`: make a file a database, and choose which tables it replicates.

Knows how to look at a file before touching it, and what to tell people about their keys. The one idea: everything that
can be refused is refused before the first change, so that a failed `init` leaves the file as it was.
"""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from peers.cli.arguments import file_argument, json_option
from peers.cli.files import opened
from peers.cli.output import count, progress_bar, say, show_json, show_table, warn
from peers.cli.recovery import require_somewhere_to_show, say_shown_before, show_words

if TYPE_CHECKING:
    from crdtlog import Database
    from crdtlog.schema import Table

TEXT_KEY = "TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16))))"


class Survey(NamedTuple):
    """A file before `init`: its tables with None or why they cannot be tracked, and what kind of file it is."""

    tables: list[tuple[str, str | None]]
    journal: str
    replicated: bool


class Skipped(NamedTuple):
    """A table that is not replicated."""

    name: str
    why: str


def survey(file: Path) -> Survey:
    """Look at a file without changing it. Raises what `crdtlog.open` raises for files that are no databases."""
    from crdtlog import catalog, schema
    from crdtlog.connection import open_file, translated
    from crdtlog.errors import NotADatabase

    if not file.exists():
        if not file.absolute().parent.is_dir():
            raise NotADatabase(
                f"the directory {file.absolute().parent} does not exist", "Create it, or check the path."
            )
        return Survey([], "none", replicated=False)
    with closing(open_file(file, create=False)) as connection, translated(file):
        journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
        replicated = catalog.exists(connection)
        return Survey(schema.trackable_tables(connection), journal, replicated)


def choose(file: Path, found: Survey, wanted: Sequence[str]) -> tuple[list[str], list[Skipped]]:
    """The tables to track and those to leave. Raises `NoSuchTable` or `Untrackable` before anything is changed."""
    from crdtlog.errors import NoSuchTable, Untrackable

    reasons = dict(found.tables)
    if not wanted:
        usable = [name for name, why in found.tables if why is None]
        skipped = [Skipped(name, why) for name, why in found.tables if why is not None]
        if skipped and not usable:
            listed = "; ".join(f"{name}: {why}" for name, why in skipped)
            raise Untrackable(
                f"no table of {file} can be tracked ({listed})",
                f"Give a table a key, for example: id {TEXT_KEY}",
            )
        return usable, skipped
    folded = {name.lower(): name for name in reasons}
    names = []
    for name in dict.fromkeys(wanted):
        real = name if name in reasons else folded.get(name.lower())
        if real is None:
            known = ", ".join(reasons) or "none"
            raise NoSuchTable(f"there is no table {name!r} in {file}", f"Its tables: {known}")
        if why := reasons[real]:
            raise Untrackable(
                f"table {real!r} cannot be tracked: {why}", "Change the table, or leave it out."
            )
        names.append(real)
    return names, [Skipped(name, "not asked for") for name, _ in found.tables if name not in names]


def is_numbered(table: "Table") -> bool:
    """Whether a table's rows get one number after another as their key."""
    keys = table.key_columns
    return len(keys) == 1 and (table.integer_key or table.affinity(keys[0]) == "INTEGER")


def key_warnings(tables: Sequence["Table"]) -> list[str]:
    """What to tell about tables whose keys two devices may both pick."""
    names = [table.name for table in tables if is_numbered(table)]
    if not names:
        return []
    return [
        f"Rows are numbered (INTEGER PRIMARY KEY) in: {', '.join(names)}. When two devices that are offline pick the "
        "same number for new rows, the two rows merge into one: the later write shows in each column, the other "
        "values are kept as conflicts."
    ]


@click.command()
@file_argument
@click.argument("more", nargs=-1, metavar="")
@click.option(
    "--device",
    envvar="CRDTLOG_DEVICE",
    metavar="NAME",
    help="How others see this device (default: host name).",
)
@click.option(
    "--track", "tables", multiple=True, metavar="TABLE", help="Only these tables (default: all that can be)."
)
@click.option("--no-recovery", is_flag=True, help="Make a database without a recovery key.")
@json_option
def init(
    file: Path,
    more: tuple[str, ...],
    device: str | None,
    tables: tuple[str, ...],
    no_recovery: bool,
    as_json: bool,
) -> None:
    """Make FILE a replicated database and begin to track its tables.

    The words of its recovery key are shown once, on standard error. They make a device an admin when none is left.

    The file stays an ordinary SQLite file that any program may write; it is switched to write-ahead logging (WAL). A
    missing FILE is created. Run again, the command tracks tables that were added since, and ends what was interrupted.

    \b
    Examples:
        crdtlog init notes.db
        crdtlog init notes.db --device laptop --track notes --track tags
    """
    if more and not tables:
        raise click.UsageError(f"Got unexpected extra argument ({more[0]}). To choose tables: --track TABLE")
    found = survey(file)
    names, skipped = choose(file, found, [*tables, *more])
    import crdtlog

    existed = file.exists()
    from peers.node.known import remember_file

    key = None
    if not found.replicated and not no_recovery:
        require_somewhere_to_show()
        key = crdtlog.new_recovery()
    with closing(crdtlog.open(file, name=device, recovery=key.public if key else None)) as database:
        # Before anything that can be interrupted, and if our key is the one: another program may have been faster.
        if key and database.recovery == key.public:
            show_words(file, key)
        elif database.recovery:
            say_shown_before(file)
        elif not found.replicated:
            say(f"{file} has no recovery key, and cannot be given one later.")
        remember_file(database.home, file)
        # One whose rows were not all taken in when a full disk, say, ended an earlier run counts as new.
        known = {table.name for table in database.tables() if table.waiting != "unfinished"}
        skipped = [item for item in skipped if item.name not in known]
        descriptions = track_all(database, [name for name in names if name not in known])
        warnings = key_warnings(descriptions)
        if as_json:
            show_json({"init": _summary(database, found, descriptions, skipped, warnings)})
        else:
            _tell_tracked(descriptions, skipped, sorted(known))
        _tell_file(database, file, found, existed=existed)
        _warn_keys(warnings)


def track_all(database: "Database", names: Sequence[str]) -> list["Table"]:
    """Track tables one after another, with a progress bar for the rows they have; returns their descriptions."""
    from crdtlog import schema
    from crdtlog.connection import translated

    with translated(database.path):
        descriptions = [schema.read_table(database.connection, name) for name in names]
    with progress_bar() as progress:
        for name in names:
            database.track(name, progress=progress)
    return descriptions


def _summary(
    database: "Database", found: Survey, tracked: list["Table"], skipped: list[Skipped], warnings: list[str]
) -> dict[str, object]:
    return {
        "path": str(database.path),
        "database": database.id.hex(),
        "device": database.device.name,
        "tracked": [table.name for table in tracked],
        "skipped": [item._asdict() for item in skipped],
        "wal": {"before": found.journal, "now": "wal"},
        "warnings": warnings,
    }


def _tell_tracked(tracked: list["Table"], skipped: list[Skipped], known: list[str]) -> None:
    rows = [
        (table.name, "tracked", ", ".join(column.name for column in table.key_columns)) for table in tracked
    ]
    rows += [(name, "tracked before", "") for name in known]
    rows += [(item.name, "left out", item.why) for item in skipped]
    if rows:
        show_table(("TABLE", "", "KEY OR REASON"), rows)


def _tell_file(database: "Database", file: Path, found: Survey, *, existed: bool) -> None:
    name = database.device.name
    if not existed:
        say(f"Created {file}; make tables with any SQLite client, then: crdtlog track {file} TABLE")
    elif found.journal != "wal":
        say(
            f"Switched {file} from journal mode {found.journal} to WAL (beside it lie {file.name}-wal and -shm)."
        )
    say(
        f"{file} is a replicated database; this device is {name}. Next: crdtlog up {file}, then crdtlog pair {file}"
    )


def _warn_keys(warnings: list[str]) -> None:
    for warning in warnings:
        warn(warning)
    if warnings:
        say(f"  Keys that no two devices pick are better: id {TEXT_KEY}")


@click.command()
@file_argument
@click.argument("table")
@click.argument("more", nargs=-1, metavar="")
@click.option(
    "--merge",
    multiple=True,
    metavar="COLUMN=KIND",
    help="How a column merges: register, text, json, counter or set.",
)
@json_option
def track(file: Path, table: str, more: tuple[str, ...], merge: tuple[str, ...], as_json: bool) -> None:
    """Begin to track TABLE, with the rows it has; other devices get it too. Or change how its columns merge.

    KIND says what becomes of concurrent writes of a column. `register`, the default: the latest shows, the others are
    kept as conflicts. `text`: edits merge by character. `json`: members and elements merge. `counter`: steps add up.
    `set`: a JSON array in which adds win over removes. A column can be given another kind at any time; what it shows
    stays.

    \b
    Examples:
        crdtlog track notes.db tags
        crdtlog track notes.db notes --merge body=text --merge meta=json --merge likes=counter
    """
    if more and not merge:
        raise click.UsageError(
            f"Got unexpected extra argument ({more[0]}). To choose kinds: --merge COLUMN=KIND"
        )
    kinds = dict(parse_merge(item) for item in (*merge, *more))
    from crdtlog import schema

    with opened(file) as database:
        with progress_bar() as progress:
            is_new = database.track(table, kinds, progress)
        description = schema.read_table(database.connection, table)
        total = database.query(f"SELECT count(*) FROM {schema.quote(description.name)}")[1][0][0]
        warnings = key_warnings([description]) if is_new else []
        merging = next(item.merge for item in database.tables() if item.name == description.name)
        if as_json:
            summary = {
                "name": description.name, "new": is_new, "rows": total, "merge": merging, "warnings": warnings,
            }  # fmt: skip
            show_json({"track": summary})
        elif is_new:
            say(f"Table {description.name} is tracked, with {count(total, 'row')}.")
        else:
            say(f"Table {description.name} was tracked already.")
        if kinds and not as_json:
            for column, kind in merging.items():
                say(f"  {column} merges as {kind}.")
        _warn_keys(warnings)


def parse_merge(text: str) -> tuple[str, str]:
    """`COLUMN=KIND` in its two parts; the column may hold `=` itself. Raises `Usage`."""
    from crdtlog.errors import Usage

    column, separator, kind = text.rpartition("=")
    if not separator or not column or not kind:
        raise Usage(f"{text!r} is not of the form COLUMN=KIND", "For example: --merge title=register")
    return column, kind
