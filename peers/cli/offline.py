"""What `crdtlog status` shows of a file that no daemon serves: the file itself is asked.

The shape is the daemon's own (`peers.node.status`), so that a reader cannot tell which of the two answered but by
`served`. Kept apart from the command because it loads the engine.
"""

from pathlib import Path
from typing import Any

from peers.cli.files import drain_if_quick, opened
from peers.node import status


def file_status(file: Path) -> dict[str, Any]:
    """The status of one file, without a network. Raises what `crdtlog.open` raises."""
    with opened(file) as database:
        drain_if_quick(database)
        return {"served": False, **status.describe(database)}
