"""`crdtlog verify` and `crdtlog check`: whether logs, documents and rows agree.

Knows how to ask the engine and how to say what it found. The one idea: what was written but not yet taken in is no
difference, so both drain first; a finding is an answer, not a failure, and has an exit code of its own.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from peers.cli.arguments import file_argument, json_option
from peers.cli.files import drain, opened
from peers.cli.output import count, progress_bar, say, show_data, show_json, show_table

if TYPE_CHECKING:
    from crdtlog import Database
    from crdtlog.check import Difference, Progress

#: The command worked, and its answer is that something is not in order.
EXIT_NOT_IN_ORDER = 3
_ATTEMPTS = 3


@click.command()
@file_argument
@json_option
@click.pass_context
def verify(context: click.Context, file: Path, as_json: bool) -> None:
    """Check every signature, hash chain and context of FILE, and print a digest of its documents.

    Two devices hold the same exactly when they print the same state. Exit code 3 if something does not hold.

    \b
    Example:
        crdtlog verify notes.db
    """
    with opened(file) as database:
        drain(database)
        with progress_bar() as progress:
            found = database.verify(progress)
        names = {member.device: member.name for member in database.devices()}
        forks = database.forks()
    if as_json:
        show_json(
            {"ok": found.ok, "state": found.state, "entries": found.entries, "rows": found.rows}
            | {"problems": found.problems, "given": found.given}
            | {
                "forks": [
                    {
                        "device": fork.device.hex(),
                        "name": names.get(fork.device),
                        "writer": fork.writer.hex(),
                        "sequence": fork.seq,
                        "kept": fork.kept.hex(),
                        "hashes": [digest.hex() for digest in fork.hashes],
                    }
                    for fork in forks
                ]
            }
        )
    else:
        show_data(f"{'ok' if found.ok else 'not ok'}  state {found.state}")
        say(f"Checked {count(found.entries, 'entry')} and {count(found.rows, 'document')}.")
        if found.given:
            say(
                f"{count(found.given, 'entry')} from before this device joined, which has no history, came without "
                "what stands no more: their places in the logs were checked, their signatures could not be."
            )
        for fork in forks:
            name = names.get(fork.device, fork.device.hex()[:12])
            others = ", ".join(digest.hex()[:12] for digest in fork.hashes[1:])
            say(
                f"Proof of a fork: {name} signed {len(fork.hashes)} entries {fork.seq} of log "
                f"{fork.writer.hex()[:12]}: {fork.kept.hex()[:12]} kept the name, {others} became a log of its own. "
                "Its home or file was copied, or it lies; all of it counts."
            )
        for problem in found.problems:
            say(f"Problem: {problem}")
    if not found.ok:
        context.exit(EXIT_NOT_IN_ORDER)


@click.command()
@file_argument
@click.option("--fix", is_flag=True, help="Take in what differs, as changes made now on this device.")
@json_option
@click.pass_context
def check(context: click.Context, file: Path, fix: bool, as_json: bool) -> None:
    """Compare every row of FILE with its document.

    Triggers capture what programs write; what they missed (a program that had dropped them, a restored table) shows
    here. With --fix the rows win: whatever differs is taken in as a change made now. Exit code 3 if something differs
    and was not fixed.

    \b
    Examples:
        crdtlog check notes.db
        crdtlog check notes.db --fix
    """
    with opened(file) as database:
        mended = database.mend() if fix else 0  # before draining, which reads them
        drain(database)
        with progress_bar() as progress:
            found = differences(database, progress)
            if fix:
                database.check(fix=True, progress=progress)
                left = differences(database, progress)
            else:
                left = found
        paused = {table.name: table.paused for table in database.tables() if table.paused}
    in_order = not any(item.total or item.damaged for item in left) and not paused
    if as_json:
        tables = [item._asdict() | {"total": item.total} for item in found]
        stopped = [{"table": name, "why": why} for name, why in paused.items()]
        show_json({"ok": in_order, "fixed": fix, "mended": mended, "tables": tables, "paused": stopped})
    else:
        if mended:
            say(f"Built the merge documents of {count(mended, 'row')} anew from the log.")
        _tell(found, fix=fix, file=file)
    if not in_order:
        context.exit(EXIT_NOT_IN_ORDER)


def differences(database: "Database", progress: "Progress") -> list["Difference"]:
    """What differs, asked again while other programs are writing: what they wrote meanwhile is no difference."""
    found = database.check(progress=progress)
    for _ in range(_ATTEMPTS):
        if not any(item.total for item in found) or not database.pending():
            break
        database.drain_all()
        found = database.check(progress=progress)
    return found


def _tell(found: list["Difference"], *, fix: bool, file: Path) -> None:
    rows = [(item.table, item.without_document, item.changed, item.missing, item.null_keys) for item in found]
    if rows:
        show_table(("TABLE", "NEW ROWS", "CHANGED", "GONE", "KEY IS NULL"), rows)
    total = sum(item.total for item in found)
    if not total:
        say("All rows agree with their documents.")
    elif fix:
        say(f"Took in {count(total, 'row')} as changed now.")
    else:
        say(f"{count(total, 'row')} differ. If the rows are right: crdtlog check {file} --fix")
    if damaged := sum(item.damaged for item in found):
        say(
            f"The merge documents of {count(damaged, 'row')} are damaged. Mend them: crdtlog check {file} --fix"
        )
    if any(item.null_keys for item in found):
        say("Rows whose key is NULL are not replicated; give them a key.")
