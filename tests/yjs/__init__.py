"""Yjs itself, run by node: what a program in JavaScript sees in the documents that we give.

`python -m tests.yjs` fetches the packages by name, checks them against pinned digests and unpacks them into `.cache/`;
`make test` does that first. Where they cannot be had, or node is not installed, the tests that need them are skipped.
"""

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.outside import CannotHave, package

PACKAGES = {
    "yjs@13.6.33": "q/UYvr1gOk4XII+Cu1CW2dINjYqJJFifTzogEaIARznrvX7uOlHsdTEXcnOBMuIsrCGEEKdNxi74kyMLZlKVfw==",
    "lib0@0.2.120": "/a2eRImR8sZbmMVKe2we1/KukDQkuPyPf8yol6epvCu2PH6hurjcRI3mdGFFAi0uGoRJGyns99JquZgxwW1tQg==",
}

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "yjs"
MODULES = CACHE / "-".join(PACKAGES) / "node_modules"


def seen_by_yjs(update: bytes, root: str | None = None, kind: str = "Map") -> Any:
    """What Yjs finds in a document with this update, in the map `row` or under another root; see show.cjs."""
    environment = {**os.environ, "NODE_PATH": str(MODULES)}
    done = subprocess.run(
        ["node", HERE / "show.cjs", *([root, kind] if root else [])],
        input=update,
        capture_output=True,
        env=environment,
        timeout=60,
    )
    assert not done.returncode, done.stderr.decode(errors="replace")
    return json.loads(done.stdout, parse_int=float)  # JavaScript has doubles, and prints them shortened


def why_missing() -> str | None:
    """Why Yjs cannot be used here, or None if it can."""
    if shutil.which("node") is None:
        return "node is not installed"
    if MODULES.exists():
        return None
    reason = CACHE / "failed"
    if reason.exists():
        return f"Yjs could not be fetched here: {reason.read_text().strip()}"
    return "Yjs is not there: run 'make yjs'"


def fetch() -> None:
    """Fetch, check and unpack the packages unless that is done. Raises CannotHave."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if MODULES.exists():
        return
    (CACHE / "failed").unlink(missing_ok=True)
    try:
        tarballs = {name: package(name, digest, CACHE) for name, digest in PACKAGES.items()}
    except CannotHave as error:
        (CACHE / "failed").write_text(f"{error}\n")
        raise
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        for name, tarball in tarballs.items():
            _unpack(tarball, Path(directory) / "node_modules" / name.partition("@")[0])
        # Moved into place at the end, so that an unpacking that was cut off leaves nothing that looks finished.
        MODULES.parent.mkdir(exist_ok=True)
        (Path(directory) / "node_modules").replace(MODULES)


def _unpack(tarball: bytes, into: Path) -> None:
    """Unpack a package's description and what node loads."""
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        for member in archive:
            path = member.name.removeprefix("package/")
            if member.isfile() and ".." not in path and (path == "package.json" or path.endswith(".cjs")):
                content = archive.extractfile(member)
                assert content is not None
                (into / path).parent.mkdir(parents=True, exist_ok=True)
                (into / path).write_bytes(content.read())
