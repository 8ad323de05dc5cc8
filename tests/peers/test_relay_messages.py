"""The relay's messages: their bytes are fixed, and foreign bytes only ever raise Malformed."""

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.errors import Malformed, Usage
from peers.relay import access, messages
from peers.relay.messages import (
    Answer,
    Append,
    Appended,
    Blobs,
    ClientHello,
    Got,
    Hello,
    Left,
    Limits,
    Meet,
    Met,
    Open,
    Opened,
    Read,
    Refusal,
    Request,
    Said,
    Say,
    Subscribe,
    decode_answer,
    decode_request,
    encode,
)

VECTORS: list[dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "relay.json").read_text(encoding="utf-8")
)["messages"]

MAILBOX = bytes(range(32))
LIMITS = Limits(4 << 20, 256, 1 << 20, 64, 30 * 86_400)
EXAMPLES: dict[str, Request | Answer] = {
    "client hello": ClientHello(1, "a token"),
    "client hello without token": ClientHello(1, None),
    "open": Open(1, MAILBOX, bytes(64)),
    "append": Append(2, MAILBOX, bytes(256)),
    "read": Read(3, MAILBOX, 17, 1 << 20),
    "subscribe": Subscribe(4, MAILBOX, 17),
    "got": Got(MAILBOX, 18),
    "meet": Meet(True),
    "say": Say(b"hello"),
    "hello": Hello((1, 1), bytes(32), LIMITS),
    "opened": Opened(1, bytes(range(16)), 3, 18),
    "appended": Appended(2, 19),
    "blobs": Blobs(3, MAILBOX, 3, ((18, bytes(256)), (19, bytes(512))), True),
    "blobs pushed": Blobs(None, MAILBOX, 3, (), False),
    "met": Met(),
    "said": Said(b"hello"),
    "left": Left(),
    "refused": Refusal(2, "rate", "too many", True, 3),
    "refused for good": Refusal(None, "token", "a token is needed", False, None),
}
REQUESTS = (ClientHello, Open, Append, Read, Subscribe, Got, Meet, Say)


def decode(frame: bytes, like: Request | Answer) -> Request | Answer:
    return decode_request(frame) if isinstance(like, REQUESTS) else decode_answer(frame)


def octets(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


ids = st.integers(0, messages.MAX_ID)
indexes = st.integers(1, messages.MAX_INT)
blobs = st.sampled_from([256, 512, 4096]).flatmap(octets)
any_request: st.SearchStrategy[Request] = st.one_of(
    st.builds(ClientHello, st.just(1), st.none() | st.text(max_size=256)),
    st.builds(Open, ids, octets(32), octets(64)),
    st.builds(Append, ids, octets(32), blobs),
    st.builds(Read, ids, octets(32), st.integers(0, messages.MAX_INT), st.integers(0, messages.MAX_INT)),
    st.builds(Subscribe, ids, octets(32), st.integers(0, messages.MAX_INT)),
    st.builds(Got, octets(32), indexes),
    st.builds(Meet, st.booleans()),
    st.builds(Say, st.binary(max_size=70)),
)
pages = st.lists(st.integers(5, 10_000), unique=True, max_size=4).map(sorted)
printable = st.text(st.characters(categories=("L", "N", "P")), max_size=32)
any_answer: st.SearchStrategy[Answer] = st.one_of(
    st.builds(
        Hello,
        st.just((1, 3)),
        octets(32),
        st.builds(Limits, st.sampled_from(messages.SIZES), indexes, indexes, indexes, indexes),
    ),
    st.builds(Opened, ids, octets(16), st.integers(1, 9), st.integers(9, 99)),
    st.builds(Appended, ids, indexes),
    pages.flatmap(
        lambda page: st.builds(
            Blobs,
            st.none() | ids,
            octets(32),
            st.integers(1, 5),
            st.tuples(*(st.tuples(st.just(index), blobs) for index in page)),
            st.booleans(),
        )
    ),
    st.sampled_from([Met(), Left()]),
    st.builds(Said, st.binary(max_size=70)),
    st.builds(
        Refusal,
        st.none() | ids,
        printable,
        printable,
        st.booleans(),
        st.none() | st.integers(0, messages.MAX_RETRY_S),
    ),
)
any_message = any_request | any_answer


@given(any_message)
def test_what_is_written_is_read_back(message: Request | Answer) -> None:
    assert decode(encode(message), message) == message


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_the_bytes_of_version_1_never_change(vector: dict[str, str]) -> None:
    message = EXAMPLES[vector["name"]]

    assert encode(message).hex() == vector["frame"]
    assert decode(bytes.fromhex(vector["frame"]), message) == message


def test_every_message_has_a_golden_vector() -> None:
    assert {vector["name"] for vector in VECTORS} == set(EXAMPLES)
    assert {type(message) for message in EXAMPLES.values()} == {
        kind for union in (Request, Answer) for kind in union.__args__
    }


# --- hostile bytes --------------------------------------------------------------------------------------------


def only_malformed(frame: bytes) -> None:
    for read in (decode_request, decode_answer):
        try:
            read(frame)
        except Malformed:
            continue


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_malformed(frame: bytes) -> None:
    only_malformed(frame)


@given(any_message, st.data())
def test_a_message_with_bytes_changed_is_a_message_or_malformed(
    message: Request | Answer, data: st.DataObject
) -> None:
    frame = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, min(120, len(frame) - 1)))] = data.draw(st.integers(0, 255))
    only_malformed(bytes(frame))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([b"", bytes(16), bytes(32), bytes(64), bytes(256)]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=8,
)
kinds = sorted(set(messages._REQUESTS) | set(messages._ANSWERS))


