"""The command line: how a run of `crdtlog` begins and ends.

Knows the exit codes and how errors are told. Must not know what a command does (`commands` names them). The one idea:
people and scripts run `crdtlog status` again and again, so it goes past click, whose import alone takes three times as
long as starting Python; this file and what `status` needs import next to nothing.
"""

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

# The exit codes that are not an error's own (`CrdtlogError.exit_code`); docs/reference/exit-codes.md lists all.
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def main() -> NoReturn:
    """The program `crdtlog`."""
    _leave_no_core()
    sys.exit(run())


def _leave_no_core() -> None:
    """Have no crash of this process or its children write its memory to a file.

    It would hold this device's keys and the epochs' secrets, and core files get copied, collected and mailed. Handlers
    that the kernel pipes a core to, such as systemd's, look at the limit, too. Whoever needs a core can still attach a
    debugger.
    """
    try:
        import resource
    except ImportError:  # not POSIX
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; what went wrong has been said on standard error."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no error
    try:
        code = _run(given)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on, as in `crdtlog log FILE | head`. What is still in the buffer must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:
        explained = _explain(error)
        if explained is None:
            raise
        return explained


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["status"] and "_CRDTLOG_COMPLETE" not in os.environ:
        from peers.cli import overview

        if (asked := overview.parse(arguments[1:])) is not None:
            overview.show(*asked)
            return 0
    from peers.cli.commands import group

    if "_CRDTLOG_COMPLETE" in os.environ:  # a shell asks how a word could go on
        group.main(prog_name="crdtlog")
    import click

    try:
        with group.make_context("crdtlog", arguments) as context:
            group.invoke(context)
        return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help() if error.ctx else "", file=sys.stderr)
        return error.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code


def _explain(error: Exception) -> int | None:
    """Say what an expected error is about; None for one that nobody expected, which is a defect.

    A module that was not imported cannot have raised its errors, so none is imported here.
    """
    from peers.cli.output import complain

    errors = sys.modules.get("crdtlog.errors")
    if errors is not None and isinstance(error, errors.CrdtlogError):
        complain(str(error), error.hint)
        return int(error.exit_code)
    sqlite = sys.modules.get("sqlite3")
    if sqlite is not None and isinstance(error, sqlite.Error):
        complain(f"SQLite refused: {error}", "See whether the file is in order: crdtlog doctor FILE")
        return EXIT_ERROR
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror}", "Check the path, its permissions and the disk.")
        return EXIT_ERROR
    return None
