"""The control socket below /tmp, where a home's path is too long for one: in a directory of our own, or not at all."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from crdtlog.device import Home
from crdtlog.errors import DaemonUnavailable, KeysUnusable
from peers import control, control_server
from peers.control import Client
from peers.control_server import Server
from tests.peers.nodes import run

MakeHome = Callable[..., Path]


@pytest.fixture
def directory(home: MakeHome, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the socket goes."""
    directory = home("shared") / "crdtlog-1000"
    for module in (control, control_server):
        monkeypatch.setattr(module, "socket_path", lambda run: directory / "0.sock")
    return directory


def started(home: Path) -> None:
    """Start and stop a server."""

    async def scenario() -> None:
        server = Server(Home(home).prepare(), {})
        await server.start()
        try:
            with await asyncio.to_thread(Client.connect, Home(home)):
                pass
        finally:
            await server.close()

    run(scenario())


def test_a_directory_is_made_for_us_alone(home: MakeHome, directory: Path) -> None:
    started(home())
    assert directory.stat().st_mode & 0o777 == 0o700
    started(home())


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o705])
def test_one_that_others_may_enter_is_refused_with_what_to_do(
    home: MakeHome, directory: Path, mode: int
) -> None:
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(KeysUnusable, match="Other users may") as caught:
        started(home())
    assert caught.value.hint == f"Run: chmod 700 '{directory}'"
    with pytest.raises(DaemonUnavailable):
        Client.connect(Home(home()))


def test_a_link_to_a_directory_is_refused(home: MakeHome, directory: Path) -> None:
    directory.symlink_to(home("elsewhere"))
    with pytest.raises(KeysUnusable, match="another user") as caught:
        started(home())
    assert "CRDTLOG_HOME" in caught.value.hint


def test_one_of_another_user_is_refused_and_not_asked(
    home: MakeHome, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.mkdir(mode=0o700)
    # Only root may give a directory away; whoever runs this is taken for somebody else instead.
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(KeysUnusable, match="another user") as caught:
        started(home())
    assert "Have it removed" in caught.value.hint
    with pytest.raises(DaemonUnavailable, match="not this user's alone"):
        Client.connect(Home(home()))