@given(st.sampled_from(kinds), st.lists(anything, max_size=7))
def test_any_fields_are_a_message_or_malformed(kind: str, fields: list[Any]) -> None:
    only_malformed(msgpack.packb([kind, *fields]))


@given(any_message)
def test_no_message_may_have_a_field_less_or_bytes_behind_it(message: Request | Answer) -> None:
    fields = msgpack.unpackb(encode(message))

    with pytest.raises(Malformed):
        decode(encode(message) + b"\x00", message)
    if len(fields) > 1:
        with pytest.raises(Malformed):
            decode(msgpack.packb(fields[:-1]), message)


@pytest.mark.parametrize(
    "fields",
    [
        ["append", 1, MAILBOX, bytes((4 << 20) + 1)],
        ["append", 1 << 32, MAILBOX, bytes(256)],
        ["append", -1, MAILBOX, bytes(256)],
        ["append", True, MAILBOX, bytes(256)],
        ["append", 1, MAILBOX[:-1], bytes(256)],
        ["append", 1, "a" * 32, bytes(256)],
        ["read", 1, MAILBOX, 1.0, 1],
        ["say", bytes((64 << 10) + 1)],
        ["hello", 1, "a" * 257],
        ["hello", 0, None],
        ["meet", 1],
        ["meet", True, True],
        {"hello": 1},
        [],
        [[]],
        [b"hello", 1, None],
    ],
    ids=repr,
)
def test_a_client_cannot_say_what_is_out_of_bounds(fields: object) -> None:
    with pytest.raises(Malformed):
        decode_request(msgpack.packb(fields))


@pytest.mark.parametrize(
    "fields",
    [
        ["blobs", None, MAILBOX, 1, [[2, bytes(256)], [2, bytes(256)]], True],
        ["blobs", None, MAILBOX, 5, [[4, bytes(256)]], True],
        ["blobs", None, MAILBOX, 1, [[1, bytes(255)]], True],
        ["blobs", None, MAILBOX, 1, [1], True],
        ["blobs", None, MAILBOX, 0, [], True],
        ["opened", 1, bytes(16), 5, 3],
        ["hello", 2, 1, bytes(32), [256, 1, 1, 1, 1]],
        ["hello", 1, 1, bytes(32), [255, 1, 1, 1, 1]],
        ["hello", 1, 1, bytes(32), [256, 1, 1, 1]],
    ],
    ids=repr,
)
def test_a_relay_cannot_say_what_is_out_of_bounds(fields: object) -> None:
    with pytest.raises(Malformed):
        decode_answer(msgpack.packb(fields))


