"""Entries: exact bytes, signatures and chains; and foreign bytes, of which nothing is believed before it is checked.

`tests/vectors/entry.json` holds entries signed with fixed keys. Their bytes are read for ever; what was packed is kept
with them, because a newer zstd may pack the same payload into other bytes.
"""

import json
import math
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from crdtlog import entry
from crdtlog.device import Device, device_from_secrets, verify_bytes
from crdtlog.entry import Entry
from crdtlog.errors import CrdtlogError, Malformed, TooLarge
from crdtlog.payload import DELETE, INSERT, UPDATE, Section, decode_data, encode_data
from crdtlog.values import pack
from crdtlog.versions import MAX_SEQ, Named

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "entry.json").read_text())
DEVICE = device_from_secrets("laptop", bytes(range(32)), bytes(range(32, 64)))
WRITER = DEVICE.id + b"incarnat"
OTHER = b"\x01" * 24


def simple(**changes: Any) -> Entry:
    """A valid entry, with some fields changed."""
    raw = encode_data([Section(b"t" * 8, INSERT, (2,), [["k"]], [["v"]], [1_000])], 1_000)
    fields: dict[str, Any] = {
        "database": b"d" * 32,
        "writer": WRITER,
        "seq": 1,
        "previous": b"",
        "context": (),
        "first_stamp": 1_000,
        "last_stamp": 1_000,
        "kind": "data",
        "epoch": b"e" * 16,
        "raw_size": len(raw),
        "packed": entry.compress(raw),
    }
    return Entry(**{**fields, **changes})


# --- golden vectors -----------------------------------------------------------------------------------------------


def value_of(item: Any) -> Any:
    """A value in a vector: {"real": hexadecimal}, {"blob": hex}, {"text": hex of bytes}, {"int": decimal}, or null."""
    match item:
        case {"real": digits}:
            return float.fromhex(digits)
        case {"blob": digits}:
            return bytes.fromhex(digits)
        case {"text": digits}:
            return bytes.fromhex(digits).decode("utf-8", "surrogateescape")
        case {"int": digits}:
            return int(digits)
        case _:
            return None


def section_of(item: dict[str, Any]) -> Section:
    births = item["births"]
    return Section(
        bytes.fromhex(item["table"]),
        item["operation"],
        tuple(item["slots"]),
        [[value_of(value) for value in column] for column in item["keys"]],
        [[value_of(value) for value in column] for column in item["cells"]],
        [int(stamp) for stamp in item["stamps"]],
        births and [birth and (bytes.fromhex(birth[0]), birth[1]) for birth in births],
        tuple(item["unseen"]),
    )


def vector_device() -> Device:
    keys = VECTORS["device"]
    return device_from_secrets(
        "vector", bytes.fromhex(keys["sign_secret"]), bytes.fromhex(keys["receive_secret"])
    )


@pytest.mark.parametrize("vector", VECTORS["entries"], ids=lambda vector: vector["name"])
def test_an_entry_of_any_earlier_version_is_read_as_it_was_written(vector: dict[str, Any]) -> None:
    signed = entry.split(bytes.fromhex(vector["signed"]))
    item = entry.decode(signed.body)

    assert verify_bytes(vector_device().public.sign_key, entry.SIGN_DOMAIN, signed.body, signed.signature)
    assert signed.hash.hex() == vector["hash"]
    assert (item.seq, item.kind, item.writer.hex()) == (vector["seq"], vector["kind"], vector["writer"])
    assert item.payload().hex() == vector["raw"]
    assert [list(map(str, (n.writer.hex(), n.seq, n.hash8.hex()))) for n in item.context] == vector["context"]
    if item.kind == "data":
        sections = decode_data(item.payload(), item.first_stamp, item.last_stamp).sections
        assert list(map(repr, sections)) == [repr(section_of(section)) for section in vector["sections"]]


@pytest.mark.parametrize("vector", VECTORS["entries"], ids=lambda vector: vector["name"])
def test_an_entry_is_written_in_the_very_bytes_of_the_vectors(vector: dict[str, Any]) -> None:
    item = entry.decode(entry.split(bytes.fromhex(vector["signed"])).body)

    assert entry.sign(item, vector_device()).bytes().hex() == vector["signed"]
    if item.kind == "data":
        sections = [section_of(section) for section in vector["sections"]]
        assert encode_data(sections, item.first_stamp).hex() == vector["raw"]


def test_the_entries_of_the_vectors_form_a_chain() -> None:
    signed = [entry.split(bytes.fromhex(vector["signed"])) for vector in VECTORS["entries"]]
    items = [entry.decode(one.body) for one in signed]

    assert items[0].previous == b""
    assert [item.previous for item in items[1:]] == [one.hash for one in signed[:-1]]


# --- round trips --------------------------------------------------------------------------------------------------

STAMP = st.integers(0, (1 << 64) - 1)
TEXT = st.binary(max_size=6).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
KEY = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1), st.floats(allow_nan=False), TEXT, st.binary(max_size=6)
)
VALUE = st.one_of(st.none(), KEY)
BIRTH = st.one_of(st.none(), st.tuples(st.sampled_from([WRITER, OTHER]), st.integers(1, MAX_SEQ)))


