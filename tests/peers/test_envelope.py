"""Sealed blobs open only unchanged, with the right secret, where they were meant for."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import example, given
from hypothesis import strategies as st

from crdtlog import errors
from peers import envelope
from peers.envelope import discovery_id, open_sealed, padded_length, recognise, seal

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "sealed.json").read_text())
EPOCH, SECRET, SALT, BINDING = bytes(range(16)), bytes(range(32)), b"s" * 16, b"session 1"
SECRETS = {EPOCH: SECRET}
MAX_BYTES = 1 << 20


def sealed(entry: bytes) -> bytes:
    return seal(entry, epoch_id=EPOCH, secret=SECRET, salt=SALT, binding=BINDING)


@given(st.binary(max_size=5000), st.binary(min_size=16, max_size=16), st.binary(max_size=40))
def test_what_is_sealed_opens_again(entry: bytes, salt: bytes, binding: bytes) -> None:
    blob = seal(entry, epoch_id=EPOCH, secret=SECRET, salt=salt, binding=binding)
    assert open_sealed(blob, SECRETS, binding, len(entry)) == entry
    assert len(blob) == envelope.sealed_length(len(entry))
    assert envelope.epoch_of(blob) == EPOCH


@given(st.integers(0, len(sealed(b"entry")) * 8 - 1))
def test_no_flipped_bit_passes(bit: int) -> None:
    blob = bytearray(sealed(b"entry"))
    blob[bit // 8] ^= 1 << bit % 8
    with pytest.raises((errors.Malformed, errors.EntryRefused)):
        open_sealed(bytes(blob), SECRETS, BINDING, MAX_BYTES)


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x01" + EPOCH)
@example(b"\x01" + EPOCH + bytes(36))
def test_foreign_bytes_are_refused_as_such(blob: bytes) -> None:
    with pytest.raises((errors.Malformed, errors.EntryRefused)):
        open_sealed(blob, SECRETS, BINDING, MAX_BYTES)


def test_a_blob_opens_only_where_it_was_meant_for() -> None:
    with pytest.raises(errors.EntryRefused, match="another session or mailbox"):
        open_sealed(sealed(b"entry"), SECRETS, b"session 2", MAX_BYTES)


def test_a_blob_does_not_open_with_another_secret() -> None:
    with pytest.raises(errors.EntryRefused, match="does not open"):
        open_sealed(sealed(b"entry"), {EPOCH: bytes(32)}, BINDING, MAX_BYTES)


def test_an_unknown_epoch_is_told_apart_and_says_what_to_do() -> None:
    with pytest.raises(errors.UnknownEpoch) as caught:
        open_sealed(sealed(b"entry"), {}, BINDING, MAX_BYTES)
    assert "sync" in caught.value.hint
    assert issubclass(errors.UnknownEpoch, errors.EntryRefused)


def test_a_newer_format_asks_for_an_update() -> None:
    with pytest.raises(errors.EntryRefused) as caught:
        open_sealed(b"\x02" + sealed(b"entry")[1:], SECRETS, BINDING, MAX_BYTES)
    assert "Update" in caught.value.hint


def test_a_blob_above_the_limit_is_refused_before_it_is_decrypted() -> None:
    with pytest.raises(errors.Malformed, match="may exceed"):
        open_sealed(sealed(bytes(1000)), {}, BINDING, 500)
    with pytest.raises(errors.Malformed):  # 101 bytes fit into what 100 bytes are padded to
        open_sealed(sealed(bytes(101)), SECRETS, BINDING, 100)


@pytest.mark.parametrize("padded", [b"", b"\0\0\0\5abcd", b"\0\0\0\2abc", b"\xff" * 8, bytes(64)])
def test_wrong_padding_by_a_member_is_malformed(padded: bytes) -> None:
    header = b"\x01" + EPOCH + SALT
    cipher = envelope._cipher(SECRET, SALT)
    blob = header + cipher.encrypt(envelope.NONCE, padded, header + BINDING)
    with pytest.raises(errors.Malformed):
        open_sealed(blob, SECRETS, BINDING, MAX_BYTES)


@pytest.mark.parametrize("wrong", [{"epoch_id": b"x"}, {"secret": b"x"}, {"salt": bytes(32)}])
def test_a_caller_who_mixes_up_lengths_is_told(wrong: dict[str, bytes]) -> None:
    arguments: dict[str, Any] = {
        "epoch_id": EPOCH,
        "secret": SECRET,
        "salt": SALT,
        "binding": BINDING,
        **wrong,
    }
    with pytest.raises(ValueError, match="salt 16"):
        seal(b"entry", **arguments)


@given(st.integers(0, 1 << 40))
def test_padding_costs_at_most_twelve_percent_and_leaves_few_lengths(length: int) -> None:
    padded = padded_length(length)
    assert length <= padded <= length * 1.12 + 1
    assert padded_length(padded) == padded
    if length >= 2:
        exponent = length.bit_length() - 1
        assert (padded & ((1 << max(exponent - exponent.bit_length(), 0)) - 1)) == 0


def test_padding_follows_the_paper() -> None:
    assert [padded_length(n) for n in (0, 1, 2, 8, 9, 100, 1000, 1025, 1_000_000)] == [
        0, 1, 2, 8, 10, 104, 1024, 1088, 1_015_808,
    ]  # fmt: skip


@given(st.binary(max_size=100), st.binary(max_size=100), st.binary(max_size=100))
def test_hkdf_is_that_of_rfc_5869(secret: bytes, salt: bytes, info: bytes) -> None:
    expected = HKDF(hashes.SHA256(), 32, salt, info).derive(secret)
    assert envelope.hkdf(secret, salt=salt, info=info) == expected


def test_old_blobs_open_for_ever() -> None:
    for vector in VECTORS["sealed"]:
        made = {key: bytes.fromhex(vector[key]) for key in ("epoch_id", "secret", "salt", "binding")}
        blob, entry = bytes.fromhex(vector["blob"]), bytes.fromhex(vector["entry"])
        assert open_sealed(blob, {made["epoch_id"]: made["secret"]}, made["binding"], MAX_BYTES) == entry
        assert seal(entry, **made) == blob


def test_discovery_ids_never_change_their_meaning() -> None:
    for vector in VECTORS["discovery"]:
        key = envelope.discovery_key(bytes.fromhex(vector["first_epoch_secret"]))
        assert key.hex() == vector["discovery_key"]
        assert discovery_id(key, vector["now"]) == vector["id"]


KEYS = {b"notes": envelope.discovery_key(b"1" * 32), b"tasks": envelope.discovery_key(b"2" * 32)}


@given(st.floats(0, 1e12), st.floats(-900, 900))
def test_members_whose_clocks_differ_by_a_slot_recognise_one_another(now: float, skew_s: float) -> None:
    announced = [discovery_id(KEYS[b"notes"], now), "0123456789abcdef"]
    assert recognise(announced, KEYS, max(now + skew_s, 0)) == {b"notes"}


def test_ids_change_with_the_slot_and_old_ones_are_forgotten() -> None:
    first, later = discovery_id(KEYS[b"notes"], 0), discovery_id(KEYS[b"notes"], 900)
    assert first != later and len(first) == 16
    assert recognise([first], KEYS, 2000) == set()


def test_without_the_key_nobody_is_recognised() -> None:
    assert recognise([discovery_id(KEYS[b"notes"], 5e8)], {b"tasks": KEYS[b"tasks"]}, 5e8) == set()


@pytest.mark.parametrize("now", [float("nan"), float("inf"), -1e9, 1e300, 253402300800.0])
def test_a_clock_gone_wild_is_no_error(now: float) -> None:
    assert recognise([discovery_id(KEYS[b"notes"], now)], KEYS, now) == {b"notes"}
