"""Arguments and options that several commands share.

Knows how they are written and explained. Must not know what they mean to a command.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.decorators import FC

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


def network_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command some of the options listen, peers, no_mdns, relay; a relay is refused before the command runs."""
    options = {
        "listen": click.option("--listen", metavar="HOST:PORT", help="Where others reach this device."),
        "relay": click.option("--relay", metavar="URL", help="Not in this version."),
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
        @functools.wraps(command)
        def checked(*arguments: Any, relay: str | None, **named: Any) -> Any:
            _refuse_relay(relay)
            return command(*arguments, **named)

        for name in reversed(names):
            checked = options[name](checked)
        return checked

    return decorate


def _refuse_relay(relay: str | None) -> None:
    from crdtlog.errors import Usage

    if relay is not None:
        raise Usage(
            "this version has no relay: devices meet on the local network",
            "Leave --relay out; across networks, name the other device's address with --peer HOST:PORT",
        )
