"""Settings for the network: flag over environment over file.

Knows what `up`, `pair`, `join` and `sync` share, and the file `config.toml` in the home. Must not know what the network
does with it. `pair` and `sync` lack the flags of `up`: environment and file serve them too.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from crdtlog import Home

CONFIG_FILE_NAME = "config.toml"
_TYPES: dict[str, type] = {
    "listen": str,
    "peers": list,
    "mdns": bool,
    "relays": list,
    "insecure_relay": bool,
}


class Network(NamedTuple):
    """Where to listen (`host:port`, None for the default), whom to dial besides, whether to use mDNS, and relays.

    `insecure_relay` allows `ws://` to other machines.
    """

    listen: str | None
    peers: tuple[str, ...]
    mdns: bool
    relays: tuple[str, ...]
    insecure_relay: bool


def config_path(home: "Home") -> Path:
    """The file that holds a home's settings; it need not exist."""
    return home.path / CONFIG_FILE_NAME


def network(
    home: "Home",
    listen: str | None = None,
    peers: Sequence[str] = (),
    no_mdns: bool | None = None,
    relays: Sequence[str] = (),
    insecure_relay: bool | None = None,
) -> Network:
    """The settings in force: what was given, else the environment, else the file. Raises `Usage`."""
    from peers.node.transport import parse_address

    config = _read(config_path(home))
    listen = listen or os.environ.get("CRDTLOG_LISTEN") or config.get("listen")
    chosen = (
        tuple(peers) or tuple(os.environ.get("CRDTLOG_PEER", "").split()) or tuple(config.get("peers", ()))
    )
    for address in (*chosen, *([listen] if listen else [])):
        parse_address(address)
    if no_mdns is None:
        no_mdns = _flag("CRDTLOG_NO_MDNS")
    if insecure_relay is None:
        insecure_relay = _flag("CRDTLOG_INSECURE_RELAY")
    return Network(
        listen,
        chosen,
        not no_mdns if no_mdns is not None else bool(config.get("mdns", True)),
        tuple(relays)
        or tuple(os.environ.get("CRDTLOG_RELAY", "").split())
        or tuple(config.get("relays", ())),
        insecure_relay if insecure_relay is not None else bool(config.get("insecure_relay", False)),
    )


def _flag(name: str) -> bool | None:
    """What the environment says; None if nothing."""
    said = os.environ.get(name)
    return said.lower() not in ("", "0", "false", "no", "off") if said is not None else None


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    import tomllib

    from crdtlog.errors import Usage

    try:
        config = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise Usage(f"{path} is not valid TOML: {error}", "Correct it, or remove it.") from error
    for name in config:
        value: Any = config[name]
        if name not in _TYPES:
            raise Usage(f"{path} has an unknown setting {name!r}", f"Settings: {', '.join(_TYPES)}.")
        fits = isinstance(value, _TYPES[name])
        if not fits or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
            raise Usage(
                f"{path}: the setting {name!r} has a wrong type", 'For example: listen = "0.0.0.0:4710"'
            )
    return config
