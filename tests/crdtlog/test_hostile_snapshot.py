"""Snapshots that an admin has made wrong: refused with the documented errors, and the file stays as it was."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog import entry
from crdtlog.abridged import parts
from crdtlog.abridged.parts import Begin, End, Logged, Part
from crdtlog.database import Database
from crdtlog.device import Device, new_writer
from crdtlog.errors import CrdtlogError, EntryRefused, Malformed, SchemaRefused, TooLarge
from crdtlog.values import pack, unpack
from tests.crdtlog.devices import World, apply_all, pair, quick_directory, rows_of, sync
from tests.crdtlog.grouped import MERGING


def some(world: World) -> tuple[Database, Database, list[bytes]]:
    """A database with conflicts, texts and deleted rows, a device that awaits a snapshot, and its parts."""
    one, other = pair(world, *MERGING)
    one.track("t", {"body": "text", "n": "counter", "tags": "set", "doc": "json"})
    one.execute("INSERT INTO t VALUES ('x', 'a text', 1, '[1]', '{}', 0), ('y', 'more', 2, '[]', '[]', 0)")
    sync(one, other)
    for db in (one, other):
        db.execute("UPDATE t SET body = body || ?, n = n + 1, plain = ?", (db.device.name, db.device.name))
        db.drain_all()
    sync(one, other)
    one.execute("DELETE FROM t WHERE id = 'y'")
    late = world.join("late", one, "writer", history=False)
    return one, late, [part.signed for part in one.snapshot_parts()]


def signed_again(
    signed: Sequence[bytes], device: Device, change: Callable[[int, bytes], bytes]
) -> list[bytes]:
    """The same parts with other payloads, as `change(number, payload)` gives them, signed and chained anew."""
    before, writer, result = b"", new_writer(device), []
    for number, blob in enumerate(signed, 1):
        item = entry.decode(entry.split(blob).body)
        raw = change(number, item.payload())
        item = replace(item, writer=writer, previous=before, raw_size=len(raw), packed=entry.compress(raw))
        made = entry.sign(item, device)
        before = made.hash
        result.append(made.bytes())
    return result


def changed(signed: Sequence[bytes], device: Device, change: Callable[[Part], Part]) -> list[bytes]:
    """The same with parts changed."""
    return signed_again(signed, device, lambda _, raw: parts.encode(change(parts.decode(raw))))


def assert_still_waiting(late: Database) -> None:
    assert late.awaits_snapshot
    assert late.heads() == {}
    assert rows_of(late) == []
    assert late.execute("SELECT count(*) FROM crdtlog__loser").fetchone() == (0,)


def test_only_an_admin_is_believed(world: World) -> None:
    one, late, signed = some(world)
    writer = world.join("writer", one, "writer")
    with pytest.raises(EntryRefused, match="no admin"):
        apply_all(late, signed_again(signed, writer.device, lambda _, raw: raw))
    tampered = [signed[0][:-1] + bytes([signed[0][-1] ^ 1]), *signed[1:]]
    with pytest.raises(EntryRefused, match="wrong signature"):
        apply_all(late, tampered)
    assert_still_waiting(late)


def test_parts_that_are_lost_or_of_another_snapshot_bring_nothing(world: World) -> None:
    one, late, signed = some(world)
    other = [part.signed for part in one.snapshot_parts()]
    for wrong in (signed[:-1], [*signed[:1], *signed[2:]], [*signed[:2], *other[2:]]):
        apply_all(late, wrong)
        assert_still_waiting(late)
    apply_all(late, signed)
    assert rows_of(late) == rows_of(one)
    apply_all(late, signed)  # once more changes nothing
    assert rows_of(late) == rows_of(one)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda part: part._replace(number=99) if isinstance(part, End) else part, "another one's"),
        (
            lambda part: Logged(part.items[:-1]) if isinstance(part, Logged) else part,
            "without some|continues",
        ),
        (
            lambda part: (
                part._replace(applied=[n + 1 for n in part.applied]) if isinstance(part, Begin) else part
            ),
            "without some entries",
        ),
        (
            lambda part: (
                Logged([item._replace(hash=bytes(32)) for item in part.items])
                if isinstance(part, Logged)
                else part
            ),
            "hash",
        ),
        (
            lambda part: (
                Logged([item._replace(abridged=True) for item in part.items])
                if isinstance(part, Logged)
                else part
            ),
            "without what",
        ),
        (
            lambda part: (
                part._replace(writers=[w + 50 for w in part.writers])
                if isinstance(part, parts.Rows)
                else part
            ),
            "does not name",
        ),
        (
            lambda part: part._replace(table=b"no table") if isinstance(part, parts.Losers) else part,
            "nobody tracks",
        ),
    ],
)
def test_what_does_not_hold_together_is_refused_whole(
    world: World, change: Callable[[Part], Part], error: str
) -> None:
    one, late, signed = some(world)
    with pytest.raises((EntryRefused, Malformed), match=error):
        apply_all(late, changed(signed, one.device, change))
    assert_still_waiting(late)
    apply_all(late, signed)
    assert rows_of(late) == rows_of(one)


@given(st.integers(0, 2**32))
def test_whatever_is_changed_in_it_nothing_but_the_documented_errors_comes_out(seed: int) -> None:
    chance = random.Random(seed)

    def change(number: int, raw: bytes) -> bytes:
        if number != at:
            return raw
        if chance.random() < 0.5:
            return pack(_mangled(unpack(raw), chance))
        place = chance.randrange(len(raw))
        return (
            raw[:place] + chance.randbytes(chance.randrange(3)) + raw[place + chance.randrange(3) :] or b"\0"
        )

    with quick_directory() as directory, World(directory) as world:
        one, late, signed = some(world)
        for _ in range(20):
            at = chance.randrange(1, len(signed) + 1)
            try:
                apply_all(late, signed_again(signed, one.device, change))
            except (EntryRefused, Malformed, TooLarge, SchemaRefused) as error:
                assert isinstance(error, CrdtlogError)
            if not late.awaits_snapshot:
                return  # nothing that matters was changed, or nothing that can be checked
            assert_still_waiting(late)
        apply_all(late, signed)
        assert rows_of(late) == rows_of(one)


def _mangled(item: object, chance: random.Random) -> object:
    """A value with something in it replaced."""
    if isinstance(item, list) and item and chance.random() < 0.85:
        at = chance.randrange(len(item))
        match chance.randrange(6):
            case 0:
                return [*item[:at], *item[at + 1 :]]
            case 1:
                return [*item[: at + 1], *item[at:]]
            case _:
                return [*item[:at], _mangled(item[at], chance), *item[at + 1 :]]
    wrong = [None, -1, 0, 1, 1 << 62, (1 << 64) - 1, 0.5, "", "x", "\udcff", b"", b"x" * 24, [], [[]], True]
    return chance.choice(wrong)
