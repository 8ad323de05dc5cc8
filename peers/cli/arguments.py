"""Arguments and options that several commands share.

Knows how they are written and explained. Must not know what they mean to a command.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.decorators import FC

#: What a device may do; the engine's list is `crdtlog.membership.ROLES`, which starting a command should not load.
ROLES = ("admin", "writer", "reader")
#: For commands with a KEY, which can be a number below zero.
NEGATIVE_KEY = {"ignore_unknown_options": True}


def file_argument(command: "FC") -> "FC":
    """Give a command the argument FILE, as a `Path`."""
    return click.argument("file", type=click.Path(path_type=Path))(command)


def json_option(command: "FC") -> "FC":
    """Give a command the option `--json`, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON; see docs/reference/json.md.")(
        command
    )


def yes_option(text: str) -> Callable[["FC"], "FC"]:
    """Give a command the option `--yes`, which answers its question; `text` is its help."""
    return click.option("--yes", is_flag=True, help=text)


def check_role(role: str) -> None:
    """Require a role that there is. Raises `Usage`."""
    from crdtlog.errors import Usage

    if role not in ROLES:
        raise Usage(f"there is no role {role!r}", f"Roles: {', '.join(ROLES)}.")


def network_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command some of the options listen, peers, no_mdns, relays, insecure_relay, forget_relays, no_relay."""
    options = {
        "listen": click.option("--listen", metavar="HOST:PORT", help="Where others reach this device."),
        "relays": click.option(
            "--relay",
            "relays",
            multiple=True,
            metavar="URL",
            help="A relay, used from now on; may be repeated.",
        ),
        "insecure_relay": click.option(
            "--insecure-relay",
            is_flag=True,
            default=None,
            help="Allow ws:// to another machine: whoever is on the way sees who uses which mailbox.",
        ),
        "forget_relays": click.option(
            "--forget-relay",
            "forget_relays",
            multiple=True,
            metavar="URL",
            help="Use this relay no more; may be repeated.",
        ),
        "no_relay": click.option("--no-relay", is_flag=True, help="Use no relay this time."),
        "peers": click.option(
            "--peer",
            "peers",
            multiple=True,
            metavar="HOST:PORT",
            help="A device's address.",
        ),
        "no_mdns": click.option(
            "--no-mdns",
            is_flag=True,
            default=None,
            help="Find nobody and be found by nobody.",
        ),
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = options[name](command)
        return command

    return decorate
