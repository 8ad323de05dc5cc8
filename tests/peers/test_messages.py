"""The messages of a sync session: their bytes are fixed, and foreign bytes only ever raise Malformed."""

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.errors import Malformed
from peers.session import messages
from peers.session.messages import (
    Ack,
    Compare,
    Entries,
    Fork,
    HeadSeen,
    Hello,
    Item,
    Message,
    Ping,
    Pong,
    Refuse,
    Stranger,
    Window,
    decode,
    encode,
)

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "messages.json").read_text(encoding="utf-8")
)["messages"]


def octets(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


def compare(writer: bytes, same: int, hashes: list[bytes]) -> Compare:
    return Compare(writer, same, tuple(HeadSeen(same + 2 * n + 1, item) for n, item in enumerate(hashes)))


numbers = st.integers(1, messages.MAX_INT)
versions = st.tuples(st.just(1), st.just(1))
letters = st.characters(categories=("L", "N", "P"))
hellos = st.builds(
    Hello,
    versions=versions,
    database=octets(32),
    device=octets(16),
    place=st.binary(min_size=1, max_size=64),
    writer=octets(24),
    nonce=octets(32),
    name=st.text(letters, max_size=100),
    clock_ms=st.integers(0, messages.MAX_INT),
    epochs=st.lists(octets(16), max_size=5).map(tuple),
    heads=st.dictionaries(octets(24), st.builds(HeadSeen, numbers, octets(8)), max_size=5),
    window=st.builds(Window, numbers, numbers, numbers),
)
items = st.builds(Item, octets(24), numbers, st.binary(min_size=1, max_size=70_000))
any_message: st.SearchStrategy[Message] = st.one_of(
    hellos,
    st.builds(Refuse, st.text(letters, max_size=32), st.text(letters, max_size=500), st.booleans(), versions),
    st.builds(Entries, st.lists(items, min_size=1, max_size=20).map(tuple)),
    st.builds(Ack, numbers, st.dictionaries(octets(24), numbers, max_size=5)),
    st.builds(Ping),
    st.builds(Pong),
    st.builds(compare, octets(24), st.integers(0, 1 << 40), st.lists(octets(8), min_size=1, max_size=64)),
    st.builds(Fork, octets(24), st.integers(1, 2**63 - 1), st.binary(min_size=1, max_size=50)),
)


@given(any_message)
def test_what_is_written_is_read_back(message: Message) -> None:
    assert decode(encode(message)) == message


@given(any_message)
def test_the_typed_reader_agrees_with_msgpack(message: Message) -> None:
    frame = encode(message)
    assert msgpack.packb(msgpack.unpackb(frame)) == frame


def vector_message(fields: dict[str, Any]) -> Message:
    """The message that a golden vector describes: bytes as hex, vectors as lists."""
    hexed = bytes.fromhex
    match fields:
        case {"kind": "hello"}:
            return Hello(
                versions=tuple(fields["versions"]),
                database=hexed(fields["database"]),
                device=hexed(fields["device"]),
                place=hexed(fields["place"]),
                writer=hexed(fields["writer"]),
                nonce=hexed(fields["nonce"]),
                name=fields["name"],
                clock_ms=fields["clock_ms"],
                epochs=tuple(map(hexed, fields["epochs"])),
                heads={hexed(w): HeadSeen(seq, hexed(h)) for w, seq, h in fields["heads"]},
                window=Window(*fields["window"]),
            )
        case {"kind": "refuse"}:
            return Refuse(fields["code"], fields["reason"], fields["permanent"], tuple(fields["versions"]))
        case {"kind": "entries"}:
            return Entries(tuple(Item(hexed(w), seq, hexed(blob)) for w, seq, blob in fields["items"]))
        case {"kind": "ack"}:
            return Ack(fields["batches"], {hexed(w): seq for w, seq in fields["held"]})
        case {"kind": "ping"}:
            return Ping()
        case {"kind": "pong"}:
            return Pong()
        case {"kind": "compare"}:
            seen = tuple(HeadSeen(seq, hexed(digest)) for seq, digest in fields["seen"])
            return Compare(hexed(fields["writer"]), fields["same"], seen)
        case {"kind": "fork"}:
            return Fork(hexed(fields["writer"]), fields["seq"], hexed(fields["sealed"]))
    raise AssertionError(fields)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_the_bytes_of_version_1_never_change(vector: dict[str, Any]) -> None:
    message = vector_message(vector["message"])

    assert encode(message).hex() == vector["frame"]
    assert decode(bytes.fromhex(vector["frame"])) == message


def test_every_kind_of_message_has_a_golden_vector() -> None:
    assert {vector["message"]["kind"] for vector in VECTORS} == {kind.name.lower() for kind in messages.Kind}


HELLO = vector_message(VECTORS[0]["message"])


def test_a_hello_of_an_unknown_version_still_names_versions_and_database() -> None:
    assert isinstance(HELLO, Hello)
    future = msgpack.packb([0, 7, 9, HELLO.database, {"everything": "else"}])

    assert decode(future) == Stranger((7, 9), HELLO.database)
    assert messages.hello_database(future) == messages.hello_database(encode(HELLO)) == HELLO.database


def test_a_later_version_may_add_fields_to_hello_and_refuse() -> None:
    assert isinstance(HELLO, Hello)
    hello = msgpack.unpackb(encode(HELLO))
    refuse = [1, "version", "too old", True, 1, 2, "a hint"]

    longer = decode(msgpack.packb([0, 1, 2, *hello[3:], {"more": 1}]))

    assert isinstance(longer, Hello) and longer.heads == HELLO.heads
    assert decode(msgpack.packb(refuse)) == Refuse("version", "too old", True, (1, 2))
    with pytest.raises(Malformed):
        decode(msgpack.packb([*hello, "more"]))


def test_texts_of_others_cannot_steer_a_terminal() -> None:
    steered = decode(msgpack.packb([1, "x", "\x1b[2Jbye\u202e\n", False, 1, 1]))

    assert isinstance(steered, Refuse) and steered.reason == "�[2Jbye��"


def test_long_names_and_reasons_are_cut_before_they_are_sent() -> None:
    message = decode(encode(Refuse("c" * 99, "r" * 999, False, (1, 1))))

    assert message == Refuse("c" * 32, "r" * 500, False, (1, 1))


@given(st.lists(items, min_size=1, max_size=8))
def test_the_size_of_an_entries_frame_is_known_beforehand(batch: list[Item]) -> None:
    bound = messages.FRAME_OVERHEAD_BYTES + sum(messages.ITEM_OVERHEAD_BYTES + len(i.sealed) for i in batch)

    assert len(encode(Entries(tuple(batch)))) <= bound


WRITER = bytes(24)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [6],
        [-1],
        ["hello"],
        [4, 0],
        [2, []],
        [2, [[WRITER, 0, b"x"]]],
        [2, [[WRITER, 1, b""]]],
        [2, [[WRITER[1:], 1, b"x"]]],
        [2, [[WRITER, 1, "x"]]],
        [2, [[WRITER, 1, b"x", 1]]],
        [2, [[WRITER, 1, b"x"]] * (messages.MAX_ENTRIES + 1)],
        [3, 0, [[WRITER, 1], [WRITER, 2]]],
        [3, 0, [[WRITER, 2**63]]],
        [3, True, []],
        [3, 0.0, []],
        [3, 0, {}],
        [1, "code", "reason", 1, 1, 1],
        [1, "code", "reason", True, 2, 1],
        [1, "c" * 33, "reason", True, 1, 1],
        [1, "code", "r" * 501, True, 1, 1],
        [0, 1, 1],
        [0, 0, 1, bytes(32)],
        [0, 1, 1, bytes(31)],
    ],
)
def test_what_is_out_of_bounds_is_malformed(fields: list[Any]) -> None:
    with pytest.raises(Malformed):
        decode(msgpack.packb(fields))


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "c1",
        "9104c0",
        "dd0000000104ff",
        "dcffff",
        "ddffffffff",
        "9202ddffffffff",
        "9202919318c6ffffffff",
        "81a0",
    ],
)
def test_lengths_are_checked_before_they_are_believed(frame: str) -> None:
    with pytest.raises(Malformed):
        decode(bytes.fromhex(frame))


def test_only_entries_may_be_large() -> None:
    large = bytes.fromhex("9603") + bytes(messages.MAX_CONTROL_BYTES)

    with pytest.raises(Malformed):
        decode(large)


def test_a_refusal_that_is_not_utf8_is_malformed() -> None:
    with pytest.raises(Malformed):
        decode(bytes.fromhex("9601a1ffa0c20101"))


@given(st.binary(max_size=300))
def test_noise_is_malformed_or_a_message(noise: bytes) -> None:
    try:
        message = decode(noise)
    except Malformed:
        return
    assert isinstance(message, Message)


@given(any_message, st.data())
def test_mutated_frames_are_malformed_or_messages(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        changed = decode(bytes(frame))
    except Malformed:
        return
    assert isinstance(changed, Message)


@given(any_message, st.data())
def test_truncated_frames_are_malformed(message: Message, data: st.DataObject) -> None:
    frame = encode(message)
    with pytest.raises(Malformed):
        decode(frame[: data.draw(st.integers(0, len(frame) - 1))])
