"""`crdtlog status`: one line a device; the work is done by `overview`, which needs no click."""

from pathlib import Path

import click

from peers.cli import overview
from peers.cli.arguments import json_option


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
def status(file: Path | None, as_json: bool) -> None:
    """Show how far each device is: one line a device with its path, its lag and when it was last seen.

    Without FILE: all files that the daemon serves. Without a daemon the files themselves are asked.

    \b
    Examples:
        crdtlog status
        crdtlog status notes.db --json
    """
    overview.show(file, as_json)
