"""`crdtlog pair`, `share` and `join`: the two ends of letting a device in.

Knows whom to ask to open a code: the daemon if one runs in this home, otherwise a node that lives for this one command.
Must not know how pairing works. Inviting another person is pairing with a name beside it, which stays on this side.
"""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from peers.cli.arguments import check_role, file_argument, json_option, network_options, yes_option
from peers.cli.files import opened
from peers.cli.output import count, say, show_data, show_json, visible, warn
from peers.cli.settings import network

if TYPE_CHECKING:
    from crdtlog import Database, Home
    from peers.cli.person import Invitation
    from peers.cli.settings import Network

_MAX_PERSON_CHARACTERS = 100

_history_option = click.option(
    "--no-history",
    "history",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Give it nothing that was overwritten or deleted before it joins.",
)


@click.command()
@file_argument
@click.option(
    "--role",
    default="admin",
    show_default=True,
    metavar="ROLE",
    help="What it may do: admin, writer or reader.",
)
@_history_option
@yes_option("Approve whoever gives the code, for scripts.")
@network_options("relays", "insecure_relay")
def pair(
    file: Path, role: str, history: bool, yes: bool, relays: tuple[str, ...], insecure_relay: bool | None
) -> None:
    """Let one more device share FILE: print a code, and wait until the device has joined with it.

    The code stands alone on the first line of the output. It is good for one device, one guess and ten minutes, in the
    local network and through the file's relays. An admin may let in others and change the group, a writer may only
    write, a reader may only read.

    With --no-history the device gets what stands now, and nothing that was overwritten or deleted before.

    \b
    Examples:
        crdtlog pair notes.db
        crdtlog pair notes.db --role writer
        crdtlog pair notes.db --relay wss://relay.example
    """
    from peers.cli.person import Invitation

    _let_in(file, Invitation(role, yes=yes, history=history), relays, insecure_relay)


@click.command()
@file_argument
@click.option(
    "--role",
    default="writer",
    show_default=True,
    metavar="ROLE",
    help="What it may do: admin, writer or reader.",
)
@click.option(
    "--name", "person", default="", metavar="NAME", help="Whom you invite; shown when you are asked."
)
@_history_option
@yes_option("Approve whoever gives the code, for scripts.")
@network_options("relays", "insecure_relay")
def share(
    file: Path,
    role: str,
    person: str,
    history: bool,
    yes: bool,
    relays: tuple[str, ...],
    insecure_relay: bool | None,
) -> None:
    """Invite another person to share FILE: as crdtlog pair, with a role that lets nobody else in.

    Give the code to that person alone, by telephone for example. NAME is shown when you are asked to approve the
    device, and stands in this device's log; the other side does not get it.

    \b
    Examples:
        crdtlog share notes.db --name Anna
        crdtlog share notes.db --role reader --name "the printer's office"
        crdtlog share notes.db --name Anna --no-history
    """
    from crdtlog.errors import Usage
    from peers.cli.person import Invitation

    if len(person) > _MAX_PERSON_CHARACTERS or not person.isprintable():
        raise Usage(
            f"a person's name is printable, and has {_MAX_PERSON_CHARACTERS} characters at most",
            "Use a shorter one.",
        )
    invitation = Invitation(role, yes=yes, shares=True, person=person.strip(), history=history)
    _let_in(file, invitation, relays, insecure_relay)


def _let_in(
    file: Path, invitation: "Invitation", relays: tuple[str, ...], insecure_relay: bool | None
) -> None:
    from crdtlog import Home

    check_role(invitation.role)
    home = Home.default()
    with opened(file) as database:  # not a database, or another device's: said before a code is made
        if not invitation.history:
            _tell_what_goes_along(database, home)
    chosen = network(home, relays=relays, insecure_relay=insecure_relay)
    device = _by_daemon(home, chosen, file, invitation) or _by_ourselves(home, chosen, file, invitation)
    invited = f", invited as {invitation.person}" if invitation.person else ""
    say(f"{visible(device['name'])} has joined as {device['role']}{invited}.")


def _tell_what_goes_along(database: "Database", home: "Home") -> None:
    """Of which rows earlier values go along with what stands, and why."""
    from crdtlog.errors import DaemonUnavailable
    from peers.control import Client

    with contextlib.suppress(DaemonUnavailable), Client.connect(home) as client:
        client.request("status")  # which has it write down what others have told a moment ago
    database.drain_all()
    unsettled = database.unsettled()
    if not unsettled.rows:
        return
    names = {member.device: visible(member.name) for member in database.members()}
    behind = " and ".join(names.get(device, device.hex()[:12]) for device in unsettled.devices)
    say(
        f"Of {count(unsettled.rows, 'row')} earlier values go along: they have changed, and {behind} may not have that "
        "yet. To leave them out, let all devices sync first, or remove one that is gone for good."
    )


