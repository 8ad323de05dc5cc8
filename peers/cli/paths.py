"""`crdtlog paths`: where this device keeps its keys, its state and its sockets."""

import click

from peers.cli.arguments import json_option
from peers.cli.output import show_json, show_table


@click.command()
@json_option
def paths(as_json: bool) -> None:
    """Show the directories in use; CRDTLOG_HOME moves all of them.

    \b
    Example:
        CRDTLOG_HOME=~/second crdtlog paths
    """
    from crdtlog.device import Home
    from peers.cli.settings import config_path

    home = Home.default()
    places = {
        "home": home.path,
        "keys": home.keys,
        "state": home.state,
        "run": home.run,
        "config": config_path(home),
    }
    if as_json:
        show_json({"paths": {name: str(path) for name, path in places.items()}})
        return
    show_table(("WHAT", "WHERE"), [(name, str(path)) for name, path in places.items()])
