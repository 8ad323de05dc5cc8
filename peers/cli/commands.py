"""The names of all commands, and how click finds them.

Knows where each command lives. Must not know what it does. The one idea: starting must be quick, so a command's module
is imported when it is asked for, and it imports the engine or the network inside the function that needs it.
"""

import importlib

import click

#: Name → the module and the attribute that hold it, in the order in which people meet them.
COMMANDS = {
    "init": "peers.cli.init:init",
    "track": "peers.cli.init:track",
    "up": "peers.cli.up:up",
    "pair": "peers.cli.pair:pair",
    "join": "peers.cli.pair:join",
    "sync": "peers.cli.sync:sync",
    "status": "peers.cli.status:status",
    "devices": "peers.cli.members:devices",
    "share": "peers.cli.pair:share",
    "role": "peers.cli.members:role",
    "remove": "peers.cli.members:remove",
    "leave": "peers.cli.members:leave",
    "recover": "peers.cli.members:recover",
    "conflicts": "peers.cli.show:conflicts",
    "restore-value": "peers.cli.history:restore_value",
    "history": "peers.cli.history:history",
    "aside": "peers.cli.show:aside",
    "doc": "peers.cli.doc:doc",
    "log": "peers.cli.show:log",
    "sql": "peers.cli.sql:sql",
    "verify": "peers.cli.check:verify",
    "check": "peers.cli.check:check",
    "relay": "peers.cli.relay:relay",
    "paths": "peers.cli.paths:paths",
    "doctor": "peers.cli.doctor:doctor",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, context: click.Context) -> list[str]:
        """All names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"crdtlog {version('crdtlog')}")
        except PackageNotFoundError:
            click.echo("crdtlog (not installed, run from its source)")
        context.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 error, 2 wrong use, 3 something is not in order, 75 try again later.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def group() -> None:
    """Replicate an SQLite file between your devices: any program writes plain SQL, everything merges.

    \b
    Example, on the first device and then on the second:
        crdtlog init notes.db
        crdtlog up notes.db &
        crdtlog pair notes.db
    \b
        crdtlog join 417-abandon-zebra-lucky notes.db
        crdtlog up notes.db
    """
