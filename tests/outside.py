"""What tests need from outside, and a machine may lack: programs, and npm packages fetched by name.

A package is pinned by its digest and kept in `.cache/`; nothing of it is run when it is fetched.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


class CannotHave(Exception):
    """A program or a package cannot be had here; the message says why."""


def package(name: str, sha512: str, cache: Path) -> bytes:
    """An npm package's tarball, checked. Raises CannotHave."""
    kept = cache / f"{name}.tgz"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as directory:
            made = run(["npm", "pack", "--ignore-scripts", "--silent", name], Path(directory)).split()[-1]
            tarball = _checked(name, sha512, (Path(directory) / made).read_bytes())
        kept.write_bytes(tarball)
    return _checked(name, sha512, kept.read_bytes())


def _checked(name: str, sha512: str, tarball: bytes) -> bytes:
    digest = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if digest != sha512:
        raise CannotHave(f"{name} is not what was pinned: its sha512 is {digest}")
    return tarball


def run(command: list[str | os.PathLike[str]], directory: Path) -> str:
    """What a program prints. Raises CannotHave where it is missing or fails."""
    program = os.fspath(command[0])
    if shutil.which(program) is None:
        raise CannotHave(f"{program} is not installed")
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        raise CannotHave(f"{program} took longer than 300 s") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise CannotHave(f"{program} failed: {last}")
    return done.stdout
