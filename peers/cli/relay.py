"""`crdtlog relay`: the relay, in the foreground.

Knows how flags become a relay's options, and where its files are. Must not know what a relay does (`peers.relay`).
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from peers.cli.output import say, show_data, visible, warn

if TYPE_CHECKING:
    from peers.relay.running import Options
    from peers.relay.settings import Settings

MIN_TOKEN_CHARACTERS = 16
_DIRECTORY = "relay"
_MIB = 1 << 20


@click.command()
@click.option(
    "--listen",
    multiple=True,
    metavar="HOST:PORT",
    help="Where clients reach it; may be repeated (default: port 4711 of all addresses).",
)
@click.option(
    "--store",
    envvar="CRDTLOG_RELAY_STORE",
    metavar="URL",
    help="A file, or postgresql://USER@HOST/DATABASE (default: a file in the home).",
)
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="A name by which clients dial it; may be repeated."
)
@click.option(
    "--cert",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Its certificate with the chain, PEM.",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The certificate's key, PEM.",
)
@click.option("--proxy", is_flag=True, help="A proxy in front does TLS, and says who calls.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Serve only who has a token: one on each line.",
)
@click.option(
    "--ttl",
    type=click.IntRange(1, 3650),
    default=30,
    show_default=True,
    metavar="DAYS",
    help="How long blobs are kept.",
)
@click.option(
    "--mailbox-size",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    metavar="MIB",
    help="What one mailbox may hold.",
)
@click.option(
    "--total-size", type=click.IntRange(1), metavar="MIB", help="What all mailboxes together may hold."
)
@click.option(
    "--connections",
    type=click.IntRange(1),
    default=15_000,
    show_default=True,
    metavar="N",
    help="Connections at once.",
)
@click.option(
    "--per-address",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    metavar="N",
    help="Connections of one address at once.",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Serve /metrics, /healthz and /readyz there, to whoever reaches that.",
)
def relay(
    listen: tuple[str, ...],
    store: str | None,
    hosts: tuple[str, ...],
    cert: Path | None,
    key: Path | None,
    proxy: bool,
    token_file: Path | None,
    ttl: int,
    mailbox_size: int,
    total_size: int | None,
    connections: int,
    per_address: int,
    metrics: str | None,
) -> None:
    """Keep encrypted changes for devices that are never online together, until stopped.

    A relay can read nothing of what it keeps. It prints the URLs to give to devices. Without --cert it makes a
    certificate of its own, which the URL names; on a loopback address it does without.

    \b
    Examples:
        crdtlog relay
        crdtlog relay --listen 127.0.0.1:4711 --proxy --host relay.example
        crdtlog relay --cert fullchain.pem --key privkey.pem --store postgresql://relay@db.example/relay
    """
    import asyncio

    from peers.relay.running import run
    from peers.relay.settings import Settings
    from peers.relay.store import Quota

    names = hosts or _names_of(cert)
    quota = Quota(mailbox_bytes=mailbox_size * _MIB)
    if total_size is not None:
        quota = quota._replace(store_bytes=total_size * _MIB)
    settings = Settings(
        hosts=names,
        tokens=_tokens(token_file),
        behind_proxy=proxy,
        quota=quota,
        ttl_s=ttl * 86_400,
        connections=connections,
        connections_per_source=per_address,
    )
    options = _options(settings, listen, store, cert, key, metrics)
    is_open = not settings.tokens and (proxy or not all(_is_loopback(host) for host, _ in options.listen))

    def show(urls: list[str]) -> None:
        for url in urls:
            show_data(url)
        sys.stdout.flush()  # scripts wait for it
        if is_open:
            warn("Whoever reaches this relay may use it; --token-file makes it serve only who has a token.")

    asyncio.run(run(options, settings, show, tell=lambda line: say(visible(line))))


def _options(
    settings: "Settings",
    listen: tuple[str, ...],
    store: str | None,
    cert: Path | None,
    key: Path | None,
    metrics: str | None,
) -> "Options":
    from crdtlog.errors import Usage
    from peers.node.transport import parse_address
    from peers.relay.core import Hosts
    from peers.relay.running import DEFAULT_PORT, Options

    Hosts(settings.hosts)  # each is a name
    if (cert is None) != (key is None):
        raise Usage("--cert and --key belong together", "Name both.")
    if settings.behind_proxy and cert is not None:
        raise Usage(
            "behind a proxy, the proxy has the certificate", "Leave out --cert and --key, or --proxy."
        )
    if cert is not None and not settings.hosts:
        raise Usage(f"{cert} is for no name", "Say by which name clients dial: --host relay.example")
    if settings.behind_proxy and not settings.hosts:
        raise Usage(
            "behind a proxy, the relay must know by which name clients dial it", "Add: --host relay.example"
        )
    places = tuple(map(parse_address, listen)) or (("", DEFAULT_PORT),)
    options = Options(
        store=store or str(_directory() / "relay.db"),
        listen=places,
        certificate=cert,
        key=key,
        metrics=parse_address(metrics) if metrics else None,
    )
    if cert is not None or settings.behind_proxy or all(_is_loopback(host) for host, _ in places):
        return options
    own, pin = _own_certificate()
    return Options(options.store, places, own, None, pin, options.metrics)


def _is_loopback(host: str) -> bool:
    from peers.relay.running import is_loopback

    return is_loopback(host)


def _directory() -> Path:
    """Where a relay of this home keeps its files."""
    from crdtlog.device import Home, private_directory

    home = Home.default()
    private_directory(home.state)
    return private_directory(home.state / _DIRECTORY)


def _own_certificate() -> tuple[Path, str]:
    """A file with key and certificate of the relay's own, made when it is first needed; and the SHA-256."""
    from crdtlog.device import create_private, read_private
    from peers.relay.certificates import pin_of, self_signed

    path = _directory() / "relay.pem"
    if not path.exists():
        create_private(path, self_signed())  # of two processes one wins, and both read the same
    return path, pin_of(read_private(path))


def _names_of(cert: Path | None) -> tuple[str, ...]:
    """The names that a certificate is for."""
    from peers.relay.certificates import names_of

    return names_of(cert.read_bytes()) if cert is not None else ()


def _tokens(path: Path | None) -> frozenset[str]:
    from crdtlog.device import read_private
    from crdtlog.errors import Usage
    from peers.relay.messages import MAX_TOKEN_CHARACTERS

    if path is None:
        return frozenset()
    try:
        lines = read_private(path).decode("utf-8").split("\n")
    except FileNotFoundError:
        raise Usage(
            f"there is no file {path}",
            f"Make one: (umask 077; openssl rand -hex 20 > {os.fspath(path)})",
        ) from None
    except UnicodeDecodeError as error:
        raise Usage(f"{path} is not UTF-8 text", "Write one token on each line.") from error
    tokens = frozenset(line.strip() for line in lines if line.strip())
    if not tokens or not all(MIN_TOKEN_CHARACTERS <= len(token) <= MAX_TOKEN_CHARACTERS for token in tokens):
        raise Usage(
            f"{path} must hold tokens of {MIN_TOKEN_CHARACTERS} to {MAX_TOKEN_CHARACTERS} characters, one on each line",
            "Make one: openssl rand -hex 20",
        )
    return tokens