def _by_daemon(
    home: "Home", chosen: "Network", file: Path, invitation: "Invitation"
) -> dict[str, Any] | None:
    """The device that joined through the daemon of this home; None if no daemon runs."""
    from crdtlog.errors import DaemonUnavailable
    from peers.cli import person
    from peers.control import Client

    try:
        client = Client.connect(home)
    except DaemonUnavailable:
        return None
    with client:
        asked_for = {
            "path": str(file.absolute()),
            "role": invitation.role,
            "invited": invitation.person,
            "history": invitation.history,
            "relays": chosen.relays,
            "insecure_relay": chosen.insecure_relay,
        }
        for message in client.stream("pair", **asked_for):
            if "code" in message:
                person.show_code(message["code"], message.get("address"), file, invitation)
            elif "approve" in message:
                asked = message["approve"]
                client.send({"approve": person.approves(asked["name"], asked["fingerprint"], invitation)})
            elif "told" in message:
                say(visible(message["told"]))
            elif "done" in message:
                return dict(message["done"]["device"])
    return None


def _by_ourselves(home: "Home", chosen: "Network", file: Path, invitation: "Invitation") -> dict[str, Any]:
    """The device that joined through a node of our own."""
    import asyncio

    from peers.cli import person
    from peers.node.node import Options
    from peers.node.standalone import pair_once

    async def show_code(code: str, address: str) -> None:
        person.show_code(code, address, file, invitation)

    async def approve(name: str, fingerprint: str) -> bool:
        return await person.ask(name, fingerprint, invitation)

    async def tell(line: str) -> None:
        say(visible(line))

    options = Options(
        listen=chosen.listen,
        peers=chosen.peers,
        mdns=chosen.mdns,
        relays=chosen.relays,
        insecure_relay=chosen.insecure_relay,
    )
    pairing = pair_once(
        file,
        invitation.role,
        home=home,
        show_code=show_code,
        approve=approve,
        tell=tell,
        options=options,
        invited=invitation.person,
        history=invitation.history,
    )
    return dict(asyncio.run(pairing)["device"])


@click.command()
@click.argument("code")
@file_argument
@click.option(
    "--device",
    envvar="CRDTLOG_DEVICE",
    metavar="NAME",
    help="How others see this device (default: host name).",
)
@network_options("relays", "insecure_relay", "peers", "no_mdns")
@json_option
def join(
    code: str,
    file: Path,
    device: str | None,
    relays: tuple[str, ...],
    insecure_relay: bool | None,
    peers: tuple[str, ...],
    no_mdns: bool | None,
    as_json: bool,
) -> None:
    """Make FILE a copy of the database whose device shows CODE, and fetch what that device has.

    FILE may be missing, be empty, or hold rows in the same tables, which are then merged by key. With - for CODE it is
    read from standard input, where other users of this machine do not see it among the arguments of programs.

    \b
    Examples:
        crdtlog join 417-abandon-zebra-lucky notes.db
        crdtlog join 417-abandon-zebra-lucky notes.db --device phone --peer 192.168.1.20:4710
        crdtlog join 417-abandon-zebra-lucky notes.db --relay wss://relay.example
    """
    import asyncio

    from crdtlog import Home
    from peers.node import joining

    home = Home.default()
    chosen = network(home, None, peers, no_mdns, relays, insecure_relay)
    if code == "-":
        code = sys.stdin.readline()
    _tell_fingerprint(home, code, device)
    work = joining.join(
        code,
        file,
        home=home,
        name=device,
        peers=chosen.peers,
        mdns=chosen.mdns,
        progress=_show_progress,
        relays=chosen.relays,
        insecure_relay=chosen.insecure_relay,
    )
    joined = asyncio.run(work)["joined"]
    if as_json:
        show_json({"joined": joined})
    else:
        show_data(
            f"{file} is shared with {visible(joined['issuer']['name'])}; this device is {visible(joined['name'])}."
        )
    if not joined["complete"]:
        warn(f"Not all rows are here yet ({joined['why']}). They come with: crdtlog up {file}")
    else:
        say(f"Next: crdtlog up {file}")


def _tell_fingerprint(home: "Home", code: str, name: str | None) -> None:
    """Show what the other device's person is asked to compare. Raises `Usage` for what is no code."""
    from crdtlog.certificate import certificate_of
    from crdtlog.device import load_device
    from peers.identity import fingerprint, readable
    from peers.pairing.codes import parse_code

    parse_code(code)
    certificate = certificate_of(load_device(home.prepare(), name=name))
    say(f"This device's fingerprint is {readable(fingerprint(certificate))}")


def _show_progress(line: str) -> None:
    say(visible(line))