@st.composite
def sections(draw: st.DrawFn) -> list[Section]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        rows, operation = draw(st.integers(1, 4)), draw(st.sampled_from([INSERT, UPDATE, DELETE]))
        slots = (
            ()
            if operation == DELETE
            else draw(st.lists(st.integers(2, 250), max_size=3, unique=True).map(tuple))
        )

        def column(values: st.SearchStrategy[Any], rows: int = rows) -> list[Any]:
            return draw(st.lists(values, min_size=rows, max_size=rows))

        found.append(
            Section(
                draw(st.binary(min_size=8, max_size=8)),
                operation,
                slots,
                [column(KEY) for _ in range(draw(st.integers(1, 2)))],
                [column(VALUE) for _ in slots],
                column(st.integers(5_000, 9_000)),
                draw(st.one_of(st.none(), st.just(column(BIRTH)))),
                draw(st.sampled_from([(), (0,)])),
            )
        )
    return found


def meant(section: Section) -> str:
    """A section so that equality is exact; births that are all None are none at all."""
    births = section.births if section.births and any(section.births) else None
    return repr(
        (section.table, section.operation, section.slots, section.keys, section.cells, section.stamps, births)
    )


@given(sections())
def test_a_data_payload_comes_back_bit_for_bit(written: list[Section]) -> None:
    first = min(min(section.stamps) for section in written)
    last = max(max(section.stamps) for section in written)

    read = decode_data(encode_data(written, first), first, last).sections

    assert list(map(meant, read)) == list(map(meant, written))
    assert [section.unseen for section in read] == [section.unseen for section in written]


WRITERS = st.lists(st.binary(min_size=24, max_size=24))


@given(st.integers(1, MAX_SEQ), STAMP, STAMP, st.sampled_from(entry.KINDS), WRITERS)
def test_a_header_comes_back_as_it_was(
    seq: int, one: int, other: int, kind: str, writers: list[bytes]
) -> None:
    context = tuple(Named(writer, 7, b"h" * 8) for writer in sorted({*writers} - {WRITER}))
    previous = b"p" * 32 if seq > 1 else b""
    item = simple(
        seq=seq,
        first_stamp=min(one, other),
        last_stamp=max(one, other),
        kind=kind,
        context=context,
        previous=previous,
    )

    signed = entry.sign(item, DEVICE)

    assert entry.split(signed.bytes()) == signed
    assert entry.decode(signed.body) == item


@given(st.binary(min_size=1, max_size=10_000))
def test_a_payload_unpacks_to_what_was_packed(raw: bytes) -> None:
    assert entry.decompress(entry.compress(raw), len(raw)) == raw


# --- foreign bytes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"database": b"d" * 31},
        {"writer": b"w" * 23},
        {"seq": 0},
        {"seq": MAX_SEQ + 1, "previous": b"p" * 32},
        {"seq": True},
        {"seq": 2},  # without the hash of the entry before
        {"previous": b"p" * 32},  # with one, though it is the first
        {"first_stamp": -1},
        {"first_stamp": 1_001},
        {"last_stamp": 1 << 64},
        {"kind": "other"},
        {"kind": ["data"]},
        {"epoch": b""},
        {"raw_size": -1},
        {"raw_size": entry.MAX_RAW_BYTES + 1},
        {"packed": "text"},
        {"context": (Named(WRITER, 1, b"h" * 8),)},
        {"context": (Named(OTHER, 0, b"h" * 8),)},
        {"context": (Named(OTHER, 1, b"h" * 7),)},
        {"context": (Named(OTHER, 1, b"h" * 8), Named(OTHER, 2, b"h" * 8))},
        {"context": (Named(b"\x02" * 24, 1, b"h" * 8), Named(OTHER, 1, b"h" * 8))},
        {"context": ((OTHER, 1),)},
    ],
    ids=repr,
)
def test_a_header_with_an_impossible_field_is_malformed(changes: dict[str, Any]) -> None:
    try:
        body = entry.encode(simple(**changes))
    except OverflowError:  # msgpack itself cannot say it
        return

    with pytest.raises(Malformed):
        entry.decode(body)


def test_an_entry_of_a_newer_version_says_so() -> None:
    parts = msgpack.unpackb(entry.encode(simple()))
    parts[0] = 2

    with pytest.raises(Malformed, match="version 2"):
        entry.decode(pack(parts))


