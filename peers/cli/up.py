"""`crdtlog up`: the daemon, in the foreground.

Knows how flags become the daemon's options. Must not know what the daemon does (`peers.daemon`).
"""

from pathlib import Path

import click

from peers.cli.arguments import network_options
from peers.cli.settings import network


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE ...]", type=click.Path(path_type=Path))
@network_options("listen", "relays", "insecure_relay", "forget_relays", "no_relay", "peers", "no_mdns")
@click.pass_context
def up(
    context: click.Context,
    files: tuple[Path, ...],
    listen: str | None,
    relays: tuple[str, ...],
    insecure_relay: bool | None,
    forget_relays: tuple[str, ...],
    no_relay: bool,
    peers: tuple[str, ...],
    no_mdns: bool | None,
) -> None:
    """Exchange changes of FILEs with other devices until stopped.

    Takes in what any program writes, finds the other devices on the local network, at the addresses given or through
    relays, and tells each thing worth knowing in one line. Without FILE: the files served before.

    \b
    Examples:
        crdtlog up notes.db
        crdtlog up notes.db --relay wss://relay.example
        crdtlog up notes.db --listen 0.0.0.0:4710 --peer 192.168.1.20:4710 --no-mdns
    """
    from crdtlog import Home
    from peers import daemon
    from peers.node.node import Options

    home = Home.default()
    chosen = network(home, listen, peers, no_mdns, relays, insecure_relay)
    options = Options(
        listen=chosen.listen,
        peers=chosen.peers,
        mdns=chosen.mdns,
        relays=() if no_relay else chosen.relays,
        insecure_relay=chosen.insecure_relay,
        uses_relays=not no_relay,
        forgotten_relays=forget_relays,
    )
    context.exit(daemon.run(files, options, home))
