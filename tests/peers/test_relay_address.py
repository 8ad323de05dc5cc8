"""A relay as people name it: a URL that may end in a fingerprint and a token."""

import pytest

from crdtlog.errors import Usage
from peers.node.relay_address import RelayAddress
from peers.node.relays import usable

PIN = "ab" * 32


@pytest.mark.parametrize(
    ("text", "token", "is_pinned"),
    [
        ("wss://relay.example", None, False),
        (f"wss://relay.example#sha256={PIN}", None, True),
        ("wss://relay.example#token=se=cret", "se=cret", False),
        (f"wss://relay.example#sha256={PIN}&token=secret", "secret", True),
        (f"wss://relay.example#token=secret&sha256={PIN}", "secret", True),
    ],
)
def test_a_token_stands_behind_the_url_and_is_never_shown(
    text: str, token: str | None, is_pinned: bool
) -> None:
    address = RelayAddress.parse(text)

    assert (address.text, address.token, address.url.pin is not None) == (text, token, is_pinned)
    assert address.shown == "wss://relay.example"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://relay.example",
        "ws://relay.example",
        "wss://relay.example#token=",
        "wss://relay.example#token=a&token=b",
        "wss://relay.example#token=" + "x" * 257,
        "wss://relay.example#sha256=ab&token=b",
        "wss://relay.example/\n",
        "wss://relay.example/" + "x" * 2_000,
    ],
)
def test_what_names_no_relay_is_refused(text: str) -> None:
    with pytest.raises(Usage):
        RelayAddress.parse(text)


def test_of_the_relays_that_another_device_tells_only_fitting_ones_are_used() -> None:
    told = ["wss://a", "ws://192.168.1.5:4711", "nonsense", "ws://127.0.0.1:1"]

    assert [address.text for address in usable(told, insecure=False)] == ["wss://a", "ws://127.0.0.1:1"]
    assert len(usable(told, insecure=True)) == 3
    assert len(usable(["wss://a"] * 100, insecure=False)) == 16
