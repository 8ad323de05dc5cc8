"""The command line of devices that meet at a relay, from the first code on, and never directly."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers.cli_devices import NOTES, Machine, eventually, read_until
from tests.peers.cli_reference import assert_shape, documented
from tests.peers.cli_world import finished
from tests.peers.relay_load import Process

TOKEN = "a-token-of-the-operators"


@pytest.fixture
def relay(home: Callable[..., Path], tmp_path: Path) -> Iterator[str]:
    """The URL of a relay with TLS, a certificate of its own, and a token."""
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN + "\n")
    tokens.chmod(0o600)
    process = Process(home("relay"), "--listen", "0.0.0.0:0", "--token-file", str(tokens))
    port = process.url.host.rpartition(":")[2]
    assert process.url.pin is not None
    yield f"wss://127.0.0.1:{port}#sha256={process.url.pin.hex()}&token={TOKEN}"
    assert process.stop() == 0


@pytest.fixture
def devices(home: Callable[..., Path], tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """A laptop with a replicated file of two notes, and a phone without any."""
    laptop, phone = (Machine(name, home(name), tmp_path / name) for name in ("laptop", "phone"))
    laptop.write(NOTES)
    laptop.run("init", "notes.db", "--device", "laptop")
    yield laptop, phone
    laptop.stop()
    phone.stop()


def test_devices_pair_and_exchange_through_a_relay_alone(
    relay: str, devices: tuple[Machine, Machine]
) -> None:
    laptop, phone = devices
    pairing, code = laptop.pair("--yes", "--relay", relay)
    joined = phone.json("join", code, "notes.db", "--device", "phone", "--relay", relay)["joined"]
    done = finished(pairing)
    assert (done.code, joined["complete"], joined["why"]) == (0, True, None)
    assert f"--relay '{relay}'" in done.err
    assert phone.rows() == laptop.rows()

    # The relay is remembered: nobody names it again, and the two are never up at the same time.
    phone.write("INSERT INTO notes VALUES ('c', 'by the phone', NULL)")
    synced = phone.json("sync", "notes.db")
    assert_shape(synced, documented("sync"))
    assert synced["sync"]["complete"]
    assert [device["state"] for device in synced["sync"]["devices"]] == ["relay"]
    assert [found["state"] for found in synced["sync"]["relays"]] == ["equal"]
    out, _ = laptop.run("sync", "notes.db")
    assert "phone: relay" in out
    assert "wss://127.0.0.1" in out
    assert TOKEN not in out
    assert laptop.rows() == phone.rows()

    daemon = laptop.up()
    eventually(lambda: laptop.json("status")["files"][0]["relays"][0]["connected"], "the relay is connected")
    status = laptop.json("status")
    assert_shape(status, documented("status"))
    (other,) = (device for device in status["files"][0]["devices"] if not device["self"])
    assert (other["path"], other["connected"], other["lag"]) == ("relay", False, 0)
    shown, _ = laptop.run("status")
    assert "relay wss://127.0.0.1" in shown
    assert TOKEN not in shown

    # A daemon that runs lets in and exchanges as well.
    phone.up()
    laptop.write("UPDATE notes SET title = 'Oat milk' WHERE id = 'a'")
    eventually(lambda: phone.rows() == laptop.rows(), "the phone has the laptop's row")
    assert daemon.poll() is None


def test_a_daemon_can_be_told_to_use_no_relay_or_to_forget_it(
    relay: str, devices: tuple[Machine, Machine]
) -> None:
    laptop, _ = devices
    laptop.start("up", "notes.db", "--relay", relay)
    eventually(
        lambda: laptop.home.joinpath("state").exists() and laptop.json("status")["daemon"], "the daemon is up"
    )
    eventually(lambda: laptop.json("status")["files"][0]["relays"][0]["connected"], "the relay is connected")
    laptop.stop()

    process = laptop.start("up", "notes.db", "--no-relay")
    assert process.stderr is not None
    read_until(process.stderr, "listening on")

    assert laptop.json("status")["files"][0]["relays"] == []
    laptop.stop()
    assert len(laptop.json("status")["files"][0]["relays"]) == 1

    process = laptop.start("up", "notes.db", "--forget-relay", relay.partition("#")[0])
    assert process.stderr is not None
    assert "is not used any more" in read_until(process.stderr, "listening on")
    laptop.stop()
    assert laptop.json("status")["files"][0]["relays"] == []
