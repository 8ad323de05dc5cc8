"""Epoch secrets reach whom they are for, and nobody else, through any number of rotations."""

from itertools import pairwise, permutations

import pytest

from crdtlog.device import Device, device_from_secrets
from crdtlog.membership import Rotate, decode_content, encode_content
from crdtlog.rotation import epoch_id, new_secret, rotate, secrets_from

DATABASE, OTHER = b"d" * 32, b"e" * 32
ANT, BEE, CAT = (
    device_from_secrets(name, bytes([number]) * 32, bytes([number + 100]) * 32)
    for number, name in enumerate(("ant", "bee", "cat"), 1)
)


def keys(*devices: Device) -> dict[bytes, bytes]:
    return {device.id: device.public.receive_key for device in devices}


def received(device: Device, *records: Rotate, database: bytes = DATABASE) -> dict[bytes, bytes]:
    return secrets_from(database, device, records, {})


def test_a_secret_reaches_those_it_is_wrapped_for() -> None:
    record, secret = rotate(DATABASE, {}, keys(ANT, BEE))
    assert record.epoch == epoch_id(secret)
    assert received(ANT, record) == received(BEE, record) == {record.epoch: secret}
    assert received(CAT, record) == {}
    assert received(ANT, record, database=OTHER) == {}
    assert secret not in encode_content(record)


def test_no_two_rotations_are_alike() -> None:
    (one, first), (other, second) = rotate(DATABASE, {}, keys(ANT)), rotate(DATABASE, {}, keys(ANT))
    assert first != second
    assert one.epoch != other.epoch
    assert one.wrapped != other.wrapped


def test_a_record_crosses_a_log_as_it_is() -> None:
    record, _ = rotate(DATABASE, dict([new_secret(), new_secret()]), keys(ANT, BEE, CAT))
    assert decode_content(encode_content(record)) == record


def chain(length: int, *, history: bool = True) -> tuple[list[Rotate], dict[bytes, bytes]]:
    """Rotations one after the other, the last one for the cat, too; and all secrets."""
    first, secret = new_secret()
    known = {first: secret}
    records: list[Rotate] = []
    for number in range(length):
        whom = keys(ANT, BEE, CAT) if number == length - 1 else keys(ANT, BEE)
        last = records[-1].epoch if records else first
        record, secret = rotate(DATABASE, {last: known[last]}, whom, unsealed=[] if history else [last])
        records.append(record)
        known[record.epoch] = secret
    return records, known


def test_who_comes_late_reads_all_that_was_before() -> None:
    records, known = chain(5)
    assert received(CAT, *records) == known
    assert received(CAT, *reversed(records)) == known
    assert received(CAT, *records[:-1]) == {}


def test_a_long_chain_is_no_deep_one() -> None:
    records, known = chain(3_000)
    assert received(CAT, *records) == known


def test_without_history_it_ends_at_the_rotation() -> None:
    records, known = chain(3, history=False)
    assert received(CAT, *records) == {records[-1].epoch: known[records[-1].epoch]}
    assert records[-1].parents == (records[-2].epoch,)


def test_rotations_made_apart_come_together() -> None:
    first, secret = new_secret()
    (one, a), (other, b) = (rotate(DATABASE, {first: secret}, keys(ANT, BEE)) for _ in range(2))
    both, c = rotate(DATABASE, {one.epoch: a, other.epoch: b}, keys(CAT))
    for order in permutations([one, other, both]):
        assert received(CAT, *order) == {first: secret, one.epoch: a, other.epoch: b, both.epoch: c}


def test_what_is_held_already_needs_no_record() -> None:
    first, secret = new_secret()
    record, later = rotate(DATABASE, {first: secret}, keys(ANT))
    assert secrets_from(DATABASE, CAT, [record], {record.epoch: later}) == {
        record.epoch: later,
        first: secret,
    }


@pytest.mark.parametrize("part", ["wrapped", "sealed"])
def test_no_changed_bit_gives_another_secret(part: str) -> None:
    first, secret = new_secret()
    record, later = rotate(DATABASE, {first: secret}, keys(ANT))
    ((name, blob),) = getattr(record, part)
    for at in range(len(blob)):
        changed = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        found = received(ANT, record._replace(**{part: ((name, changed),)}))
        assert found == ({} if part == "wrapped" else {record.epoch: later})
    for short in (b"", blob[:-1], blob + b"x"):
        assert first not in received(ANT, record._replace(**{part: ((name, short),)}))


def test_a_secret_under_another_epoch_s_name_is_none() -> None:
    """A lying member cannot have two devices use two secrets for one epoch, or one that others chose."""
    good, secret = rotate(DATABASE, {}, keys(ANT))
    bad, _ = rotate(DATABASE, {}, keys(ANT))
    assert received(ANT, bad._replace(epoch=good.epoch)) == {}
    first, _ = new_secret()
    record, _ = rotate(DATABASE, {first: b"x" * 32}, keys(ANT))
    assert first not in received(ANT, record)
    for one, other in pairwise([good, bad, good]):
        assert received(ANT, one, other._replace(epoch=one.epoch), one).get(good.epoch, secret) == secret


def test_a_device_whose_key_is_none_stops_nobody() -> None:
    record, secret = rotate(DATABASE, {}, {**keys(ANT), b"z" * 16: bytes(32), b"y" * 16: b"short"})
    assert [device for device, _ in record.wrapped] == [ANT.id]
    assert received(ANT, record) == {record.epoch: secret}
