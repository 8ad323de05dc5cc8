"""`crdtlog relay`: what it prints, its certificates, its files, its end."""

import asyncio
import os
import re
import resource
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crdtlog.errors import PeerRefused
from peers.relay.certificates import pin_of, self_signed
from peers.relay.client import Client, RelayUrl
from peers.relay.refusals import Refused
from tests.peers.cli_world import Crdtlog, assert_an_error
from tests.peers.relay_load import ONE, Process, under_load
from tests.peers.relay_world import blob, run

MakeHome = Callable[..., Path]


async def appended(url: RelayUrl, token: str | None = None) -> int:
    client = await Client.connect(url, token)
    try:
        await client.open(ONE)
        return await client.append(ONE.mailbox, blob(1))
    finally:
        await client.close()


def test_on_loopback_it_speaks_without_tls_and_keeps_what_it_has(home: MakeHome) -> None:
    for number in (1, 2):
        process = Process(home())
        assert process.shown.startswith("ws://127.0.0.1:")
        assert asyncio.run(appended(process.url)) == number
        assert process.stop() == 0
        assert "stopped" in process.log.read_text()
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home() / "state" / "relay").iterdir()}
    assert files == {"relay.db": 0o600, "relay.db.lock": 0o600}


def test_elsewhere_it_makes_a_certificate_that_its_url_names(home: MakeHome) -> None:
    shown = []
    for _ in range(2):
        process = Process(home(), "--listen", "0.0.0.0:0")
        url = process.url
        assert url.pin is not None and url.base.startswith("wss://")
        here = url._replace(base=f"wss://127.0.0.1:{url.host.rpartition(':')[2]}")
        here = here._replace(host=here.base.removeprefix("wss://"))
        assert asyncio.run(appended(here)) == len(shown) + 1
        for pin in (None, bytes(32)):
            with pytest.raises(PeerRefused, match="certificate"):
                asyncio.run(appended(here._replace(pin=pin)))
        assert process.stop() == 0
        assert "may use it" in process.log.read_text()
        shown.append(url.pin)
    assert shown[0] == shown[1], "clients have the URL: the certificate stays"
    assert stat.S_IMODE((home() / "state" / "relay" / "relay.pem").stat().st_mode) == 0o600


def test_a_certificate_of_the_operator_s_is_read_again_on_sighup(home: MakeHome, tmp_path: Path) -> None:
    path, pins = tmp_path / "relay.pem", []
    for _ in range(2):
        path.write_bytes(self_signed())
        pins.append(bytes.fromhex(pin_of(path.read_bytes())))
        if len(pins) == 1:
            process = Process(
                home(), "--listen", "127.0.0.1:0", "--cert", path, "--key", path, "--host", "localhost"
            )
            assert process.shown.startswith("wss://localhost:") and "#" not in process.shown
        else:
            os.kill(process.pid, signal.SIGHUP)
            process.wait_for_line("read again")
        assert asyncio.run(appended(process.url._replace(pin=pins[-1]))) == len(pins)
    path.write_text("no certificate")
    os.kill(process.pid, signal.SIGHUP)
    process.wait_for_line("stays as it was")
    assert asyncio.run(appended(process.url._replace(pin=pins[-1]))) == 3
    assert process.stop() == 0