GOOD = [b"t" * 8, INSERT, [2], [["k", "l"]], [[1, 2]], [0, 5], None, None]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, b"short"),
        (0, "text-long"),
        (1, 3),
        (1, "0"),
        (2, [1, 1]),
        (2, [0]),
        (2, [-2]),
        (2, [1 << 40]),
        (2, ["2"]),
        (2, None),
        (3, []),
        (3, [[]]),
        (3, [["k"]]),
        (3, [["k", None]]),
        (3, [["k", ["l"]]]),
        (3, [["k", {"a": 1}]]),
        (3, {"a": 1}),
        (4, []),
        (4, [[1]]),
        (4, [[1, 2], [3, 4]]),
        (4, [[1, math.nan]]),
        (4, [[1, True]]),
        (4, [[1, 1 << 63]]),
        (4, [[1, [2]]]),
        (5, 6),
        (5, -1),
        (5, True),
        (5, [0]),
        (5, [0, 6]),
        (5, [0, -1]),
        (5, "0"),
        (6, []),
        (6, [[], [None]]),
        (6, [[b"w" * 24], [[1, 1], None]]),
        (6, [[b"w" * 23], [[0, 1], None]]),
        (6, [[b"w" * 24], [[0, 0], None]]),
        (6, [[b"w" * 24], [[0], None]]),
        (7, [2]),
        (7, [-1]),
        (7, "0"),
    ],
    ids=repr,
)
def test_a_section_with_an_impossible_field_is_malformed(field: int, value: Any) -> None:
    section = list(GOOD)
    assert decode_data(pack([section]), 100, 105).sections[0].rows == 2
    section[field] = value

    with pytest.raises(Malformed):
        decode_data(pack([section]), 100, 105)


def test_a_delete_writes_no_cells() -> None:
    with pytest.raises(Malformed):
        decode_data(pack([[b"t" * 8, DELETE, [2], [["k"]], [["v"]], 0, None, None]]), 1, 1)


@pytest.mark.parametrize("payload", [None, [], 7, [[]], [[1] * 7], {"a": 1}])
def test_a_payload_that_is_no_list_of_sections_is_malformed(payload: Any) -> None:
    with pytest.raises(Malformed):
        decode_data(pack(payload), 1, 1)


def test_an_entry_holds_no_more_rows_than_one_transaction_may_show() -> None:
    def half(first: int) -> list[Any]:
        return [b"t" * 8, DELETE, [], [list(range(first, first + 2_501))], [], 0, None, None]

    with pytest.raises(Malformed, match="5,000"):
        decode_data(pack([half(0), half(3_000)]), 1, 1)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_entry_or_refused(data: bytes) -> None:
    for read in (entry.split, entry.decode, lambda raw: decode_data(raw, 0, 10)):
        try:
            read(data)
        except (Malformed, TooLarge):
            continue


@given(st.data())
def test_any_change_of_a_valid_body_or_payload_is_decoded_or_refused(choose: st.DataObject) -> None:
    body = entry.encode(simple(context=(Named(OTHER, 3, b"h" * 8),)))
    raw = pack([GOOD])
    for data, read in ((body, entry.decode), (raw, lambda bytes_: decode_data(bytes_, 100, 105))):
        at = choose.draw(st.integers(0, len(data) - 1))
        changed = data[:at] + bytes([choose.draw(st.integers(0, 255))]) + data[at + 1 :]
        try:
            read(changed)
        except Malformed:
            continue


# --- sizes that lie -----------------------------------------------------------------------------------------------


def frame(raw: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(raw)


@pytest.mark.parametrize(
    ("packed", "declared"),
    [
        (frame(bytes(10_000)), 100),
        (frame(bytes(100)), 10_000),
        (frame(bytes(10_000), write_content_size=False), 10_000),
        (frame(bytes(10_000), write_content_size=False), 100),
        (b"", 0),
        (b"not zstd at all", 15),
        (frame(b"x" * 50)[:-3], 50),
    ],
    ids=["larger", "smaller", "unsaid", "unsaid and larger", "empty", "no frame", "cut"],
)
def test_a_payload_that_is_not_as_large_as_declared_is_malformed(packed: bytes, declared: int) -> None:
    with pytest.raises(Malformed):
        entry.decompress(packed, declared)


@pytest.mark.parametrize("raw", [b"", b"a payload"])
@pytest.mark.parametrize("behind", [b"\0", frame(b"more"), frame(b""), b"\x50\x2a\x4d\x18\0\0\0\0"])
def test_a_payload_with_bytes_behind_it_is_malformed(raw: bytes, behind: bytes) -> None:
    """They would travel under the signature, be kept by everybody, and be read by nobody."""
    with pytest.raises(Malformed):
        entry.decompress(frame(raw) + behind, len(raw))


def test_a_frame_header_that_promises_little_and_holds_much_is_never_unpacked_whole() -> None:
    bomb = bytearray(frame(bytes(50_000_000)))
    honest = zstandard.frame_content_size(bytes(bomb))
    assert honest == 50_000_000
    at = bomb.index(honest.to_bytes(4, "little"))
    bomb[at : at + 4] = (1_000).to_bytes(4, "little")

    with pytest.raises(Malformed):
        entry.decompress(bytes(bomb), 1_000)


def test_a_row_over_the_limit_is_too_large_to_be_logged() -> None:
    with pytest.raises(TooLarge):
        entry.compress(bytes(entry.MAX_RAW_BYTES + 1))


def test_an_entry_over_the_limit_is_not_even_looked_at() -> None:
    with pytest.raises(TooLarge):
        entry.split(bytes(entry.MAX_RAW_BYTES + entry.MAX_HEADER_BYTES + 1))


def test_every_error_of_this_file_is_one_of_ours() -> None:
    assert issubclass(Malformed, CrdtlogError)
    assert issubclass(TooLarge, CrdtlogError)
