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
_TYPES: dict[str, type] = {"listen": str, "peers": list, "mdns": bool}


class Network(NamedTuple):
    """Where to listen (`host:port`, None for the default), whom to dial besides, and whether to use mDNS."""

    listen: str | None
    peers: tuple[str, ...]
    mdns: bool


def config_path(home: "Home") -> Path:
    """The file that holds a home's settings; it need not exist."""
    return home.path / CONFIG_FILE_NAME


def network(
    home: "Home", listen: str | None = None, peers: Sequence[str] = (), no_mdns: bool | None = None
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
    if no_mdns is None and "CRDTLOG_NO_MDNS" in os.environ:
        no_mdns = os.environ["CRDTLOG_NO_MDNS"].lower() not in ("", "0", "false", "no", "off")
    return Network(listen, chosen, not no_mdns if no_mdns is not None else bool(config.get("mdns", True)))


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
        if not fits or (name == "peers" and not all(isinstance(item, str) for item in value)):
            raise Usage(
                f"{path}: the setting {name!r} has a wrong type", 'For example: listen = "0.0.0.0:4710"'
            )
    return config