def test_a_token_file_keeps_others_out(home: MakeHome, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("a token of some length\n\nanother token of some length\n")
    path.chmod(0o600)
    process = Process(home(), "--listen", "127.0.0.1:0", "--token-file", path)
    try:
        assert asyncio.run(appended(process.url, "another token of some length")) == 1
        for wrong in (None, ""):
            with pytest.raises(Refused) as refused:
                asyncio.run(appended(process.url, wrong))
            assert refused.value.code == "token"
    finally:
        process.kill()


def test_behind_a_proxy_its_url_is_the_proxy_s(home: MakeHome) -> None:
    process = Process(home(), "--listen", "0.0.0.0:0", "--proxy", "--host", "relay.example")
    process.kill()

    assert process.shown == "wss://relay.example"


def test_killed_under_load_it_has_lost_nothing_that_was_acknowledged(home: MakeHome) -> None:
    async def scenario() -> None:
        processes = [Process(home())]

        async def disturb() -> None:
            for _ in range(3):
                await asyncio.sleep(0.4)
                processes[0].kill()
                processes[0] = await asyncio.to_thread(Process, home())

        try:
            writers = await under_load(processes, asyncio.create_task(disturb()))
            assert all(writer.broken for writer in writers)
        finally:
            processes[0].kill()

    run(scenario())


@pytest.mark.parametrize(
    ("arguments", "code", "about"),
    [
        (["--proxy"], 2, "by which name"),
        (["--proxy", "--host", "relay.example", "--cert", "x.pem", "--key", "x.pem"], 2, "proxy has"),
        (["--cert", "x.pem", "--host", "relay.example"], 2, "belong together"),
        (["--cert", "x.pem", "--key", "x.pem", "--host", "relay.example"], 2, "cannot be used"),
        (["--cert", "x.pem", "--key", "x.pem"], 1, "x.pem"),
        (["--host", "a/b"], 2, "not the name of a host"),
        (["--listen", "nonsense"], 2, "not an address"),
        (["--listen", "192.0.2.77:0", "--proxy", "--host", "a.example"], 2, "annot listen"),
        (["--metrics", "nonsense"], 2, "not an address"),
        (["--token-file", "missing"], 2, "no file"),
        (["--store", "mysql://x/y", "--listen", "127.0.0.1:0"], 2, "no store"),
        (["--store", "missing/relay.db", "--listen", "127.0.0.1:0"], 1, "cannot be written"),
        (["--store", "postgresql://relay@127.0.0.1:1/x", "--listen", "127.0.0.1:0"], 75, "cannot be reached"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_said(
    arguments: list[str],
    code: int,
    about: str,
    crdtlog: Crdtlog,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if "postgresql" in " ".join(arguments):
        pytest.importorskip("asyncpg")
    monkeypatch.chdir(tmp_path)
    done = crdtlog("relay", *arguments, fails=code)

    assert_an_error(done)
    assert about in done.err


def test_without_asyncpg_it_says_what_to_install(crdtlog: Crdtlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    done = crdtlog("relay", "--store", "postgresql://x@127.0.0.1/x", "--listen", "127.0.0.1:0", fails=1)

    assert_an_error(done, "asyncpg", "crdtlog[relay-postgres]")


@pytest.mark.parametrize(
    ("text", "mode"), [("short\n", 0o600), ("", 0o600), ("a token of some length\n", 0o644)]
)
def test_a_token_file_that_protects_nothing_is_refused(
    text: str, mode: int, crdtlog: Crdtlog, tmp_path: Path
) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    path.chmod(mode)

    assert_an_error(crdtlog("relay", "--token-file", path, fails=1 if mode == 0o644 else 2))


def test_it_takes_the_descriptors_it_needs_or_says_that_it_cannot(home: MakeHome) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        pytest.skip("the system allows any number of open files")
    for connections, is_enough in ((hard - 100, True), (hard, False)):
        process = Process(home(), "--listen", "127.0.0.1:0", "--connections", connections)
        limits = Path(f"/proc/{process.pid}/limits").read_text() if Path("/proc").exists() else ""
        process.kill()
        assert ("fewer than" in process.log.read_text()) == (not is_enough)
        if limits:
            assert re.search(rf"Max open files +{hard} ", limits)


def test_two_relays_of_one_home_do_not_share_a_file(
    home: MakeHome, crdtlog: Crdtlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(home())
    try:
        monkeypatch.setenv("CRDTLOG_HOME", str(home()))
        done = crdtlog("relay", "--listen", "127.0.0.1:0", fails=75)
        assert "Another relay" in done.err
    finally:
        process.kill()
