"""Settings of the network: a flag wins over the environment, that over the file, and what is wrong in it is named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from crdtlog import Home
from crdtlog.errors import Usage
from peers.cli.settings import network


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    home: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Home(home())
    config = place.path / "config.toml"
    assert network(place) == (None, (), True, (), False)
    config.write_text(
        'listen = "127.0.0.1:1"\npeers = ["127.0.0.1:2"]\nmdns = false\nrelays = ["wss://a"]\ninsecure_relay = true\n'
    )
    assert network(place) == ("127.0.0.1:1", ("127.0.0.1:2",), False, ("wss://a",), True)
    monkeypatch.setenv("CRDTLOG_LISTEN", "127.0.0.1:3")
    monkeypatch.setenv("CRDTLOG_PEER", "127.0.0.1:4 127.0.0.1:5")
    monkeypatch.setenv("CRDTLOG_NO_MDNS", "0")
    monkeypatch.setenv("CRDTLOG_RELAY", "wss://b wss://c")
    monkeypatch.setenv("CRDTLOG_INSECURE_RELAY", "0")
    both = ("127.0.0.1:4", "127.0.0.1:5")
    assert network(place) == ("127.0.0.1:3", both, True, ("wss://b", "wss://c"), False)
    given = network(place, "127.0.0.1:6", ["127.0.0.1:7"], True, ["wss://d"], True)
    assert given == ("127.0.0.1:6", ("127.0.0.1:7",), False, ("wss://d",), True)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("colour = 1", "unknown setting"),
        ("listen = 1", "wrong type"),
        ("relays = [1]", "wrong type"),
        ("listen =", "valid TOML"),
    ],
)
def test_a_wrong_setting_is_named(home: Callable[..., Path], text: str, word: str) -> None:
    place = Home(home())
    (place.path / "config.toml").write_text(text)

    with pytest.raises(Usage, match=word):
        network(place)
