"""The bytes of membership records: what is written is read back, and whatever else comes is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.errors import Malformed
from crdtlog.membership import (
    Add,
    Content,
    Founding,
    Genesis,
    Newcomer,
    Recover,
    Remove,
    Role,
    Rotate,
    Seen,
    context_digest,
    decode_content,
    encode_content,
    encode_genesis,
    recovery_message,
)
from crdtlog.values import pack, unpack

DEVICE = Newcomer("laptop", "admin", b"s" * 32, b"r" * 32, b"certificate")
GENESIS = encode_genesis(Genesis(b"n" * 16, DEVICE, b"k" * 32))
ROTATE = Rotate(
    b"e" * 16,
    (b"a" * 16, b"b" * 16),
    ((b"d" * 16, b"wrapped"), (b"f" * 16, b"wrapped too")),
    ((b"a" * 16, b"sealed"),),
)
CONTENTS: list[Content] = [
    Founding(GENESIS),
    Add(DEVICE),
    Add(DEVICE, again=True),
    Role(b"d" * 16, "reader"),
    Remove(b"d" * 16),
    Seen(),
    ROTATE,
    Recover(DEVICE, b"g" * 64),
]


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: type(content).__name__)
def test_a_record_is_read_as_it_was_written(content: Content) -> None:
    assert decode_content(encode_content(content)) == content


def test_records_of_earlier_versions_keep_their_bytes() -> None:
    assert encode_content(Add(DEVICE)) == pack(["add", list(DEVICE)])
    assert encode_content(Founding(GENESIS)) == pack(["genesis", GENESIS])


def rotate(**changes: Any) -> list[Any]:
    parts = {
        "epoch": b"e" * 16,
        "parents": [b"a" * 16],
        "wrapped": [[b"d" * 16, b"wrapped"]],
        "sealed": [],
    }
    return ["rotate", list({**parts, **changes}.values())]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        ["seen"],
        ["seen", []],
        ["seen", None, None],
        [None, None],
        ["role", [b"d" * 16, "king"]],
        ["role", [b"d" * 15, "admin"]],
        ["role", [b"d" * 16, ["admin"]]],
        ["role", b"d" * 16],
        ["remove", b"d" * 17],
        ["remove", "d" * 16],
        ["remove", None],
        ["readmit", b"d" * 16],
        ["recover", [list(DEVICE), b"g" * 63]],
        ["recover", [list(DEVICE)]],
        ["recover", [list(DEVICE)[:4], b"g" * 64]],
        rotate(epoch=b"e" * 15),
        rotate(parents=None),
        rotate(parents=[b"a" * 16, b"a" * 16]),
        rotate(parents=[b"b" * 16, b"a" * 16]),
        rotate(parents=[bytes([n]) * 16 for n in range(17)]),
        rotate(parents=[[]]),
        rotate(parents=[b"e" * 16]),
        rotate(wrapped=[]),
        rotate(wrapped=[[b"d" * 16, b""]]),
        rotate(wrapped=[[b"d" * 16, b"x" * 1_025]]),
        rotate(wrapped=[[b"d" * 16, b"x"], [b"d" * 16, b"y"]]),
        rotate(wrapped=[[n.to_bytes(16, "big"), b"x"] for n in range(10_001)]),
        rotate(wrapped=[b"d" * 16]),
        rotate(sealed=[[b"z" * 16, b"of no parent"]]),
        rotate(sealed=7),
    ],
    ids=lambda parts: str(parts)[:60],
)
def test_a_record_that_is_none_is_refused(parts: Any) -> None:
    with pytest.raises(Malformed):
        decode_content(pack(parts))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.binary(max_size=17)
    | st.text(max_size=5)
    | st.floats(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
kinds = st.sampled_from(["genesis", "add", "readmit", "role", "remove", "seen", "rotate", "recover"])


@given(st.tuples(kinds, anything).map(list))
def test_whatever_a_record_holds_nothing_but_the_documented_error_comes_out(parts: Any) -> None:
    try:
        content = decode_content(pack(parts))
    except Malformed:
        return
    assert decode_content(encode_content(content)) == content


@given(st.sampled_from(CONTENTS).map(encode_content), st.data())
def test_a_record_with_a_changed_byte_is_another_record_or_none(raw: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:at] + bytes([data.draw(st.integers(0, 255))]) + raw[at + 1 :]
    try:
        content = decode_content(changed)
    except Malformed:
        return
    assert unpack(encode_content(content)) == unpack(changed)


def test_the_recovery_key_signs_for_one_device_one_log_and_one_past() -> None:
    log, other = b"w" * 24, b"x" * 24
    digest = context_digest({log: 1, other: 2})

    assert digest == context_digest({other: 2, log: 1, b"y" * 24: 0})
    assert (
        len(
            {
                recovery_message(b"d" * 32, DEVICE, log, digest),
                recovery_message(b"e" * 32, DEVICE, log, digest),
                recovery_message(b"d" * 32, DEVICE._replace(name="other"), log, digest),
                recovery_message(b"d" * 32, DEVICE, other, digest),
                recovery_message(b"d" * 32, DEVICE, log, context_digest({log: 1})),
            }
        )
        == 5
    )
