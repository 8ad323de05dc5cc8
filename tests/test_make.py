"""What make does to a `.venv` that somebody else made: nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a virtual environment of its owner's, and a pip-compile that needs no network."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("theirs")
    compiles = tmp_path / ".cache" / "lock" / "bin" / "pip-compile"
    compiles.parent.mkdir(parents=True)
    compiles.write_text("#!/bin/sh\necho ran >> compiled\n")
    compiles.chmod(0o755)
    return tmp_path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", *arguments, f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60)


def theirs(checkout: Path) -> list[tuple[str, str]]:
    return [(path.name, path.read_text()) for path in (checkout / ".venv").iterdir()]


def test_lock_needs_no_virtual_environment_and_leaves_theirs(checkout: Path) -> None:
    done = make(checkout, "lock")

    assert done.returncode == 0, done.stderr
    assert (checkout / "compiled").read_text() == "ran\nran\n"
    assert theirs(checkout) == [("pyvenv.cfg", "theirs")]


@pytest.mark.parametrize("target", ["setup", "setup-dev", "lint", "test"])
def test_what_needs_a_virtual_environment_says_that_theirs_is_in_the_way(checkout: Path, target: str) -> None:
    done = make(checkout, target)

    assert done.returncode != 0 and "make did not make" in done.stderr
    assert theirs(checkout) == [("pyvenv.cfg", "theirs")]


def test_clean_leaves_theirs(checkout: Path) -> None:
    assert make(checkout, "clean").returncode == 0
    assert theirs(checkout) == [("pyvenv.cfg", "theirs")] and not (checkout / ".cache").exists()


def test_clean_removes_its_own_also_one_that_was_never_finished(checkout: Path) -> None:
    (checkout / ".venv" / ".making").touch()

    assert make(checkout, "clean").returncode == 0
    assert not (checkout / ".venv").exists()
