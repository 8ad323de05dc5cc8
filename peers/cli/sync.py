"""`crdtlog sync`: bring all devices that can be reached to the same state, then end.

Knows whom to ask: the daemon that serves the file, or a node that lives for this one command.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from peers.cli.arguments import file_argument, json_option
from peers.cli.files import opened, warn_paused
from peers.cli.output import complain, say, show_data, show_json, visible
from peers.cli.settings import network

if TYPE_CHECKING:
    from crdtlog import Home
    from peers.cli.settings import Network

EXIT_INCOMPLETE = 75
DEFAULT_TIMEOUT_S = 30.0


@click.command()
@file_argument
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    help="Give up after this long.",
)
@json_option
@click.pass_context
def sync(context: click.Context, file: Path, timeout: float, as_json: bool) -> None:
    """Exchange everything with every device that can be reached, then end.

    Takes in what was written, dials every known address and relay at once, and returns when all devices that can be
    reached hold the same, and everything is exchanged with the relays. Exit code 75 if neither a device nor a relay was
    reached, or time ran out.

    \b
    Examples:
        crdtlog sync notes.db
        crdtlog sync notes.db --timeout 5
    """
    from crdtlog import Home

    with opened(file) as database:
        warn_paused(database)
    home = Home.default()
    chosen = network(home)
    answer = _by_daemon(home, file, timeout) or _by_ourselves(home, chosen, file, timeout)
    result = answer["sync"]
    if as_json:
        show_json({"sync": result})
    else:
        for device in result["devices"]:
            why = f" ({visible(device['why'])})" if device["why"] else ""
            show_data(f"{visible(device['name'])}: {device['state']}{why}")
        for relay in result["relays"]:
            why = f" ({visible(relay['why'])})" if relay["why"] else ""
            show_data(f"{visible(relay['url'])}: {relay['state']}{why}")
        if not result["devices"]:
            say(f"No other device shares {file} yet. Let one in: crdtlog pair {file}")
    if any(found["state"] == "behind" for found in (*result["devices"], *result["relays"])):
        complain(
            "time ran out before all devices held the same", f"Try again: crdtlog sync {file} --timeout 300"
        )
        context.exit(EXIT_INCOMPLETE)


def _by_daemon(home: "Home", file: Path, timeout_s: float) -> dict[str, Any] | None:
    """The answer of the daemon, which serves the file from then on; None if none runs."""
    from crdtlog.errors import DaemonUnavailable
    from peers.control import Client

    try:
        client = Client.connect(home)
    except DaemonUnavailable:
        return None
    with client:
        return client.request("sync", path=str(file.absolute()), timeout=timeout_s)


def _by_ourselves(home: "Home", chosen: "Network", file: Path, timeout_s: float) -> dict[str, Any]:
    import asyncio

    from peers.node.node import Options
    from peers.node.standalone import sync_once

    options = Options(
        listen=chosen.listen,
        peers=chosen.peers,
        mdns=chosen.mdns,
        relays=chosen.relays,
        insecure_relay=chosen.insecure_relay,
    )
    return asyncio.run(sync_once(file, home=home, options=options, timeout_s=timeout_s))