def test_hellos_and_refusals_of_later_versions_are_understood() -> None:
    hello = ["hello", 1, 9, bytes(32), [*LIMITS, 7], {}]
    refused = ["refused", None, "version", "old", False, None, "more"]

    assert decode_answer(msgpack.packb(hello[:-1])) == Hello((1, 9), bytes(32), LIMITS)
    assert decode_answer(msgpack.packb(refused)) == Refusal(None, "version", "old", False, None)
    assert decode_request(msgpack.packb(["hello", 2, [], 5])) == ClientHello(2, None)


def test_a_relay_s_reason_cannot_steer_a_terminal() -> None:
    steered = decode_answer(msgpack.packb(["refused", None, "x", "\x1b[2Jbye", False, None]))

    assert isinstance(steered, Refusal) and steered.reason == "�[2Jbye"


@pytest.mark.parametrize(
    ("length", "size"),
    [(0, 256), (1, 256), (256, 256), (257, 512), (4096, 4096), (4097, 8192), (4 << 20, 4 << 20)],
)
def test_a_blob_has_the_next_power_of_two(length: int, size: int) -> None:
    assert messages.size_for(length) == size
    assert size in messages.SIZES


def test_nothing_larger_than_the_largest_blob_has_a_size() -> None:
    with pytest.raises(ValueError, match="no blob holds"):
        messages.size_for((4 << 20) + 1)


# --- hosts and signatures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port", "scheme", "name"),
    [
        ("Relay.Example", 443, "wss", "relay.example"),
        ("relay.example.", None, "wss", "relay.example"),
        ("relay.example", 443, "ws", "relay.example:443"),
        ("relay.example", 80, "ws", "relay.example"),
        ("127.0.0.1", 4711, "ws", "127.0.0.1:4711"),
        ("::1", 4711, "wss", "[::1]:4711"),
        ("[0:0::1]", 4711, "wss", "[::1]:4711"),
    ],
)
def test_a_host_has_one_name(host: str, port: int | None, scheme: str, name: str) -> None:
    assert access.host_name(host, port, scheme) == name


@pytest.mark.parametrize("host", ["", "a/b", "user@host", "bücher.example", "a b", "a:b", "x" * 256])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(Usage):
        access.host_name(host, 443)


@pytest.mark.parametrize("text", ["[::1", "[::1]4", "host:", "host:x", "host:0", "host:70000", "a:1:2"])
def test_what_is_no_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(Usage):
        access.split_host(text)


def test_hosts_and_ports_are_told_apart() -> None:
    assert access.split_host("relay.example") == ("relay.example", None)
    assert access.split_host("relay.example:4711") == ("relay.example", 4711)
    assert access.split_host("[::1]:4711") == ("[::1]", 4711)
    assert access.split_host("[::1]") == ("[::1]", None)


def test_a_signature_opens_one_mailbox_at_one_host_on_one_connection() -> None:
    key, other = access.MailboxKey.of(bytes(32)), access.MailboxKey.of(bytes([1]) * 32)
    nonce = bytes(range(32))
    signature = key.sign(nonce, "relay.example")

    assert access.is_signed(signature, nonce, "relay.example", key.mailbox)
    assert not access.is_signed(signature, bytes(32), "relay.example", key.mailbox)
    assert not access.is_signed(signature, nonce, "relay.example:4711", key.mailbox)
    assert not access.is_signed(signature, nonce, "relay.example", other.mailbox)
    assert not access.is_signed(bytes(64), nonce, "relay.example", key.mailbox)
    assert not access.is_signed(signature, nonce, "relay.example", b"\xff" * 32)


def test_a_key_does_not_show_itself() -> None:
    key = access.MailboxKey.of(bytes(32))

    assert key.mailbox.hex() not in repr(key)
    assert repr(key) == "MailboxKey(…)"
    assert "secret" not in repr(ClientHello(1, "secret"))


def test_what_is_signed_never_changes() -> None:
    key = access.MailboxKey.of(bytes(range(32)))
    known = json.loads((Path(__file__).parents[1] / "vectors" / "relay.json").read_text())["signature"]

    assert key.mailbox.hex() == known["mailbox"]
    assert key.sign(bytes(32), known["host"]).hex() == known["signature"]
